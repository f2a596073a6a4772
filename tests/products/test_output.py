"""What a product may take the place of: itself, and nothing else."""

from __future__ import annotations

import errno
import gzip
import os
import resource
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.errors import OutputError
from permil.products import atomic_output, check_output, read_table, write_hdus, write_image, write_table

ONES = np.ones((4, 5))


def _write_image(path: Path) -> None:
    write_image(path, ONES, ONES, ONES, header={"DETECTOR": "R22_S11"})


def _write_text(path: Path) -> None:
    with atomic_output(path) as temporary:
        temporary.write_text("camera: lsstcam\n")


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    path = tmp_path / "raw.fits"
    fits.HDUList([fits.PrimaryHDU(header=fits.Header([("ORIGIN", "SLAC")])), fits.ImageHDU(ONES)]).writeto(path)
    return path


def test_a_product_may_be_written_again(tmp_path: Path) -> None:
    for suffix in ("fits", "ecsv", "parquet"):
        for _ in range(2):
            write_table(tmp_path / f"table.{suffix}", Table({"a": [1, 2]}))
        assert list(read_table(tmp_path / f"table.{suffix}")["a"]) == [1, 2]
    for _ in range(2):
        _write_image(tmp_path / "image.fits")
        write_hdus(tmp_path / "plain.fits", [fits.PrimaryHDU(ONES)])
        _write_text(tmp_path / "config.yaml")
    assert len(list(tmp_path.iterdir())) == 6


def test_origin_is_written_last(tmp_path: Path, foreign: Path) -> None:
    """A card of a header that is handed on does not make a product look like a file of another program."""
    header = fits.getheader(foreign)
    for _ in range(2):
        write_hdus(tmp_path / "out.fits", [fits.PrimaryHDU(ONES, header=header)])
    assert fits.getheader(tmp_path / "out.fits")["ORIGIN"] == "permil"


@pytest.mark.parametrize("cards", [[("ORIGIN", "SLAC")], [], [("OBSID", "permil")]])
def test_file_of_another_program_is_not_replaced(tmp_path: Path, cards: list[tuple[str, str]]) -> None:
    path = tmp_path / "raw.fits"
    fits.PrimaryHDU(ONES, header=fits.Header(cards)).writeto(path)
    before = path.read_bytes()
    (tmp_path / "link.fits").symlink_to("raw.fits")
    os.link(path, tmp_path / "hard.fits")
    for name in ("raw.fits", "link.fits", "hard.fits"):
        with pytest.raises(OutputError, match=f"{name}: is a FITS file that permil did not write"):
            _write_image(tmp_path / name)
        with pytest.raises(OutputError, match="did not write"):
            write_table(tmp_path / name, Table({"a": [1]}))
    assert path.read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"raw.fits", "link.fits", "hard.fits"}


def test_file_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    _write_image(tmp_path / "image")
    write_table(tmp_path / "table.ecsv", Table({"a": [1]}))
    _write_text(tmp_path / "text")
    (tmp_path / "table.ecsv").rename(tmp_path / "table")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, what in (
        ("image", "is a FITS file, but the product is text"),
        ("table", "is an ECSV table, but the product is text"),
    ):
        with pytest.raises(OutputError, match=what):
            _write_text(tmp_path / name)
    for name, what in (
        ("table", "is an ECSV table, but the product is a FITS file"),
        ("text", "is text, but the product is a FITS file"),
    ):
        with pytest.raises(OutputError, match=what):
            _write_image(tmp_path / name)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("suffix", ["gz", "bz2"])
def test_compressed_files(tmp_path: Path, suffix: str) -> None:
    own, foreign = tmp_path / f"own.fits.{suffix}", tmp_path / f"raw.fits.{suffix}"
    fits.PrimaryHDU(ONES).writeto(foreign)
    for _ in range(2):
        write_hdus(own, [fits.PrimaryHDU(ONES)])
    with pytest.raises(OutputError, match="is a FITS file that permil did not write"):
        write_hdus(foreign, [fits.PrimaryHDU(ONES)])
    (tmp_path / "archive.tar.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(OutputError, match="is a compressed file, but the product is a FITS file"):
        write_hdus(tmp_path / "archive.tar.gz", [fits.PrimaryHDU(ONES)])


@pytest.mark.parametrize("content", [b"", b"\x00" * 5000, b"\xff\xfe" * 1000, b"SIMPLE  =  nonsense"])
def test_what_is_left_of_a_damaged_product_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "flat.fits"
    path.write_bytes(content)
    _write_image(path)
    assert fits.getdata(path, "IMAGE").shape == ONES.shape


def test_devices_pipes_sockets_and_folders_stay(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(tmp_path / "socket"))
        for name, what in (
            ("pipe", "a pipe"),
            ("folder", "a folder"),
            ("socket", "a socket"),
            ("link", "a pipe"),
            ("null", "a device"),
        ):
            with pytest.raises(OutputError, match=f"{name}: is {what}, not a file to write"):
                _write_text(tmp_path / name)
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    assert (tmp_path / "null").is_symlink()


def test_inputs_are_found_by_links_too(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes.ecsv"
    write_table(nodes, Table({"a": [1]}))
    (tmp_path / "link.ecsv").symlink_to("nodes.ecsv")
    os.link(nodes, tmp_path / "hard.ecsv")
    for name in ("nodes.ecsv", "link.ecsv", "hard.ecsv", "../" + tmp_path.name + "/nodes.ecsv"):
        with pytest.raises(OutputError, match="is an input of this product"):
            check_output(tmp_path / name, inputs=[tmp_path / "missing", nodes])
    assert check_output(tmp_path / "other.ecsv", inputs=[nodes]) == tmp_path / "other.ecsv"


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out.fits").symlink_to("disk/flat.fits")
    for _ in range(2):
        _write_image(tmp_path / "out.fits")
    assert (tmp_path / "out.fits").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["flat.fits"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="loop: cannot be written"):
        _write_text(tmp_path / "loop")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_protected_file_is_not_replaced(tmp_path: Path) -> None:
    _write_text(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").chmod(0o444)
    with pytest.raises(OutputError, match="write-protected"):
        _write_text(tmp_path / "config.yaml")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_are_those_of_the_user(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        _write_text(tmp_path / "config.yaml")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "config.yaml").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("length", [200, 250, 255])
def test_long_names(tmp_path: Path, length: int) -> None:
    name = "é" * ((length - 5) // 2) + ".ecsv"
    write_table(tmp_path / name, Table({"a": [1]}))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(OutputError, match="File name too long"):
        write_table(tmp_path / ("x" * 300 + ".ecsv"), Table({"a": [1]}))


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file grow beyond 4 kB, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_that_cannot_grow_is_one_sentence(tmp_path: Path, small_files: None) -> None:
    big = np.arange(10_000.0)
    for name in ("table.ecsv", "table.parquet", "table.fits"):
        with pytest.raises(OutputError, match=f"{name}: cannot be written .*; free some space") as caught:
            write_table(tmp_path / name, Table({"a": big}))
        assert caught.value.data["errno"] in (errno.EFBIG, None)
    with pytest.raises(OutputError, match=r"image\.fits: cannot be written"):
        write_image(tmp_path / "image.fits", big[None], big[None], big[None])
    assert list(tmp_path.iterdir()) == []
