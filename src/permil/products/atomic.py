"""Atomic writing: a product appears under its name only when complete, and never replaces an input."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import errno
import filecmp
import gzip
import os
import re
import stat
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from permil.errors import OutputError

ORIGIN_CARD = "ORIGIN"
PROGRAM = "permil"
"""Value of the card ORIGIN in the primary header of every FITS product."""

_BLOCK = 2880
_LONGEST_HEADER = 100 * _BLOCK
_LONGEST_PREFIX = 100
_SIGNATURES = {
    b"SIMPLE  =": "a FITS file",
    b"PAR1": "a Parquet table",
    b"\x89PNG": "a picture",
    b"# %ECSV": "an ECSV table",
    b"\x89HDF": "an HDF5 file",
    b"PK\x03\x04": "an archive",
    b"\x1f\x8b": "a compressed file",
    b"BZh": "a compressed file",
    b"\xfd7zXZ": "a compressed file",
    b"%PDF": "a document",
}
_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SPECIAL = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def make_folder(path: Path) -> Path:
    """Create a folder and its parents.

    Raises
    ------
    OutputError
        If the folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder cannot be created ({error.strerror})", path=path, remedy="choose a folder that you may write to"
        ) from error
    return path


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Convert an OSError raised while a file is written into an error that names the file.

    Raises
    ------
    OutputError
        If the context raises an OSError.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str | Path, error: OSError) -> OutputError:
    """Return the error for a file that cannot be written."""
    # NumPy and astropy set no errno: "7680 requested and 4096 written", "Not enough space on disk".
    if error.errno in _FULL or (error.errno is None and re.search(r"space|requested and \d+ written", str(error))):
        remedy = "free some space and run again"
    elif error.errno == errno.EIO:
        remedy = "check the disk and run again"
    else:
        remedy = "check the folder's permissions and run again"
    return OutputError(f"cannot be written ({error.strerror or error})", path=path, remedy=remedy, errno=error.errno)


def check_output(path: str | Path, *, inputs: Iterable[str | Path] = ()) -> Path:
    """Return the file that a product will be written to, with symbolic links resolved.

    Call this before a product is made from files given by the user.

    Parameters
    ----------
    path
        Path of the product.
    inputs
        Files that the product is made from.

    Raises
    ------
    OutputError
        If the path is that of an input (also through a link), a folder, a device, a pipe, a socket, a FITS file that this program did not
        write, or a write-protected file.
    """
    target = Path(os.path.realpath(path))
    with writing(path):
        try:
            there = target.stat()
        except (FileNotFoundError, NotADirectoryError):
            return target
    what = _SPECIAL.get(stat.S_IFMT(there.st_mode))
    if what is not None:
        raise OutputError(f"is {what}, not a file to write", path=path, remedy="give the path of a file")
    for entry in inputs:
        with contextlib.suppress(OSError):
            if os.path.samestat(Path(entry).stat(), there):
                raise OutputError(
                    "is an input of this product and would be overwritten",
                    path=path,
                    remedy="give another name, or copy the input elsewhere",
                    value=entry,
                )
    if _is_own_fits(target) is False:
        raise OutputError(
            f"is a FITS file that {PROGRAM} did not write and would be overwritten",
            path=path,
            remedy="give another name, or remove it first",
        )
    if not os.access(target, os.W_OK):
        raise OutputError("is write-protected", path=path, remedy="give another name, or change its permissions")
    return target


@contextlib.contextmanager
def atomic_output(path: str | Path, *, keep_same: bool = False) -> Iterator[Path]:
    """Yield a temporary file next to ``path``; it is renamed on success and removed on failure.

    A symbolic link is kept, and its target is replaced. With ``keep_same`` a file that has the same bytes already is left as it is, with
    its modification time, so that products made from it stay up to date.

    Raises
    ------
    OutputError
        If the file cannot be written (no space, no permission), or would replace a file that must be kept, see `check_output`, or a file of
        another kind (a FITS file in place of a table).
    """
    path = Path(path)
    target = check_output(path)
    make_folder(target.parent)
    temporary = None
    try:
        with writing(path):
            # The name keeps the suffix, from which writers choose the format.
            prefix, suffix = f".{path.name[:_LONGEST_PREFIX]}.", f".partial{path.suffix[:_LONGEST_PREFIX]}"
            handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=target.parent)
            temporary = Path(name)
            os.close(handle)
            yield temporary
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask())
            _require_same_kind(temporary, target, path)
            if not (keep_same and target.is_file() and filecmp.cmp(temporary, target, shallow=False)):
                temporary.replace(target)
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> int:
    """Remove temporary files of an interrupted run; return their number."""
    leftovers = [path for path in folder.rglob(".*.partial*") if path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def is_product(path: str | Path) -> bool:
    """Return whether a file is a FITS file that this program wrote."""
    return _is_own_fits(Path(path)) is True


def _is_own_fits(path: Path) -> bool | None:
    """Return whether this program wrote a FITS file; None for other files and truncated ones."""
    header = _begin(path, _LONGEST_HEADER)
    if not header.startswith(b"SIMPLE  ="):
        return None
    for start in range(0, len(header), 80):
        card = header[start : start + 80]
        if card.startswith(b"ORIGIN  ="):
            return PROGRAM.encode() in card
        if card.startswith(b"END     "):
            return False
    return None


def _require_same_kind(new: Path, old: Path, path: Path) -> None:
    before, now = _kind(old), _kind(new)
    if before and now and before != now:
        raise OutputError(
            f"is {before}, but the product is {now}", path=path, remedy="give another name, or remove it first", value=before
        )


def _kind(path: Path) -> str:
    """Return the kind of a file; "" if it is missing, empty or unknown."""
    begin = _begin(path, _BLOCK)
    for signature, kind in _SIGNATURES.items():
        if begin.startswith(signature):
            return kind
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(begin)
    except UnicodeDecodeError:
        return ""
    return "text" if text and "\0" not in text else ""


def _begin(path: Path, size: int) -> bytes:
    """Return the first bytes of a file, of a compressed FITS file after decompression; empty if it cannot be read."""
    try:
        with path.open("rb") as stream:
            begin = stream.read(size)
        for signature, opened in _COMPRESSED.items():
            if begin.startswith(signature):
                with opened(path, "rb") as stream:
                    inside = stream.read(size)
                return inside if inside.startswith(b"SIMPLE  =") else begin
    except (OSError, EOFError, zlib.error):
        return b""
    return begin


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
