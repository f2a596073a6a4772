"""Run all benchmarks, one after the other, and write their tables into docs/performance.md.

With names of benchmarks (engine, index ...) only these run, and the page is left as it is.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from harness import PUBLISHED

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "performance.md"
BEGIN, END = "<!-- begin of what `make bench` writes -->", "<!-- end of what `make bench` writes -->"
_PACKAGES = ("numpy", "scipy", "astropy", "numba", "distributed")


def main() -> None:
    """Import the ``bench_*.py`` beside this file and run them."""
    wanted = sys.argv[1:]
    sections = []
    for path in sorted(FOLDER.glob("bench_*.py")):
        name = path.stem.removeprefix("bench_")
        if wanted and name not in wanted:
            continue
        print(path.stem)
        before = len(PUBLISHED)
        importlib.import_module(path.stem).main()
        tables = "\n".join(table.markdown() for table in PUBLISHED[before:])
        sections.append(f"### {name}\n\n{tables}")
    text = "\n".join([_machine(), "", *sections])
    if wanted:
        print(text)
    else:
        write_page(text)


def write_page(text: str) -> None:
    """Put the tables of a run between the marks of the page."""
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{tail}", encoding="utf-8")
    print(f"wrote {PAGE}")


def _machine() -> str:
    """Return what the figures hold for."""
    processor = "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8"))
        processor = found[1] if found else processor
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    load = ", ".join(f"{entry:.1f}" for entry in os.getloadavg())
    cores = len(os.sched_getaffinity(0))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {processor}, {cores} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {packages}. Load averages (1, 5, 15 min) at the end: {load}."
    )


if __name__ == "__main__":
    main()
