"""The command line as its user meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from permil.camera import Camera
from permil.config.example import example_yaml
from permil.exposures import assemble, read_raw
from permil.products import RunFolder, read_image, read_table, write_image
from permil.truth import compare_with_truth

from .conftest import DETECTOR, Permil, raw_files


def test_example_configuration_is_the_documented_one() -> None:
    documented = Path(__file__).resolve().parents[2] / "docs" / "example.yaml"
    assert documented.read_text(encoding="utf-8") == example_yaml(), "run: permil config example > docs/example.yaml"


def test_example_configuration_is_valid(permil: Permil, tmp_path: Path) -> None:
    code, text, _ = permil("config", "example")
    assert code == 0
    config = tmp_path / "config.yaml"
    config.write_text(text)
    code, _, messages = permil("run", config)
    assert (code, "exposures.roots" in messages) == (2, True)


def test_help_starts_without_the_heavy_libraries() -> None:
    code = "import sys; sys.argv = ['permil', '--help']\nfrom permil.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "print(sorted(set(sys.modules) & {'numpy', 'scipy', 'astropy', 'matplotlib'}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert run.stdout.splitlines()[-1] == "[]"


def test_index_of_folders(permil: Permil, campaign: Path, tmp_path: Path) -> None:
    out = tmp_path / "exposures.parquet"
    code, _, messages = permil(
        "index", campaign / "raw" / "6840D", campaign / "raw" / "6841D", "--out", out, "--camera", "lsstcam-bin8"
    )
    assert code == 0, messages
    assert len(read_table(out)) == 64 + 25 + 4
    assert "64 scan red exposures" in messages


def test_assemble_is_exact(permil: Permil, campaign: Path, tmp_path: Path, bin8: Camera) -> None:
    raw = raw_files(campaign, "6841D/BOT_acq/v0/*/ccob_*")[0]
    out = tmp_path / "assembled.fits"
    assert permil("assemble", raw, "--out", out, "--camera", "lsstcam-bin8")[0] == 0
    image = fits.getdata(out)
    assert image.dtype.kind == "i"
    np.testing.assert_array_equal(image, assemble(read_raw(raw, bin8)))


@pytest.fixture
def flats(reduced: Path) -> RunFolder:
    return RunFolder(reduced)


def test_flat_diff_says_what_the_truth_comparison_says(permil: Permil, flats: RunFolder, bin8: Camera, tmp_path: Path) -> None:
    made, true = flats.flat("red", DETECTOR), flats.truth_flat("red", DETECTOR)
    code, out, messages = permil("flat", "diff", made, true, "--out", tmp_path / "ratio.fits")
    assert code == 0, messages
    (row,) = compare_with_truth(flats, bin8, super_pixel_mm=0.64)
    assert f"{1e3 * row['rms_super']:.4f}" in out
    assert f"{row['scale']:.6f}" in out
    assert "C14" in out
    ratio = read_image(tmp_path / "ratio.fits")
    good = ratio.mask == 0
    assert np.median(ratio.image[good]) == pytest.approx(row["scale"], abs=2e-6)


def test_flat_apply_flattens(permil: Permil, flats: RunFolder, bin8: Camera, tmp_path: Path) -> None:
    made, true = flats.flat("red", DETECTOR), read_image(flats.truth_flat("red", DETECTOR))
    for product, kind in ((made, "flat"), (flats.superbias(DETECTOR), "superbias")):
        header = read_image(product).header
        assert (header["PRODUCT"], header["LSST_NUM"]) == (kind, bin8[DETECTOR].serial)
    image = tmp_path / "image.fits"
    write_image(image, 1000 * true.image, true.mask, np.ones(true.image.shape), header={"DETECTOR": DETECTOR})
    code, out, messages = permil("flat", "apply", made, image, "--out", tmp_path / "flattened.fits")
    assert code == 0, messages
    assert "wrote" in out
    flattened = read_image(tmp_path / "flattened.fits")
    good = flattened.mask == 0
    assert np.std(flattened.image[good]) / 1000 < 0.4 * np.std(true.image[good])
    plain = tmp_path / "plain.fits"
    fits.PrimaryHDU(1000 * true.image).writeto(plain)
    assert permil("flat", "apply", made, plain, "--out", tmp_path / "again.fits")[0] == 0
    assert read_image(tmp_path / "again.fits").header["VARCONT"] == "flat only"
    code, _, messages = permil("flat", "apply", flats.superbias(DETECTOR), image, "--out", tmp_path / "no.fits")
    assert code == 2
    assert "this is a superbias, not a flat" in messages
    assert not (tmp_path / "no.fits").exists()


def test_flats_of_different_detectors_are_refused(permil: Permil, flats: RunFolder, tmp_path: Path) -> None:
    made = flats.flat("red", DETECTOR)
    other = tmp_path / "other.fits"
    flat = read_image(made)
    write_image(other, flat.image, flat.mask, flat.variance, header={"DETECTOR": "R22_S12", "CAMERA": "lsstcam-bin8"})
    for command in ("apply", "diff"):
        code, _, messages = permil("flat", command, made, other, "--out", tmp_path / "out.fits")
        assert code == 2
        assert "R22_S12" in messages
        assert not (tmp_path / "out.fits").exists()


def test_config_import_writes_a_file(permil: Permil, tmp_path: Path) -> None:
    old = tmp_path / "beam_config.yaml"
    old.write_text("{'led_name': 'red', 'rootdir': '/data', 'rundir': 'run1', 'ref_pix_x': 1000, 'ref_pix_y': 256}")
    assert permil("config", "import", old, "--out", tmp_path / "new.yaml")[0] == 0
    assert "/data/run1" in (tmp_path / "new.yaml").read_text()
    assert "/data/run1" in permil("config", "import", old)[1]
