"""Fingerprints of the inputs of products, so that a run repeats only tasks whose inputs have changed.

A fingerprint is a digest of the options, the input files (path, size, modification time) and the fingerprints of upstream products.
It is stored in the product itself: a product that exists is complete, and its fingerprint shows whether it is current.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from astropy.io import fits

from permil import __version__
from permil.errors import InputError
from permil.products.fits import FINGERPRINT_CARD, whole_file
from permil.products.tables import read_meta

FINGERPRINT_META = "permil-fingerprint"
"""Name of the meta element of a page that holds its fingerprint."""
_PAGE_FINGERPRINT = re.compile(rf'<meta name="{FINGERPRINT_META}" content="([0-9a-f]+)">')
_HEAD_CHARACTERS = 2000
_FITS_BLOCK = 2880
"""Bytes of a block of a FITS file."""


def file_signature(path: str | Path) -> list[Any]:
    """Return path, size and modification time of an input file; the path alone if it is missing."""
    path = Path(path)
    try:
        status = path.stat()
    except OSError:
        return [str(path)]
    return [str(path), status.st_size, status.st_mtime_ns]


def fingerprint(options: Any, *, files: Iterable[str | Path] = (), upstream: Iterable[str] = ()) -> str:
    """Return the digest of everything a product depends on.

    Parameters
    ----------
    options
        Any value that JSON can represent.
    files
        Input files.
    upstream
        Fingerprints of the products used as input.
    """
    content = {
        "version": __version__,
        "options": options,
        "files": [file_signature(path) for path in files],
        "upstream": sorted(upstream),
    }
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def stored_fingerprint(path: str | Path) -> str | None:
    """Return the fingerprint in a product, None if the product is missing, unreadable or has none."""
    path = Path(path)
    if not path.is_file():
        return None
    try:
        if path.suffix == ".html":
            with path.open(encoding="utf-8", errors="replace") as stream:
                found = _PAGE_FINGERPRINT.search(stream.read(_HEAD_CHARACTERS))
            return found[1] if found else None
        if path.suffix != ".fits":
            return read_meta(path).get("fingerprint")
        if path.stat().st_size % _FITS_BLOCK:
            # Cut short.
            return None
        with whole_file(path):
            return fits.getheader(path, 0).get(FINGERPRINT_CARD)
    except (OSError, ValueError, InputError):
        return None


def source_fingerprint(path: str | Path) -> str:
    """Return the fingerprint in a product, or the signature of a file without one."""
    return stored_fingerprint(path) or str(file_signature(path))


def is_current(path: str | Path, expected: str) -> bool:
    """Return whether a product exists and has the expected fingerprint."""
    return stored_fingerprint(path) == expected
