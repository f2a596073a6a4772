"""Assembled images against an independent assembly by DETSEC, and the real file of the raft test stand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from permil.camera import Camera
from permil.errors import FileWarning, InputError, RawFormatError
from permil.exposures import assemble, read_raw
from permil.exposures.files import assemble_file

from .conftest import RawWriter


def limits(section: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", section)]


def assembled_by_headers(path: Path) -> np.ndarray:
    """Assemble by DATASEC and DETSEC alone, then mirror in y: DETSEC and the DM pixel frame differ by that."""
    with fits.open(path) as hdus:
        segments = [hdu for hdu in hdus if str(hdu.header.get("EXTNAME", "")).startswith("Segment")]
        places = np.array([limits(hdu.header["DETSEC"]) for hdu in segments])
        image = np.full((places[:, 2:].max(), places[:, :2].max()), -(2**31), dtype=np.int64)
        for hdu, (x1, x2, y1, y2) in zip(segments, places, strict=True):
            c1, c2, r1, r2 = limits(hdu.header["DATASEC"])
            trimmed = hdu.data[r1 - 1 : r2, c1 - 1 : c2]
            if x1 > x2:
                trimmed = trimmed[:, ::-1]
            if y1 > y2:
                trimmed = trimmed[::-1]
            image[min(y1, y2) - 1 : max(y1, y2), min(x1, x2) - 1 : max(x1, x2)] = trimmed
    assert (image > -(2**31)).all()
    return image[::-1]


@pytest.mark.parametrize("detector", ["R22_S11", "R02_S21", "R40_SG1", "R00_SW1"])
def test_equals_assembly_by_detsec(write_raw: RawWriter, bin8: Camera, detector: str) -> None:
    path = write_raw(detector)
    image = assemble(read_raw(path, bin8))
    assert image.shape == bin8[detector].shape
    assert image.dtype == np.int32
    np.testing.assert_array_equal(image, assembled_by_headers(path))


def test_extreme_integers_stay_exact(write_raw: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    def extremes(hdus: fits.HDUList) -> None:
        for hdu in hdus[1:17]:
            hdu.data[:] = np.random.default_rng(2).integers(-(2**31), 2**31, hdu.data.shape)

    path = write_raw(change=extremes)
    assemble_file(path, tmp_path / "out" / "image.fits", bin8)
    written = fits.getdata(tmp_path / "out" / "image.fits")
    assert written.dtype.kind == "i"
    np.testing.assert_array_equal(written, assembled_by_headers(path))


def test_header_of_the_product(write_raw: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    path = write_raw("R02_S21")
    assemble_file(path, tmp_path / "image.fits", bin8)
    with fits.open(tmp_path / "image.fits", checksum=True) as hdus:
        header = hdus[0].header
        assert (header["RAWFILE"], header["DETECTOR"], header["CAMERA"]) == (path.name, "R02_S21", "lsstcam-bin8")
        assert (header["OBSID"], header["EXPTIME"], header["BUNIT"]) == ("MC_C_20191028_000001", 0.32, "adu")
        hdus.verify("exception")


@pytest.mark.parametrize(
    ("name", "card", "written"),
    [
        ("EXPTIME", "EXPTIME =                  nan", None),
        ("EXPTIME", "EXPTIME =                 -inf", None),
        ("EXPTIME", "EXPTIME =                 0,07", None),
        ("EXPTIME", "EXPTIME =                    T", None),
        ("EXPTIME", "EXPTIME =           (0.1, 0.2)", None),
        ("EXPTIME", "EXPTIME =      123456789012345678901234567890", 1.2345678901234568e29),
        ("EXPTIME", "EXPTIME =", None),
        ("MJD-OBS", "MJD-OBS =                1E400", None),
        ("RUNNUM", "RUNNUM  = '68\xe91D   '", "68?1D"),
        ("RUNNUM", "RUNNUM  = '68\t1\0D\x7f'", "681D"),
        ("RUNNUM", "RUNNUM  = '6841D", None),
        ("RUNNUM", "runnum  = '6841D'", None),
        ("RUNNUM", "HIERARCH RUNNUM = '6841D'", None),
        ("RUNNUM", "RUNNUM  = '" + "''" * 34 + "'", "'" * 34),
        ("RUNNUM", "RUNNUM  = '" + "x" * 68 + "'", "x" * 68),
        ("RUNNUM", "RUNNUM  = 'long&'", "long&"),
        ("RUNNUM", "CONTINUE  'of nothing'", None),
        ("RUNNUM", "RUNNUM  = 6841", "6841"),
        ("RUNNUM", "RUNNUM  = 'a' 'b' \"c\" / d", None),
        ("DATE-OBS", "DATE-OBS= 2019-10-28T19:29:40", "2019-10-28T19:29:40"),
        ("DATE-OBS", "DATE-OBS  '2019-10-28'", None),
        ("OBSID", "COMMENT = OBSID  = 'x'", None),
    ],
)
def test_cards_that_no_standard_allows(
    write_raw: RawWriter, bin8: Camera, tmp_path: Path, name: str, card: str, written: object
) -> None:
    path = write_raw()
    content = bytearray(path.read_bytes())
    start = content.index(f"{name:<8}=".encode())
    content[start : start + 80] = card.encode("latin-1").ljust(80)[:80]
    path.write_bytes(content)
    assemble_file(path, tmp_path / "image.fits", bin8, checksums="off")
    with fits.open(tmp_path / "image.fits", checksum=True) as hdus:
        hdus.verify("exception")
        if written is not None:
            assert hdus[0].header[name] == (pytest.approx(written) if isinstance(written, float) else written)
        elif name in ("EXPTIME", "MJD-OBS"):
            assert name not in hdus[0].header
        assert hdus[0].header["DETECTOR"] == "R22_S11"
        np.testing.assert_array_equal(hdus[0].data, assembled_by_headers(write_raw(path="good.fits")))


def test_a_name_that_no_card_can_hold(write_raw: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    path = write_raw(path="d\u00e9tecteur_'R22_S11'" + "_x" * 60 + ".fits")
    assemble_file(path, tmp_path / "image.fits", bin8)
    assert fits.getheader(tmp_path / "image.fits")["RAWFILE"].startswith("d?tecteur_'R22_S11'_x_x")


def test_damaged_data_are_not_assembled(write_raw: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    path = write_raw()
    content = bytearray(path.read_bytes())
    content[80_000] ^= 4
    path.write_bytes(content)
    with pytest.raises(RawFormatError, match="its data have changed since they were written"):
        assemble_file(path, tmp_path / "image.fits", bin8)
    assert not (tmp_path / "image.fits").exists()
    with pytest.warns(FileWarning, match="its data have changed since they were written"):
        assemble_file(path, tmp_path / "image.fits", bin8, checksums="warn")


def test_all_segments_are_needed(write_raw: RawWriter, bin8: Camera) -> None:
    with pytest.raises(InputError, match="segment C10, C11"):
        assemble(read_raw(write_raw(), bin8, segments=["C14"]))


def test_nothing_is_written_for_a_bad_file(write_raw: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    path = write_raw(change=lambda hdus: hdus.pop("Segment05"))
    with pytest.raises(RawFormatError, match="Segment05"):
        assemble_file(path, tmp_path / "image.fits", bin8)
    assert not (tmp_path / "image.fits").exists()


def test_real_file_of_the_raft_test_stand(shared_data: Path, lsstcam: Camera) -> None:
    path = shared_data / "raw" / "201807241028453-RTM-010-S11-det067.fits"
    # Its blanked segments have the sums of the pixels that they had.
    image = assemble(read_raw(path, lsstcam, checksums="off"))
    np.testing.assert_array_equal(image, assembled_by_headers(path))
    # Segment00 alone was not blanked: it lies in the lower left corner of the DM pixel frame.
    lit = image > 0
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 2001, 0, 511)
