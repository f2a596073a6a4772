"""Write the products of a run as a plain tree of curated calibrations, without a repository."""

from __future__ import annotations

import re
from pathlib import Path

from astropy.io import fits

from permil.butler.curated import (
    UNBOUNDED,
    RunProduct,
    content_digest,
    find_calibrations,
    stored_digest,
    write_curated,
)
from permil.errors import InputError, OutputError
from permil.products import read_table

INSTRUMENT = "LSSTCam"
"""Default name of the instrument."""
_UNSAFE = re.compile(r"[^\w.+~\-]")


def export_curated(
    root: str | Path, out: str | Path, *, begin: str = "", end: str = "", instrument: str = INSTRUMENT
) -> list[str]:
    """Write the products of a run as ``<instrument>/<kind>/<detector>/<filter>/<begin>.<suffix>``, in lower case.

    Kinds are ``flat``, ``efficiency_flat``, ``mosaic``, ``defects``, ``gain_ratios`` and ``summary``; detector and filter are missing
    where they do not apply. The begin of the validity is ``YYYYMMDDTHHMMSS``, 19700101T000000 without one. Headers have the cards of
    curated calibrations of the LSST stack. A file with the same content is left as it is, one with another content is never replaced.

    Parameters
    ----------
    root
        Folder of the run.
    out
        Folder of the tree.
    begin, end
        Validity, TAI; see `permil.butler.PutOptions`.
    instrument
        Name of the instrument.

    Returns
    -------
    list of str
        A summary, one line.

    Raises
    ------
    InputError
        If the run has no flat, a product cannot be read, a date is wrong, or the instrument has no name.
    OutputError
        If a file cannot be written, or exists with another content.

    Examples
    --------
    >>> from permil.butler import export_curated
    >>> export_curated("out", "calibrations", begin="2021-12-01")  # doctest: +SKIP
    """
    if not instrument.strip():
        raise InputError("the name of the instrument is empty", path=root, remedy=f"give --instrument, such as {INSTRUMENT}")
    out = Path(out)
    found = find_calibrations(Path(root), begin=begin, end=end)
    date = UNBOUNDED if found.begin is None else found.begin.isot[:19]
    stem = re.sub("[-:]", "", date)
    planned = [(product, out / _place(product, instrument, stem), content_digest(product)) for product in found.products]
    for product, path, digest in planned:
        if path.exists() and _digest_of(path) != digest:
            raise OutputError(
                f"a {product.kind} with different content already exists",
                path=path,
                remedy="choose another folder or validity, or remove the file",
            )
    new = [entry for entry in planned if not entry[1].exists()]
    for product, path, digest in new:
        cards = found.cards(product, instrument=instrument, physical_filter=product.led)
        write_curated(product, path, cards, digest=digest)
    return [f"{len(new)} files written to {out}, {len(planned) - len(new)} were there already"]


def _place(product: RunProduct, instrument: str, stem: str) -> Path:
    """Return the path of a product in the tree."""
    folders = [instrument, product.kind, product.detector, product.led]
    names = [_UNSAFE.sub("-", name.lower()) for name in folders if name]
    return Path(*names) / f"{stem}{product.path.suffix}"


def _digest_of(path: Path) -> str:
    """Return the digest in a file, "" if it has none or cannot be read."""
    try:
        return stored_digest(fits.getheader(path) if path.suffix == ".fits" else read_table(path).meta)
    except Exception:  # noqa: BLE001 - a file that cannot be read is not the product
        return ""
