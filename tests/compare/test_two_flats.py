"""Two flats of any program: the parts of their ratio against truth, layouts of other programs, and each way of naming a sensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

import permil
from permil.camera import Camera, Detector
from permil.cli import app
from permil.compare.flats import DiffOptions, diff_files
from permil.errors import CameraError, FlatError, InputError, PermilError
from permil.flat.apply import read_flats
from permil.flat.flat import Flat
from permil.flat.ratio_parts import RatioParts, split_ratio
from permil.products import MaskPlane, read_image, write_image

DETECTOR = "R22_S11"
NOISE = 1e-3

Array = NDArray[np.float64]


@pytest.fixture
def detector(bin8: Camera) -> Detector:
    return bin8[DETECTOR]


def illumination(shape: tuple[int, ...]) -> Array:
    """Return a polynomial of degree 3 of a few per cent, with mean 1."""
    y, x = (np.linspace(-1, 1, length) for length in shape)
    surface = 1 + 0.03 * x[None, :] - 0.02 * y[:, None] ** 2 + 0.01 * x[None, :] ** 2 * y[:, None]
    return surface / surface.mean()


def structure(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return a response with rings and white structure of the pixels, about 1."""
    y, x = np.indices(shape)
    return 1 + 3e-3 * np.sin(np.hypot(x, y) / 9) + 2e-3 * rng.standard_normal(shape)


def split(ratio: Array, detector: Detector, **options: Any) -> RatioParts:
    chosen = {"super_pixel_mm": 0.64, "degree": 4} | options
    return split_ratio(ratio, np.full(ratio.shape, NOISE**2), np.isfinite(ratio), detector=detector, **chosen)


def test_a_product_of_known_parts_is_split_into_them(detector: Detector) -> None:
    smooth, rng = illumination(detector.shape), np.random.default_rng(1)
    true_steps = rng.normal(0, 2e-3, 16)
    true_steps -= true_steps.mean()
    ratio = 1.7 * smooth
    for amplifier, step in zip(detector.amplifiers, true_steps, strict=True):
        ratio[amplifier.slices] *= 1 + step
    parts = split(ratio, detector)
    # Without noise the model holds exactly; means over super-pixels differ from the value in their centre by their curvature.
    np.testing.assert_allclose(parts.smooth(), smooth, atol=5e-6)
    np.testing.assert_allclose([step for step, _ in parts.steps.values()], true_steps, atol=5e-6)
    assert parts.scale == pytest.approx(1.7, rel=1e-5)
    np.testing.assert_allclose(parts.small, 1, atol=1e-5)


def pulls(detector: Detector, seeds: range, make_noise: Callable[[np.random.Generator], Array]) -> list[Array]:
    """Return the deviations over their errors: of the smooth ratio at nine places, and of the steps."""
    smooth = illumination(detector.shape)
    places = np.ix_(*(np.linspace(20, length - 21, 3).astype(int) for length in detector.shape))
    found: list[Array] = []
    for seed in seeds:
        parts = split(smooth * (1 + make_noise(np.random.default_rng(seed))), detector)
        of_smooth = (parts.smooth() - smooth)[places] / np.sqrt(parts.smooth_variance()[places])
        of_steps = [step / error for step, error in parts.steps.values()]
        found.append(np.append(of_smooth.ravel(), of_steps))
    return found


def shared_by_neighbours(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return noise that super-pixels share with their neighbours."""
    from scipy.ndimage import gaussian_filter

    return 20 * NOISE * gaussian_filter(rng.standard_normal(shape), 12.0)


@pytest.mark.parametrize("is_shared", [False, True], ids=["white", "shared by neighbours"])
def test_errors_of_smooth_ratio_and_steps_are_true(detector: Detector, is_shared: bool) -> None:
    def make(rng: np.random.Generator) -> Array:
        return shared_by_neighbours(detector.shape, rng) if is_shared else NOISE * rng.standard_normal(detector.shape)

    found = np.array(pulls(detector, range(100, 108), make))
    rms = np.sqrt(np.mean(found**2))
    # 8 x 25 deviations, partly common: the rms scatters by a tenth. The jackknife overestimates somewhat.
    assert 0.65 < rms < 1.3, rms


def test_a_plain_array_times_a_polynomial(detector: Detector, tmp_path: Path) -> None:
    """A truth flat without cards times a known polynomial, against a measured flat of the same sensor."""
    rng = np.random.default_rng(11)
    truth, smooth = structure(detector.shape, rng), illumination(detector.shape)
    mine, theirs, corrections = tmp_path / "mine.fits", tmp_path / "theirs.npy", tmp_path / "illumination.fits"
    noise = 1e-4
    measured = truth * (1 + noise * rng.standard_normal(detector.shape))
    header = {"DETECTOR": DETECTOR, "CAMERA": "lsstcam-bin8", "LED": "red"}
    write_image(mine, measured, np.zeros(detector.shape), (noise * truth) ** 2, header=header)
    np.save(theirs, truth / smooth)
    done = diff_files(mine, theirs, DiffOptions(smooth=corrections, detector="94"))
    parts = done.facts["parts"]
    product = read_image(corrections)
    assert np.max(np.abs(product.image - smooth)) < 1e-4
    assert product.header["PRODUCT"] == "illumination"
    assert np.all(product.mask == 0)
    assert abs(parts["mean"] - 1) < 5 * parts["mean_error"] + 1e-7
    assert abs(parts["chi_square"] - 1) < 5 * parts["chi_square_error"]
    assert all(abs(entry["step"]) < 5 * entry["error"] for entry in parts["steps"].values())
    # Rings and pixels are those of one sensor.
    assert done.facts["correlation"]["r"] > 0.99
    assert "theirs.npy: no variance" in done
    reverse = diff_files(theirs, mine, DiffOptions())
    assert reverse.facts["parts"]["scale"] == pytest.approx(1 / parts["scale"], rel=2e-3)


def test_flats_of_other_structure_do_not_correlate(detector: Detector) -> None:
    flats = [
        Flat(1 + NOISE * np.random.default_rng(seed).standard_normal(detector.shape), np.full(detector.shape, NOISE**2),
             camera="lsstcam-bin8", detector=DETECTOR)
        for seed in (21, 22)
    ]  # fmt: skip
    comparison = permil.compare_flats(*flats)
    assert comparison.correlation is not None
    assert abs(comparison.correlation.r) < 4 * comparison.correlation.r_err
    assert abs(comparison.parts.chi_square - 1) < 5 * comparison.parts.chi_square_error
    assert comparison.parts.noise == pytest.approx(comparison.parts.rms, rel=0.1)
    assert "small-scale correlation" in str(comparison)
    assert repr(comparison).startswith("<FlatComparison: ratio ")


def test_defects_do_not_move_the_smooth_ratio_and_it_does_not_extrapolate(detector: Detector, tmp_path: Path) -> None:
    rng, smooth = np.random.default_rng(5), illumination(detector.shape)
    ratio = smooth * (1 + 1e-4 * rng.standard_normal(detector.shape))
    ratio[100:140, 200:240] *= 0.7
    parts = split(ratio, detector)
    assert parts.rejected >= 25
    assert np.max(np.abs(parts.smooth() / smooth - 1)) < 2e-4
    half = ratio.copy()
    half[:, : detector.nx // 2] = np.nan
    one = Flat(half, camera="lsstcam-bin8", detector=DETECTOR)
    permil.compare_flats(one, Flat(np.ones(detector.shape), camera="lsstcam-bin8", detector=DETECTOR)).write_smooth(
        tmp_path / "smooth.fits"
    )
    product = read_image(tmp_path / "smooth.fits")
    assert np.all(product.mask[:, : detector.nx // 2] == int(MaskPlane.NO_DATA))
    assert not np.isfinite(product.image[:, 0]).any()
    assert np.isfinite(product.image[:, -1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degree": -1}, "the degree -1 is not possible"),
        ({"degree": 9}, "the degree 9 is not possible"),
        ({"super_pixel_mm": 10.0, "degree": 8}, "do not determine a smooth ratio and the steps of 16 amplifiers"),
    ],
)
def test_parts_that_cannot_be_separated_are_refused(detector: Detector, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FlatError, match=message):
        split(np.ones(detector.shape), detector, **options)


# Layouts of other programs


def cp_pipe(path: Path, image: Array, cards: dict[str, Any]) -> None:
    """Write the layout of calibrations of the LSST stack: compressed planes by EXTTYPE, mask planes on bits of their own."""
    mask = np.zeros(image.shape, np.int32)
    mask[3, 4], mask[5, 6], mask[7, 8] = 1 << 8, 1 << 2, 1 << 4
    hdus: list[Any] = [fits.PrimaryHDU()]
    for name, data in (("IMAGE", image.astype(np.float32)), ("MASK", mask), ("VARIANCE", np.full(image.shape, NOISE**2, "f4"))):
        hdus.append(fits.CompImageHDU(data, quantize_level=0, compression_type="GZIP_1"))
        hdus[-1].header["EXTTYPE"] = name
    hdus[2].header.update({"HIERARCH MP_NO_DATA": 8, "HIERARCH MP_SUSPECT": 2, "HIERARCH MP_UNMASKEDNAN": 4})
    hdus[0].header.update({"OBSTYPE": "flat"} | cards)
    fits.HDUList(hdus).writeto(path)


def eotest(path: Path, image: Array, cards: dict[str, Any], detector: Detector, *, has_overscan: bool) -> None:
    """Write the layout of superflats of eotest: one segment of real numbers for each amplifier, as it was read out."""
    hdus: list[Any] = [fits.PrimaryHDU()]
    hdus[0].header.update(cards)
    for amplifier in detector.amplifiers:
        segment = image[amplifier.slices][:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]
        if has_overscan:
            raw = np.full((amplifier.ny_raw, amplifier.nx_raw), 77.0)
            raw[amplifier.data_slices] = segment
            segment = raw
        hdus.append(fits.ImageHDU(segment.astype(np.float32), name=amplifier.extname))
    fits.HDUList(hdus).writeto(path)


def ccdproc(path: Path, image: Array, cards: dict[str, Any]) -> None:
    """Write the layout of astropy's CCDData: planes MASK and UNCERT after the primary image."""
    hdus: list[Any] = [fits.PrimaryHDU(image.astype(np.float32)), fits.ImageHDU((image < 0).astype(np.uint8), name="MASK")]
    hdus.append(fits.ImageHDU(np.full(image.shape, NOISE, "f4"), name="UNCERT"))
    hdus[2].header["UTYPE"] = "StdDevUncertainty"
    hdus[0].header.update(cards)
    fits.HDUList(hdus).writeto(path)


WRITERS: dict[str, Callable[[Path, Array, dict[str, Any], Detector], None]] = {
    "cp_pipe": lambda path, image, cards, _: cp_pipe(path, image, cards),
    "ccdproc": lambda path, image, cards, _: ccdproc(path, image, cards),
    "eotest": lambda path, image, cards, detector: eotest(path, image, cards, detector, has_overscan=False),
    "eotest, overscans": lambda path, image, cards, detector: eotest(path, image, cards, detector, has_overscan=True),
}
NAMES: list[dict[str, Any]] = [
    {"DETECTOR": 94},
    {"DET_NAME": "R22_S11"},
    {"RAFTBAY": "R22", "CCDSLOT": "S11"},
    {"LSST_NUM": "E2V-CCD250-382"},
]
OTHERS: list[dict[str, Any]] = [
    {"DETECTOR": 95},
    {"DET_NAME": "R22_S12"},
    {"RAFTBAY": "R22", "CCDSLOT": "S12"},
    {"LSST_NUM": "ITL-3800C-205"},
]


@pytest.fixture
def mine(detector: Detector, tmp_path: Path) -> tuple[Path, Array]:
    truth = structure(detector.shape, np.random.default_rng(8))
    path = tmp_path / "mine.fits"
    header = {"DETECTOR": DETECTOR, "CAMERA": "lsstcam-bin8", "LED": "red"}
    write_image(path, truth, np.zeros(truth.shape), np.full(truth.shape, NOISE**2), header=header)
    return path, truth


@pytest.mark.parametrize("cards", [*NAMES, {}], ids=str)
@pytest.mark.parametrize("layout", WRITERS)
def test_layouts_and_names(
    mine: tuple[Path, Array], detector: Detector, tmp_path: Path, layout: str, cards: dict[str, Any]
) -> None:
    _, truth = mine
    theirs = tmp_path / "theirs.fits"
    WRITERS[layout](theirs, 0.5 * truth, cards, detector)
    flat = Flat.read(theirs, detector=DETECTOR, camera="lsstcam-bin8")
    np.testing.assert_allclose(flat.image, 0.5 * truth, rtol=1e-6)
    assert flat.detector == detector
    if layout == "cp_pipe":
        nodata, suspect = int(MaskPlane.NO_DATA), int(MaskPlane.SUSPECT)
        assert [int(flat.mask[place]) & 127 for place in ((3, 4), (5, 6), (7, 8))] == [nodata, suspect, nodata]
    assert np.any(flat.variance > 0) is np.bool_(not layout.startswith("eotest"))


@pytest.mark.parametrize("cards", OTHERS, ids=str)
def test_another_sensor_is_refused(mine: tuple[Path, Array], tmp_path: Path, cards: dict[str, Any]) -> None:
    theirs = tmp_path / "theirs.fits"
    ccdproc(theirs, mine[1], cards)
    for paths in ((mine[0], theirs), (theirs, mine[0])):
        with pytest.raises(FlatError, match=r"the flat is of .*, not of R22_S1|the flat is of .*, not of R"):
            diff_files(*paths, DiffOptions())
    with pytest.raises(FlatError, match="not of R22_S11; give a file of R22_S11"):
        Flat.read(theirs, detector=DETECTOR)
    with pytest.raises(FlatError, match="not of R22_S11"):
        Flat.read(mine[0]).apply_to_file(theirs, tmp_path / "out.fits")


@st.composite
def namings(draw: st.DrawFn, detector: Detector) -> dict[str, Any]:
    """Return cards that name a detector, each in one of its spellings."""
    number, name, serial = detector.id, detector.name, detector.serial
    spellings: list[dict[str, list[Any]]] = [
        {"DETECTOR": [number, float(number), str(number), f"det{number:03d}", name, name.lower().replace("_", "-")]},
        {"DET_NAME": [name, name.lower(), name.replace("_", "")]},
        {"RAFTBAY": [detector.raft, detector.raft.lower()], "CCDSLOT": [detector.slot, detector.slot.lower()]},
        {"LSST_NUM": [serial, serial.lower(), f"LCA-{serial}"]},
    ]
    chosen = draw(st.lists(st.sampled_from(spellings), min_size=1, max_size=4, unique_by=repr))
    return {card: draw(st.sampled_from(labels)) for entry in chosen for card, labels in entry.items()}


@pytest.mark.parametrize("examples", [3, pytest.param(60, marks=pytest.mark.full)])
@pytest.mark.parametrize("layout", WRITERS)
def test_every_naming_of_a_sensor_in_every_layout(
    mine: tuple[Path, Array], bin8: Camera, tmp_path_factory: pytest.TempPathFactory, layout: str, examples: int
) -> None:
    """Whatever cards name the sensor, `flat diff` and `flat apply` take flats of one sensor and refuse those of two."""
    path, truth = mine
    theirs = tmp_path_factory.mktemp("theirs") / "theirs.fits"
    out = theirs.with_name("out.fits")
    WRITERS[layout](theirs, truth, {}, bin8[DETECTOR])
    header, content = fits.getheader(theirs), theirs.read_bytes()
    planes = content[len(header.tostring()) :]
    numbers = st.sampled_from(sorted(sensor.name for sensor in bin8.detectors.values() if sensor.vendor == "E2V"))

    @settings(max_examples=examples)
    @given(name=st.just(DETECTOR) | numbers, data=st.data())
    def check(name: str, data: st.DataObject) -> None:
        cards = data.draw(namings(bin8[name]), label="cards")
        named = header.copy()
        named.update(cards | {"CAMERA": "lsstcam-bin8"})
        theirs.write_bytes(named.tostring().encode() + planes)
        out.unlink(missing_ok=True)
        orders = ([path, theirs], [theirs, path])
        if name == DETECTOR:
            for paths in orders:
                flats, sensor, _ = read_flats(paths)
                assert sensor is not None
                assert sensor.name == DETECTOR
                np.testing.assert_allclose(flats[0].image, flats[1].image, rtol=1e-6)
            assert Flat.read(theirs).detector == bin8[DETECTOR]
            assert f"wrote {out}" in Flat.read(theirs).apply_to_file(path, out)
            return
        for paths in orders:
            with pytest.raises(FlatError, match=r"the flat is of .*, not of R\d\d_S\d\d .*; give a file of R\d\d_S\d\d"):
                diff_files(*paths, DiffOptions())
        for flat, image in orders:
            with pytest.raises(FlatError, match=r"the image is of .*, not of R\d\d_S\d\d"):
                Flat.read(flat).apply_to_file(image, out)
        assert not out.exists()

    check()


def test_a_flat_of_another_program_divides_an_image(mine: tuple[Path, Array], detector: Detector, tmp_path: Path) -> None:
    image, theirs, out = tmp_path / "image.fits", tmp_path / "theirs.fits", tmp_path / "out.fits"
    eotest(theirs, mine[1], {}, detector, has_overscan=True)
    fits.PrimaryHDU(1000 * mine[1]).writeto(image)
    arguments = [str(theirs), str(image), "--out", str(out), "--detector", "R22_S11", "--camera", "lsstcam-bin8"]
    ended = CliRunner().invoke(app, ["flat", "apply", *arguments])
    assert ended.exit_code == 0, ended.output
    np.testing.assert_allclose(read_image(out).image, 1000, rtol=1e-6)
    assert read_image(out).header["DETECTOR"] == DETECTOR


def broken(path: Path, detector: Detector, kind: str) -> Path:
    image = np.ones(detector.shape)
    if kind == "objects":
        np.save(path.with_suffix(".npy"), np.array([{}]), allow_pickle=True)
        return path.with_suffix(".npy")
    if kind == "cube":
        np.save(path.with_suffix(".npy"), np.ones((2, 3, 4)))
        return path.with_suffix(".npy")
    eotest(path, image, {}, detector, has_overscan=False)
    with fits.open(path, mode="update") as hdus:
        if kind == "duplicate":
            hdus[2].name = hdus[1].name
        elif kind == "size":
            hdus[3].data = np.ones((7, 5), np.float32)
        elif kind == "raw":
            for hdu in hdus[1:]:
                hdu.data = hdu.data.astype(np.int32)
    return path


@pytest.mark.parametrize(
    ("kind", "detector_label", "message"),
    [
        ("objects", DETECTOR, "cannot be read as FITS"),
        ("cube", DETECTOR, "an array of type float64 with 3 axes is not an image"),
        ("duplicate", DETECTOR, "is not a segment of R22_S11, or is duplicated"),
        ("size", DETECTOR, r"does not have the .* pixels of C12, nor with its overscans"),
        ("raw", DETECTOR, "this is a raw file of segments"),
        ("none", "", "the sensor of the segments is unknown; name it"),
        ("none", "R22_S99", "camera lsstcam-bin8 has no detector 'R22_S99'"),
    ],
)
def test_files_that_are_no_flats_are_refused(
    detector: Detector, tmp_path: Path, kind: str, detector_label: str, message: str
) -> None:
    path = broken(tmp_path / "theirs.fits", detector, kind)
    with pytest.raises((InputError, CameraError), match=message):
        Flat.read(path, detector=detector_label, camera="lsstcam-bin8")


def test_flats_of_no_known_sensor_are_refused(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "theirs.npy"
    np.save(path, np.ones(detector.shape))
    with pytest.raises(InputError, match="the header does not name a sensor; name it"):
        diff_files(path, path, DiffOptions())
    with pytest.raises(PermilError, match=r"of camera lsstcam has .* or name their camera"):
        diff_files(path, path, DiffOptions(detector=DETECTOR))
