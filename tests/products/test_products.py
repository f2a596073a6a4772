"""Products are complete or absent, and come back as they were written."""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.errors import InputError, OutputError
from permil.products import (
    MaskPlane,
    atomic_output,
    is_good,
    is_usable,
    read_image,
    read_table,
    remove_partial_files,
    write_image,
    write_table,
)


@pytest.fixture
def product(tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    image = rng.normal(1, 0.01, (7, 9))
    mask = np.zeros((7, 9), dtype=np.int64)
    mask[2, 3] = MaskPlane.SAT | MaskPlane.BAD
    path = tmp_path / "product.fits"
    table = fits.BinTableHDU(Table({"a": [1.0, 2.0]}), name="NODES")
    write_image(
        path, image, mask, image**2, header={"LED": ("red", "LED"), "NOTHING": float("nan")}, image_cards={"BUNIT": "electron"},
        extensions=[table],
    )  # fmt: skip
    return path


def test_image_comes_back(product: Path) -> None:
    back = read_image(product)
    assert back.image.shape == (7, 9)
    assert back.image.dtype == np.float32
    assert back.mask[2, 3] == 3
    np.testing.assert_allclose(back.variance, back.image.astype(float) ** 2, rtol=1e-6)
    assert back.header["LED"] == "red"
    assert "NOTHING" not in back.header
    assert "NODES" in back.extensions


def test_layout_is_that_of_the_conventions(product: Path) -> None:
    with fits.open(product, checksum=True) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "IMAGE", "MASK", "VARIANCE", "NODES"]
        assert [hdus[name].header["BITPIX"] for name in ("IMAGE", "MASK", "VARIANCE")] == [-32, 32, -32]
        assert hdus["MASK"].header["MP_SAT"] == 1
        assert hdus["VARIANCE"].header["BUNIT"] == "(electron)2"
        assert all("CHECKSUM" in hdu.header and "DATASUM" in hdu.header for hdu in hdus)


def test_product_passes_fitsverify(product: Path) -> None:
    if shutil.which("fitsverify") is None:
        pytest.skip("fitsverify (Debian package of that name) is not installed")
    run = subprocess.run(["fitsverify", "-q", str(product)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    assert "verification OK" in run.stdout, run.stdout


def test_failure_leaves_the_old_product(product: Path) -> None:
    before = product.read_bytes()

    def write_half() -> None:
        with atomic_output(product) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_half()
    assert product.read_bytes() == before
    assert [path.name for path in product.parent.iterdir()] == [product.name]


def test_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fits.HDUList, "writeto", full)
    path = tmp_path / "flat.fits"
    with pytest.raises(
        OutputError, match=r"flat\.fits: cannot be written \(No space left on device\); free some space"
    ) as caught:
        write_image(path, np.ones((2, 2)), np.zeros((2, 2)), np.ones((2, 2)))
    assert caught.value.data["errno"] == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_folder_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file, not a folder")
    with pytest.raises(OutputError, match="choose a folder"):
        write_table(tmp_path / "out" / "table.ecsv", Table({"a": [1]}))


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".flat.fits.abc.partial.fits").write_bytes(b"half")
    (tmp_path / "deep" / "flat.fits").write_bytes(b"whole")
    assert remove_partial_files(tmp_path) == 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["flat.fits"]


@pytest.mark.parametrize("suffix", ["ecsv", "parquet"])
def test_table_comes_back(tmp_path: Path, suffix: str) -> None:
    table = Table({"detector": ["R22_S11", "R22_S12"], "x_mm": [1.5, np.nan]})
    path = tmp_path / f"table.{suffix}"
    write_table(path, table)
    back = read_table(path, columns=("detector", "x_mm"))
    assert list(back["detector"]) == ["R22_S11", "R22_S12"]
    np.testing.assert_array_equal(np.asarray(back["x_mm"], dtype=float), [1.5, np.nan])


def test_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gains.ecsv"
    write_table(path, Table({"detector": ["R22_S11"]}))
    with pytest.raises(InputError, match=r"gains\.ecsv: column gain is missing; a gain table needs detector, gain"):
        read_table(path, columns=("detector", "gain"), purpose="gain table")


@pytest.mark.parametrize("content", [b"", b"SIMPLE  =  nonsense", b"\x00" * 5000])
def test_damaged_image_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "flat.fits"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"flat\.fits: "):
        read_image(path)


def test_other_fits_is_not_a_product(tmp_path: Path) -> None:
    path = tmp_path / "other.fits"
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(path)
    with pytest.raises(InputError, match="extension IMAGE, MASK, VARIANCE is missing"):
        read_image(path)


def test_good_and_usable_differ_by_the_zones() -> None:
    planes = np.array([0, *[plane.value for plane in MaskPlane]])
    names = ["", *[plane.name for plane in MaskPlane]]
    assert {name for name, good in zip(names, is_good(planes), strict=True) if good} == {"", "REJECTED"}
    assert {name for name, usable in zip(names, is_usable(planes), strict=True) if usable} == {
        "", "EDGE", "MIDLINE", "REJECTED", "SUSPECT",
    }  # fmt: skip
