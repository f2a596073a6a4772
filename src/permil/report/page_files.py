"""Pages on disk: where they lie, what they say they were made from, and how they are written."""

from __future__ import annotations

import re
from pathlib import Path

from permil.products import RunFolder, atomic_output, stored_fingerprint
from permil.products.fingerprint import file_signature

LAYOUT = 5
"""Number of the layout of the pages: one more whenever pages of the same products would look different."""

_HEAD_CHARACTERS = 2000


def detector_path(folder: RunFolder, led: str, detector: str) -> Path:
    """Return where the page of a detector and LED lies."""
    return folder.report.parent / "detectors" / led / f"{detector}.html"


def joint_path(folder: RunFolder, led: str) -> Path:
    """Return where the page of the joint solution of an LED lies."""
    return folder.report.parent / "joint" / f"{led}.html"


def spots_path(folder: RunFolder, detector: str, band: str) -> Path:
    """Return where the page of the artificial stars of a detector and band lies; ``band`` may be empty."""
    return folder.report.parent / "spots" / ("_".join(part for part in (detector, band) if part) + ".html")


def compare_path(folder: RunFolder, detector: str, band: str) -> Path:
    """Return where the page lies that compares the stars of a detector and band with its flat; ``band`` may be empty."""
    return folder.report.parent / "compare" / ("_".join(part for part in (detector, band) if part) + ".html")


def page_fingerprint(path: Path) -> str | None:
    """Return what a page says it was made from, None if there is no such page."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as stream:
        found = re.search(r'<meta name="permil-fingerprint" content="([0-9a-f]+)">', stream.read(_HEAD_CHARACTERS))
    return found.group(1) if found else None


def source_fingerprint(path: Path) -> str:
    """Return the fingerprint in a product, or the signature of a file that carries none."""
    return stored_fingerprint(path) or str(file_signature(path))


def write_page(path: Path, text: str) -> None:
    """Write a page; it appears complete or not at all."""
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_stale_pages(folder: RunFolder, wanted: set[Path]) -> None:
    """Remove pages of what the run no longer has: nothing leads there any more."""
    pages = folder.report.parent
    for pattern in ("detectors/*/*.html", "joint/*.html", "spots/*.html", "compare/*.html"):
        for path in pages.glob(pattern):
            if path not in wanted:
                path.unlink()
