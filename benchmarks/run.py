"""Run all benchmarks, one after the other."""

from __future__ import annotations

import importlib
from pathlib import Path


def main() -> None:
    """Import every ``bench_*.py`` beside this file and run it."""
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        print(path.stem)
        importlib.import_module(path.stem).main()


if __name__ == "__main__":
    main()
