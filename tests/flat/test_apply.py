"""`flat apply` and `flat diff` on files of any program: of the right sensor or refused, with masks, errors and cards kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty
from astropy.utils.masked import Masked

from permil.camera import Camera
from permil.compare.flats import DiffOptions, diff_files
from permil.errors import FlatError, InputError
from permil.flat.apply import apply_flat
from permil.flat.flat import Flat
from permil.products import MaskPlane, read_image, write_image

DETECTOR, OTHER = "R22_S11", "R22_S12"
LEVEL, FLAT = 1000.0, 0.8

Cards = Mapping[str, Any]


@pytest.fixture
def flat(tmp_path: Path, bin8: Camera) -> Path:
    return write_flat(tmp_path / "flat.fits", bin8)


def write_flat(path: Path, bin8: Camera, **cards: Any) -> Path:
    shape = bin8[DETECTOR].shape
    header = {"DETECTOR": DETECTOR, "CAMERA": "lsstcam-bin8", "LED": "red"} | cards
    write_image(path, np.full(shape, FLAT), np.zeros(shape, np.int32), np.full(shape, 1e-7), header=header)
    return path


def write(path: Path, bin8: Camera, cards: Cards | None = None, *, of_image: Cards | None = None, extname: str = "IMAGE") -> Path:
    """Write an image in an extension, with cards of the primary header and of the extension."""
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.full(bin8[DETECTOR].shape, LEVEL, np.float32), name=extname)]
    for hdu, entries in zip(hdus, (cards, of_image), strict=True):
        for card, value in (entries or {}).items():
            hdu.header[card if len(card) <= 8 and " " not in card else f"HIERARCH {card}"] = value
    fits.HDUList(hdus).writeto(path)
    return path


SAME: list[dict[str, Any]] = [
    {"cards": {"DETECTOR": "R22_S11"}},
    {"cards": {"DETECTOR": "r22-s11"}},
    {"cards": {"DETECTOR": 94}},
    {"cards": {"DETECTOR": 94.0}},
    {"cards": {"DETECTOR": "det094"}},
    {"cards": {"RAFTBAY": "R22", "CCDSLOT": "S11"}},
    {"cards": {"CCDSLOT": "S11"}, "of_image": {"RAFTBAY": "R22"}},
    {"cards": {"LSST_NUM": "E2V-CCD250-382"}},
    {"cards": {"LSST_NUM": "e2v-ccd250-382", "DETECTOR": 94}},
    {"cards": {"LSST_NUM": "LCA-E2V-CCD250-382"}},
    {"cards": {"LSST_NUM": "0", "DETECTOR": 94}},
    {"cards": {"CHIPID": "R22_S11_C10"}},
    {"cards": {"CHIPID": "R22_S11"}},
    {"cards": {"LSST BUTLER DATAID DETECTOR": 94}},
    {"cards": {"CALIB_ID": "raftName=R22 detectorName=S11 detector=94 filter=red calibDate=2021-12-09"}},
    {"of_image": {"DETNAME": "R22_S11"}},
    {"of_image": {"DET-ID": 94}},
    {"extname": "R22_S11"},
    {"extname": "DET094"},
    # The type of the sensor says nothing, but another card does.
    {"cards": {"DETECTOR": "E2V-CCD250", "RAFTBAY": "R22", "CCDSLOT": "S11"}},
    {"cards": {"DETECTOR": "unknown", "LSST_NUM": "E2V-CCD250-382"}},
]
DIFFERENT: list[dict[str, Any]] = [
    {"cards": {"RAFTBAY": "R22", "CCDSLOT": "S12"}},
    {"cards": {"RAFTBAY": "R99", "CCDSLOT": "S11"}},
    {"cards": {"CCDSLOT": "S12"}},
    {"cards": {"RAFTBAY": "R10"}, "of_image": {"CCDSLOT": "S11"}},
    {"cards": {"DETECTOR": 95}},
    {"cards": {"DETECTOR": 300}},
    {"cards": {"DETECTOR": "WFC3"}},
    {"cards": {"CHIPID": "R22_S12"}},
    {"cards": {"CCDNUM": 31}},
    {"cards": {"LSST BUTLER DATAID DETECTOR": 90}},
    {"cards": {"CALIB_ID": "detector=90 calibDate=2021-12-09"}},
    {"of_image": {"DETECTOR": "R22_S12"}},
    {"of_image": {"DETNAME": "R22_S12"}},
    {"extname": "R22_S12"},
    {"extname": "CCD12"},
    # Statements that contradict each other.
    {"cards": {"DETECTOR": DETECTOR}, "of_image": {"RAFTBAY": "R22", "CCDSLOT": "S12"}},
    {"cards": {"DETECTOR": DETECTOR}, "extname": "R22_S12"},
    # The right place with another sensor in it.
    {"cards": {"DETECTOR": DETECTOR, "LSST_NUM": "E2V-CCD250-999"}},
    {"cards": {"RAFTBAY": "R22", "CCDSLOT": "S11", "LSST_NUM": "ITL-3800C-205"}},
]


@pytest.mark.parametrize("said", SAME, ids=str)
def test_an_image_of_the_sensor_is_divided(flat: Path, bin8: Camera, tmp_path: Path, said: dict[str, Any]) -> None:
    image = write(tmp_path / "image.fits", bin8, **said)
    assert "does not name" not in Flat.read(flat).apply_to_file(image, tmp_path / "out.fits")
    out = read_image(tmp_path / "out.fits")
    np.testing.assert_allclose(out.image, LEVEL / FLAT, rtol=1e-6)
    assert (out.header["DETECTOR"], out.header["DETKNOWN"]) == (DETECTOR, "cards")


@pytest.mark.parametrize("said", DIFFERENT, ids=str)
def test_an_image_of_another_sensor_is_refused(flat: Path, bin8: Camera, tmp_path: Path, said: dict[str, Any]) -> None:
    image = write(tmp_path / "image.fits", bin8, **said)
    with pytest.raises(FlatError, match=r"image\.fits: the image is of .*, not of R22_S11 \(E2V-CCD250-382\); give"):
        Flat.read(flat).apply_to_file(image, tmp_path / "out.fits")
    assert not (tmp_path / "out.fits").exists()


def test_an_image_that_names_no_sensor_is_divided_and_this_is_reported(flat: Path, bin8: Camera, tmp_path: Path) -> None:
    said = Flat.read(flat).apply_to_file(write(tmp_path / "image.fits", bin8), tmp_path / "out.fits")
    assert "the image does not name its detector" in said
    assert read_image(tmp_path / "out.fits").header["DETKNOWN"] == "nothing"


@pytest.mark.parametrize("cards", [{"CCDSLOT": "S11"}, {"RAFTBAY": "R22"}, {"DETECTOR": "S11"}], ids=str)
def test_a_part_of_a_name_is_reported_as_one(flat: Path, bin8: Camera, tmp_path: Path, cards: Cards) -> None:
    said = Flat.read(flat).apply_to_file(write(tmp_path / "image.fits", bin8, cards), tmp_path / "out.fits")
    assert "only raft bay or slot" in said
    assert read_image(tmp_path / "out.fits").header["DETKNOWN"] == "part"


def test_the_name_of_the_file_counts_where_the_headers_say_nothing(flat: Path, bin8: Camera, tmp_path: Path) -> None:
    Flat.read(flat).apply_to_file(write(tmp_path / "MC_C_20211209_000100_R22_S11.fits", bin8), tmp_path / "out.fits")
    assert read_image(tmp_path / "out.fits").header["DETKNOWN"] == "file name"
    with pytest.raises(FlatError, match="the file name"):
        Flat.read(flat).apply_to_file(write(tmp_path / "calexp_det095.fits", bin8), tmp_path / "out.fits")
    Flat.read(flat).apply_to_file(write(tmp_path / "R22_S12_renamed.fits", bin8, {"DETECTOR": DETECTOR}), tmp_path / "out.fits")


def test_the_serial_number_of_the_flat_counts_before_that_of_the_camera(bin8: Camera, tmp_path: Path) -> None:
    flat = write_flat(tmp_path / "flat.fits", bin8, LSST_NUM="E2V-CCD250-999")
    Flat.read(flat).apply_to_file(
        write(tmp_path / "same.fits", bin8, {"DETECTOR": 94, "LSST_NUM": "E2V-CCD250-999"}), tmp_path / "out.fits"
    )
    assert read_image(tmp_path / "out.fits").header["LSST_NUM"] == "E2V-CCD250-999"
    nominal = write(tmp_path / "nominal.fits", bin8, {"DETECTOR": 94, "LSST_NUM": "E2V-CCD250-382"})
    with pytest.raises(FlatError, match=r"E2V-CCD250-382 \(card LSST_NUM\), not of R22_S11 \(E2V-CCD250-999\)"):
        Flat.read(flat).apply_to_file(nominal, tmp_path / "no.fits")


@pytest.mark.parametrize("camera", ["a_camera_of_elsewhere", "mine.yaml", ""])
def test_a_flat_of_a_camera_that_is_not_here(bin8: Camera, tmp_path: Path, camera: str) -> None:
    flat = write_flat(tmp_path / "flat.fits", bin8, CAMERA=camera)
    Flat.read(flat).apply_to_file(write(tmp_path / "image.fits", bin8, {"DETECTOR": 94}), tmp_path / "out.fits")
    with pytest.raises(FlatError, match="R22_S12"):
        Flat.read(flat).apply_to_file(write(tmp_path / "other.fits", bin8, {"DETECTOR": OTHER}), tmp_path / "no.fits")


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"PRODUCT": "superbias"}, "this is a superbias, not a flat"),
        ({"OBSTYPE": "bias"}, "this is a bias, not a flat"),
        ({"HIERARCH LSST BUTLER DATASETTYPE": "dark"}, "this is a dark, not a flat"),
        ({"BUNIT": "adu"}, "this is in adu, not a flat"),
        ({"BUNIT": "electron"}, "this is in electron, not a flat"),
        ({"RAFTBAY": "R22", "CCDSLOT": "S12"}, "the headers contradict each other"),
    ],
)
def test_what_is_no_flat_is_not_divided_by(bin8: Camera, tmp_path: Path, cards: dict[str, Any], message: str) -> None:
    flat = write_flat(tmp_path / "flat.fits", bin8, **cards)
    with pytest.raises((FlatError, InputError), match=message):
        Flat.read(flat).apply_to_file(write(tmp_path / "image.fits", bin8, {"DETECTOR": DETECTOR}), tmp_path / "out.fits")


def test_a_flat_of_the_lsst_stack_and_its_planes(bin8: Camera, tmp_path: Path) -> None:
    shape = bin8[DETECTOR].shape
    planes = np.zeros(shape, np.int32)
    planes[1, 1], planes[2, 2] = 1 << 5, 1 << 6
    hdus = [fits.PrimaryHDU()]
    for name, data in (
        ("IMAGE", np.full(shape, FLAT, np.float32)),
        ("MASK", planes),
        ("VARIANCE", np.full(shape, 1e-7, np.float32)),
    ):
        hdus.append(fits.CompImageHDU(data, quantize_level=0, compression_type="GZIP_1"))
        hdus[-1].header["EXTTYPE"] = name
    hdus[0].header.update({"OBSTYPE": "flat", "DETECTOR": 94})
    hdus[2].header.update({"HIERARCH MP_NO_DATA": 5, "HIERARCH MP_PARTLY_VIGNETTED": 6})
    fits.HDUList(hdus).writeto(tmp_path / "flat.fits")
    image = write(tmp_path / "image.fits", bin8, {"DETECTOR": DETECTOR})
    with fits.open(image, mode="append") as opened:
        mask = fits.ImageHDU((planes > 0).astype(np.int32) << 12, name="MASK")
        mask.header["HIERARCH MP_DETECTED"] = 12
        opened.append(mask)
    Flat.read(tmp_path / "flat.fits").apply_to_file(image, tmp_path / "out.fits")
    out = read_image(tmp_path / "out.fits")
    assert set(out.planes) == {"PARTLY_VIGNETTED", "DETECTED"}
    detected = 1 << out.planes["DETECTED"]
    assert out.mask[1, 1] == int(MaskPlane.NO_DATA) | detected
    assert out.mask[2, 2] == int(MaskPlane.SUSPECT) | detected | 1 << out.planes["PARTLY_VIGNETTED"]
    assert np.isnan(out.image[1, 1])


def test_cards_of_the_image_are_kept(flat: Path, bin8: Camera, tmp_path: Path) -> None:
    cards = {"OBSID": "MC_C_20211209_000100", "EXPTIME": 15.0, "MJD-OBS": 59557.1, "FILTER": "r_03", "AR HDU": 5, "PSF_ID": 7}
    image = write(
        tmp_path / "image.fits", bin8, cards,
        of_image={"DETECTOR": 94, "BUNIT": "nJy", "CTYPE1": "RA---TAN", "CRVAL1": 10.5, "LSST ISR FLAT APPLIED": False},
    )  # fmt: skip
    content = image.read_bytes()
    # A card that no standard allows.
    image.write_bytes(content.replace(b"EXPTIME =                 15.0", b"EXPTIME =                  NaN"))
    said = Flat.read(flat).apply_to_file(image, tmp_path / "out.fits")
    assert "the light of the image is r_03, that of the flat red" in said
    out = read_image(tmp_path / "out.fits")
    assert [out.header[card] for card in ("OBSID", "MJD-OBS", "FILTER", "DETECTOR", "LED")] == [
        cards["OBSID"], cards["MJD-OBS"], "r_03", DETECTOR, "red",
    ]  # fmt: skip
    assert out.header["EXPTIME"] == "NaN"
    assert not {"AR HDU", "PSF_ID"} & set(out.header)
    assert [out.image_header[card] for card in ("BUNIT", "CTYPE1", "CRVAL1")] == ["nJy", "RA---TAN", 10.5]
    assert fits.getheader(tmp_path / "out.fits", "VARIANCE")["BUNIT"] == "(nJy)2"
    again = Flat.read(flat).apply_to_file(tmp_path / "out.fits", tmp_path / "twice.fits")
    assert "does not name" not in again


def test_world_coordinates_of_a_plain_image_go_to_the_image(flat: Path, bin8: Camera, tmp_path: Path) -> None:
    plain = fits.PrimaryHDU(np.full(bin8[DETECTOR].shape, LEVEL))
    plain.header.update({"DETECTOR": DETECTOR, "CRPIX1": 7.0, "CD1_1": 1e-5, "OBJECT": "sky", "BUNIT": "adu"})
    plain.writeto(tmp_path / "image.fits")
    Flat.read(flat).apply_to_file(tmp_path / "image.fits", tmp_path / "out.fits")
    out = read_image(tmp_path / "out.fits")
    assert (out.image_header["CRPIX1"], out.image_header["CD1_1"], out.image_header["BUNIT"]) == (7.0, 1e-5, "adu")
    assert "OBJECT" not in out.image_header
    assert out.header["OBJECT"] == "sky"


def test_contents_of_the_variance_are_reported(bin8: Camera, tmp_path: Path) -> None:
    shape = bin8[DETECTOR].shape
    exact = tmp_path / "exact.fits"
    write_image(exact, np.ones(shape), np.zeros(shape), np.zeros(shape), header={"DETECTOR": DETECTOR})
    image = write(tmp_path / "image.fits", bin8, {"DETECTOR": DETECTOR})
    assert "variance: nothing" in Flat.read(exact).apply_to_file(image, tmp_path / "out.fits")
    assert read_image(tmp_path / "out.fits").header["VARCONT"] == "nothing"
    with fits.open(image, mode="append") as opened:
        opened.append(fits.ImageHDU(np.full(shape, 30.0, np.float32), name="ERR"))
    Flat.read(exact).apply_to_file(image, tmp_path / "out.fits")
    out = read_image(tmp_path / "out.fits")
    assert out.header["VARCONT"] == "image only"
    assert np.median(out.variance) == 900


def test_flats_are_compared_if_they_are_of_one_sensor(bin8: Camera, tmp_path: Path) -> None:
    first = write_flat(tmp_path / "first.fits", bin8)
    foreign = tmp_path / "foreign.fits"
    rng = np.random.default_rng(1)
    data = (FLAT * (1 + 1e-4 * rng.standard_normal(bin8[DETECTOR].shape))).astype(np.float32)
    hdu = fits.PrimaryHDU(data)
    hdu.header["DETECTOR"] = 94
    fits.HDUList([hdu, fits.ImageHDU(np.full(data.shape, 1e-4 * FLAT, np.float32), name="ERR")]).writeto(foreign)
    assert "median ratio           1.000" in diff_files(first, foreign, DiffOptions(tmp_path / "ratio.fits"))
    for name, cards in (("place", {"DETECTOR": OTHER}), ("serial", {"LSST_NUM": "E2V-CCD250-999"})):
        other = write_flat(tmp_path / f"{name}.fits", bin8, **cards)
        with pytest.raises(FlatError, match=next(iter(cards.values()))):
            diff_files(first, other, DiffOptions())


def test_long_names_of_files_are_cut_off_in_cards(bin8: Camera, tmp_path: Path) -> None:
    flat, image = (write_flat(tmp_path / f"{name}{'a long name ' * 8}.fits", bin8) for name in ("it's a flat ", "''" * 30))
    Flat.read(flat).apply_to_file(image, tmp_path / "out.fits")
    diff_files(flat, image, DiffOptions(tmp_path / "ratio.fits"))
    for name, cards in (("out", ("FLATFILE", "RAWIMAGE")), ("ratio", ("FIRST", "SECOND"))):
        header = fits.getheader(tmp_path / f"{name}.fits")
        for card, path in zip(cards, (flat, image), strict=True):
            assert path.name.startswith(header[card])
            assert len(header[card].replace("'", "''")) > 40
            assert header.comments[card]


def test_flats_without_a_variance_are_compared_and_this_is_reported(bin8: Camera, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    paths = [tmp_path / f"{name}.fits" for name in "ab"]
    for path in paths:
        hdu = fits.PrimaryHDU(1 + 1e-3 * rng.standard_normal(bin8[DETECTOR].shape))
        hdu.header.update({"DETECTOR": DETECTOR, "CAMERA": "lsstcam-bin8"})
        hdu.writeto(path)
    said = diff_files(paths[0], paths[1], DiffOptions(tmp_path / "ratio.fits"))
    assert "chi-square nan" in said
    assert "b.fits: no variance" in said


SHAPE = (4, 5)


def _applied(image: Any, variance: Any = None, mask: Any = None, **of_flat: Any) -> tuple[Any, Any, Any]:
    options = {"flat": np.full(SHAPE, FLAT), "flat_variance": np.zeros(SHAPE), "flat_mask": None} | of_flat
    return apply_flat(image, np.full(SHAPE, 9.0) if variance is None else variance, mask, **options)


@pytest.mark.parametrize(
    "image",
    [
        np.ma.array(np.full(SHAPE, LEVEL), mask=np.eye(*SHAPE, dtype=bool)),
        CCDData(np.full(SHAPE, LEVEL), unit="adu", mask=np.eye(*SHAPE, dtype=bool)),
        Masked(np.full(SHAPE, LEVEL), mask=np.eye(*SHAPE, dtype=bool)) * u.adu,
        np.where(np.eye(*SHAPE), np.nan, LEVEL).astype(">f4"),
        np.where(np.eye(*SHAPE), np.inf, LEVEL),
    ],
    ids=["numpy.ma", "CCDData", "Masked quantity", "big-endian", "infinite"],
)
def test_masked_values_of_an_image_are_no_data(image: Any) -> None:
    corrected, variance, mask = _applied(image)
    masked = np.eye(*SHAPE, dtype=bool)
    np.testing.assert_array_equal(mask, np.where(masked, int(MaskPlane.NO_DATA), 0))
    np.testing.assert_array_equal(np.isnan(corrected), masked)
    np.testing.assert_allclose(corrected[~masked], LEVEL / FLAT)
    np.testing.assert_allclose(variance[~masked], 9 / FLAT**2)
    assert corrected.dtype.isnative


@pytest.mark.parametrize("value", [0.0, -0.1, np.nan, np.inf, 1e-300])
def test_a_flat_that_is_no_response_gives_no_data(value: float) -> None:
    flat = np.full(SHAPE, FLAT)
    flat[1, 2] = value
    for given in (flat, np.ma.masked_invalid(flat), flat.astype(">f8")):
        corrected, variance, mask = _applied(np.full(SHAPE, LEVEL), flat=given)
        assert np.argwhere(np.isnan(corrected)).tolist() == [[1, 2]]
        assert np.argwhere(mask).tolist() == [[1, 2]]
        assert np.isnan(variance[1, 2])


def test_units_are_converted() -> None:
    image, variance = np.full(SHAPE, LEVEL) * u.adu, np.full(SHAPE, 9.0) * u.DN**2
    percent = np.full(SHAPE, 100 * FLAT) * u.percent
    corrected, error, _ = _applied(image, variance, flat=percent)
    np.testing.assert_allclose(corrected, LEVEL / FLAT)
    np.testing.assert_allclose(error, 9 / FLAT**2)
    _, error, _ = _applied(np.full(SHAPE, LEVEL) * u.nJy, np.full(SHAPE, 9e-6) * u.uJy**2)
    np.testing.assert_allclose(error, 9 / FLAT**2)
    for deviation in (StdDevUncertainty(np.full(SHAPE, 3.0), unit="adu"), InverseVariance(np.full(SHAPE, 1 / 9))):
        _, error, _ = _applied(image, deviation)
        np.testing.assert_allclose(error, 9 / FLAT**2)
    with pytest.raises(InputError, match="variance is given in"):
        _applied(image, np.full(SHAPE, 9.0) * u.s)
    with pytest.raises(InputError, match="flat is given in electron"):
        _applied(image, variance, flat=np.full(SHAPE, 2e4) * u.electron)


def test_masks_of_booleans_and_variances_that_are_not_known() -> None:
    bad = np.zeros(SHAPE, dtype=bool)
    bad[0, 1] = True
    variance = np.full(SHAPE, 9.0)
    variance[2, 2], variance[3, 3] = -1, np.nan
    corrected, error, mask = _applied(np.full(SHAPE, LEVEL), variance, bad, flat_mask=np.full(SHAPE, int(MaskPlane.EDGE), ">i2"))
    assert mask[0, 1] == int(MaskPlane.NO_DATA | MaskPlane.EDGE)
    assert np.argwhere(np.isnan(error)).tolist() == [[2, 2], [3, 3]]
    assert np.isfinite(corrected).all()
    with pytest.raises(InputError, match="mask holds no mask planes"):
        _applied(np.full(SHAPE, LEVEL), mask=np.full(SHAPE, 0.5))
    with pytest.raises(InputError, match="variance has the shape"):
        _applied(np.full(SHAPE, LEVEL), np.ones((2, 2)))


@pytest.mark.parametrize(
    ("unit", "factor"), [("%", 1e-2), ("percent", 1e-2), ("1e-3", 1e-3), ("adu/adu", 1.0), ("normalized", 1.0)]
)
def test_a_flat_in_per_cent_is_converted(bin8: Camera, tmp_path: Path, unit: str, factor: float) -> None:
    """In a file as in memory: `permil.Flat` of a quantity in per cent is converted, too."""
    planes = {"IMAGE": FLAT / factor, "VARIANCE": 1e-6 / factor**2}
    hdus = [fits.PrimaryHDU()]
    for name, value in planes.items():
        hdus.append(fits.ImageHDU(np.full(bin8[DETECTOR].shape, value, np.float32), name=name))
    hdus[0].header["DETECTOR"] = DETECTOR
    hdus[1].header["BUNIT"] = unit
    fits.HDUList(hdus).writeto(tmp_path / "flat.fits")
    image = write(tmp_path / "image.fits", bin8, {"DETECTOR": DETECTOR})
    said = Flat.read(tmp_path / "flat.fits").apply_to_file(image, tmp_path / "out.fits")
    assert (f"flat: converted from {unit}" in said) == (factor != 1.0)
    out = read_image(tmp_path / "out.fits")
    np.testing.assert_allclose(out.image, LEVEL / FLAT, rtol=1e-6)
    np.testing.assert_allclose(out.variance, LEVEL**2 * 1e-6 / FLAT**4, rtol=1e-5)


@pytest.mark.parametrize("unit", ["mag", "mag(adu)", "dex(electron)", "dB"])
def test_an_image_in_magnitudes_is_refused(flat: Path, bin8: Camera, tmp_path: Path, unit: str) -> None:
    image = write(tmp_path / "image.fits", bin8, {"DETECTOR": DETECTOR}, of_image={"BUNIT": unit})
    with pytest.raises(InputError, match=r"image\.fits: the image is given in .*, a logarithmic unit; convert"):
        Flat.read(flat).apply_to_file(image, tmp_path / "out.fits")
    assert not (tmp_path / "out.fits").exists()


@pytest.mark.parametrize("cards", [{"FLATFILE": "R22_S11.fits"}, {"FLATCOR": "done"}, {"LSST ISR FLAT APPLIED": True}], ids=str)
def test_an_image_that_was_divided_before_is_reported(flat: Path, bin8: Camera, tmp_path: Path, cards: Cards) -> None:
    image = write(tmp_path / "image.fits", bin8, {"DETECTOR": DETECTOR, **cards})
    said = Flat.read(flat).apply_to_file(image, tmp_path / "out.fits")
    assert f"the image was divided by a flat before (card {next(iter(cards))})" in said


def test_the_result_is_an_image_that_was_divided_before(flat: Path, bin8: Camera, tmp_path: Path) -> None:
    image = write(tmp_path / "image.fits", bin8, {"DETECTOR": DETECTOR, "LSST ISR FLAT APPLIED": False})
    assert "divided by a flat before" not in Flat.read(flat).apply_to_file(image, tmp_path / "out.fits")
    assert "divided by a flat before" in Flat.read(flat).apply_to_file(tmp_path / "out.fits", tmp_path / "twice.fits")


@pytest.mark.parametrize(("level", "is_said"), [(30000.0, True), (80.0, True), (0.1, True), (0.8, False), (1.4, False)])
def test_a_flat_that_is_not_normalised_is_reported(bin8: Camera, tmp_path: Path, level: float, is_said: bool) -> None:
    write(tmp_path / "flat.fits", bin8, {"DETECTOR": DETECTOR})
    with fits.open(tmp_path / "flat.fits", mode="update") as hdus:
        hdus["IMAGE"].data[:] = level
    image = write(tmp_path / "image.fits", bin8, {"DETECTOR": DETECTOR})
    said = Flat.read(tmp_path / "flat.fits").apply_to_file(image, tmp_path / "out.fits")
    assert (f"the flat is not normalised: its median is {level:g}" in said) == is_said


@pytest.mark.parametrize(
    ("broken", "value", "message"),
    [
        ("flat", -1.0, r"flat\.fits: no pixel of the flat is positive"),
        ("flat", 0.0, r"flat\.fits: no pixel of the flat is positive"),
        ("flat", np.nan, r"flat\.fits: no pixel of the flat is positive"),
        ("image", np.nan, r"image\.fits: no pixel of the image is finite"),
        ("image", np.inf, r"image\.fits: no pixel of the image is finite"),
    ],
)
def test_a_division_without_a_single_pixel_is_refused(
    bin8: Camera, tmp_path: Path, broken: str, value: float, message: str
) -> None:
    for name in ("flat", "image"):
        path = write(tmp_path / f"{name}.fits", bin8, {"DETECTOR": DETECTOR})
        with fits.open(path, mode="update") as hdus:
            hdus["IMAGE"].data[:] = value if name == broken else 1.0
    with pytest.raises(FlatError, match=message):
        Flat.read(tmp_path / "flat.fits").apply_to_file(tmp_path / "image.fits", tmp_path / "out.fits")
    assert not (tmp_path / "out.fits").exists()


@pytest.mark.parametrize(
    ("broken", "message"), [("shape", r"flats of different shapes"), ("values", r"the flats have no good super-pixel in common")]
)
def test_flats_that_cannot_be_compared_are_both_named(
    flat: Path, bin8: Camera, tmp_path: Path, broken: str, message: str
) -> None:
    write(tmp_path / "other.fits", bin8, {"DETECTOR": DETECTOR})
    with fits.open(tmp_path / "other.fits", mode="update") as hdus:
        data = hdus["IMAGE"].data
        hdus["IMAGE"].data = data[:-1] if broken == "shape" else np.full_like(data, np.nan)
    with pytest.raises(FlatError, match=rf"other\.fits: compared with .*flat\.fits: {message}"):
        diff_files(flat, tmp_path / "other.fits", DiffOptions())
