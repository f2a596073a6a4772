"""Run all benchmarks, one after the other, and write their tables into docs/performance.md.

With names of benchmarks (engine, index ...) only these run; the sections of the others stay as they are.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from harness import PUBLISHED

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "performance.md"
BEGIN, END = "<!-- begin of what `make bench` writes -->", "<!-- end of what `make bench` writes -->"
_PACKAGES = ("numpy", "scipy", "astropy", "distributed")


def main() -> None:
    """Run the ``bench_*.py`` beside this file, each in a process of its own: what one leaves in memory is not the next one's."""
    names = sys.argv[1:] or sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    if len(names) == 1:
        run(names[0])
        return
    for name in names:
        subprocess.run([sys.executable, __file__, name], check=True)  # noqa: S603


def run(name: str) -> None:
    """Run one benchmark and write its section of the page."""
    print(name)
    importlib.import_module(f"bench_{name}").main()
    write_section(name, f"{_machine()}\n\n" + "\n".join(table.markdown() for table in PUBLISHED))


def write_section(name: str, text: str) -> None:
    """Put the tables of one benchmark between the marks of the page, those of the others stay."""
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    middle, tail = rest.split(END)
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", middle, flags=re.MULTILINE | re.DOTALL))
    sections[name] = text
    written = "\n\n".join(f"### {title}\n\n{sections[title].strip()}" for title in sorted(sections))
    PAGE.write_text(f"{head}{BEGIN}\n\n{written}\n\n{END}{tail}", encoding="utf-8")
    print(f"wrote {name} into {PAGE}")


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
