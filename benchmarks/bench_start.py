"""How long the package and the command line take to start."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from harness import publish

REPEATS = 9


def main() -> None:
    """Time fresh interpreters, one program after the other in turn, and publish medians beside their limits."""
    permil = str(Path(sys.executable).with_name("permil"))
    programs = {
        "import permil": ([sys.executable, "-c", "import permil"], "0.2"),
        "permil --help": ([permil, "--help"], "0.3"),
        "Python alone": ([sys.executable, "-c", "pass"], ""),
        "import numpy": ([sys.executable, "-c", "import numpy"], ""),
        "import astropy": ([sys.executable, "-c", "import astropy"], ""),
        "import typer": ([sys.executable, "-c", "import typer"], ""),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for turn in range(REPEATS + 1):
        for name, (command, _) in programs.items():
            begin, used = time.perf_counter(), _processor_seconds()
            subprocess.run(command, check=True, capture_output=True)  # noqa: S603
            # The first turn reads the files from the disk.
            if turn:
                seconds[name].append((time.perf_counter() - begin, _processor_seconds() - used))
    rows = []
    for name, (_, limit) in programs.items():
        elapsed, processor = zip(*seconds[name], strict=True)
        rows.append(
            (name, f"{statistics.median(elapsed):.3f}", f"{min(elapsed):.3f}", f"{statistics.median(processor):.3f}", limit)
        )
    headings = ("program", "median s", "least s", "processor s", "limit s")
    publish("Start of a new process, files in the page cache", headings, rows)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
