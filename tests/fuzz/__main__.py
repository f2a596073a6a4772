"""Read damaged raw files for some time and say what became of them: `make fuzz SECONDS=600 SEED=1`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from .reading import Verdict
from .watch import examine_all

_AT_A_TIME = 5000
_CHECKED_PART = 0.2


def main() -> int:
    """Return 1 if anything does not hold that must."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--seed", type=int, default=1, help="of the damage")
    options = parser.parse_args()
    whole = _run(options.seed, options.seconds * (1 - _CHECKED_PART), checked=False)
    checked = _run(options.seed, options.seconds * _CHECKED_PART, checked=True)
    return int(whole or checked)


def _run(seed: int, seconds: float, *, checked: bool) -> bool:
    """Examine files for some time; return whether there was any fault."""
    verdicts: list[tuple[int, Verdict]] = []
    end: float | None = None
    first = 0
    while end is None or time.monotonic() < end:
        for number, verdict in examine_all(range(first, first + _AT_A_TIME), seed, checked=checked):
            # Time counts from the first answer: before, the good files are made.
            end = end or time.monotonic() + seconds
            verdicts.append((number, verdict))
            if verdict.fault:
                print(f"FAULT seed {seed} number {number} {verdict.layout} ({verdict.damage}): {verdict.fault}", flush=True)
            if time.monotonic() > end:
                break
        first += _AT_A_TIME
    outcomes = Counter(verdict.outcome or "no outcome" for _, verdict in verdicts)
    faults = [verdict for _, verdict in verdicts if verdict.fault]
    slowest = max(verdicts, key=lambda each: each[1].seconds)
    largest = max(verdicts, key=lambda each: each[1].growth)
    print(f"reading and reduction{' with checked kernels' if checked else ''}, seed {seed}: {len(verdicts)} files")
    print("  " + ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items())) + f"; {len(faults)} faults")
    print(f"  slowest: {slowest[1].seconds:.2f} s (number {slowest[0]}, {slowest[1].damage})")
    print(f"  most memory: {largest[1].growth / 2**20:.0f} MiB (number {largest[0]}, {largest[1].damage})", flush=True)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
