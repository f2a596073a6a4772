"""Images of other programs: names decide what a plane means, and what has no data never passes as good."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from permil.errors import InputError
from permil.products import ImageProduct, MaskPlane, Sensor, read_any_image, read_image, write_image
from permil.products.masks import FIRST_FREE_BIT, mask_bits, translate_mask

SHAPE = (12, 15)
PLACE = (3, 4)
LEVEL = 1000.0

Read = Callable[..., ImageProduct]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a function that writes HDUs and reads the file."""

    def read_hdus(*hdus: Any, name: str = "image.fits", **options: Any) -> ImageProduct:
        path = tmp_path / name
        fits.HDUList(list(hdus)).writeto(path, output_verify="ignore")
        return read_any_image(path, **options)

    return read_hdus


def level(dtype: str = "f4", value: float = LEVEL) -> NDArray[Any]:
    return np.full(SHAPE, value, dtype=dtype)


def marked(value: float = 1, dtype: str = "i4") -> NDArray[Any]:
    mask = np.zeros(SHAPE, dtype=dtype)
    mask[PLACE] = value
    return mask


def hdu(data: NDArray[Any] | None, name: str = "", cards: Mapping[str, Any] | None = None, kind: type = fits.ImageHDU) -> Any:
    made = kind(data, name=name) if name else kind(data)
    for card, value in (cards or {}).items():
        made.header[card if len(card) <= 8 else f"HIERARCH {card}"] = value
    return made


def primary(data: NDArray[Any] | None = None, cards: Mapping[str, Any] | None = None) -> Any:
    return hdu(data, cards=cards, kind=fits.PrimaryHDU)


def only_at_place(product: ImageProduct) -> int:
    """Return the mask at the place that is marked; no other pixel may be."""
    others = product.mask.copy()
    others[PLACE] = 0
    assert not others.any()
    return int(product.mask[PLACE])


OTHER_PROGRAMS = {
    "BAD": "BAD", "SAT": "SAT", "NO_DATA": "NO_DATA", "EDGE": "EDGE", "SUSPECT": "SUSPECT", "CR": "BAD", "INTRP": "SUSPECT",
    "UNMASKEDNAN": "NO_DATA", "VIGNETTED": "BAD", "PARTLY_VIGNETTED": "SUSPECT", "STREAK": "SUSPECT", "ITL_DIP": "SUSPECT",
    "CROSSTALK": "SUSPECT", "DETECTED": "", "DETECTED_NEGATIVE": "", "NOT_DEBLENDED": "",
}  # fmt: skip


@pytest.mark.parametrize(("name", "meaning"), OTHER_PROGRAMS.items())
def test_planes_of_the_lsst_stack_mean_what_their_names_say(read: Read, name: str, meaning: str) -> None:
    product = read(primary(), hdu(level(), "IMAGE"), hdu(marked(1 << 11), "MASK", {f"MP_{name}": 11, "MP_OTHER": 2}))
    expected = int(MaskPlane[meaning]) if meaning else 0
    if name not in MaskPlane.__members__:
        expected |= 1 << product.planes[name]
    assert only_at_place(product) == expected
    assert min(product.planes.values()) >= FIRST_FREE_BIT


@pytest.mark.parametrize(
    ("cards", "value", "meaning"),
    [
        ({"MP_NO_DA": 3, "MP_MIDLI": 1}, 8, MaskPlane.NO_DATA),
        ({"MP_NO_DA": 1, "MP_MIDLI": 3}, 8, MaskPlane.MIDLINE),
        ({"MP_REJEC": 9}, 512, MaskPlane.REJECTED),
        ({"mp_sat": 5}, 32, MaskPlane.SAT),
        ({"MP_BAD": 0.0}, 1, MaskPlane.BAD),
        ({"MP_BAD": 2, "MP_SAT": 2}, 4, MaskPlane.BAD | MaskPlane.SAT),
    ],
)
def test_spellings_of_plane_cards(read: Read, cards: dict[str, Any], value: int, meaning: MaskPlane) -> None:
    assert only_at_place(read(primary(), hdu(level(), "IMAGE"), hdu(marked(value), "MASK", cards))) == int(meaning)


def test_planes_of_lsst_images_spread_over_two_masks(read: Read) -> None:
    names = [{"MSKN0001": "COSMIC_RAY", "MSKM0001": 1, "MSKN0002": "NO_DATA", "MSKM0002": 2}, {"MSKN0001": "SAT", "MSKM0001": 1}]
    masks = [
        hdu(marked(value), "MASK", {**cards, "EXTVER": 1 + number})
        for number, (value, cards) in enumerate(zip((2, 1), names, strict=True))
    ]
    product = read(primary(), hdu(level(), "IMAGE"), *masks)
    assert only_at_place(product) == MaskPlane.NO_DATA | MaskPlane.SAT
    assert set(product.planes) == {"COSMIC_RAY"}
    with pytest.raises(InputError, match="card MSKN0001 is 3"):
        read(primary(), hdu(level(), "IMAGE"), hdu(marked(), "MASK", {"MSKN0001": "A", "MSKM0001": 3.5}), name="wrong.fits")


def test_planes_may_be_named_in_the_primary_header(read: Read) -> None:
    cards = {"MP_NO_DATA": 0}
    assert only_at_place(read(primary(None, cards), hdu(level(), "IMAGE"), hdu(marked(), "MASK"))) == MaskPlane.NO_DATA


@pytest.mark.parametrize(("dtype", "bit"), [("u1", 7), ("i2", 15), ("u2", 15), ("i4", 31), ("u4", 31), ("i8", 40), ("u8", 63)])
def test_masks_of_any_width(read: Read, dtype: str, bit: int) -> None:
    mask = np.zeros(SHAPE, dtype=f"u{dtype[1:]}")
    mask[PLACE] = 1 << bit
    product = read(primary(), hdu(level(), "IMAGE"), hdu(mask.view(dtype), "MASK", {"MP_SAT": bit, "MP_BAD": 0}))
    assert only_at_place(product) == MaskPlane.SAT


@pytest.mark.parametrize(
    ("mask", "cards", "meaning", "said"),
    [
        (marked(1, "u1"), {}, MaskPlane.BAD, "set to BAD"),
        (marked(255, "u1"), {}, MaskPlane.BAD, "set to BAD"),
        (marked(16, "i2"), {}, MaskPlane.BAD, "set to BAD"),
        (marked(np.nan, "f4"), {}, MaskPlane.NO_DATA, "MASK"),
        (marked(-99, "i2"), {"BLANK": -99, "MP_BAD": 0}, MaskPlane.NO_DATA, "MASK"),
        (marked(4), {"MP_BAD": 0}, MaskPlane.SUSPECT, "BIT2"),
        (marked(4), {"MP_BAD": 0, "MP_MY_OWN_PLANE": 2}, MaskPlane(0), "MY_OWN_PLANE are unknown"),
    ],
)
def test_missing_and_unknown_names_are_reported(
    read: Read, mask: NDArray[Any], cards: dict[str, Any], meaning: MaskPlane, said: str
) -> None:
    product = read(primary(), hdu(level(), "IMAGE"), hdu(mask, "MASK", cards))
    own = int(np.bitwise_or.reduce(list(MaskPlane)))
    assert only_at_place(product) & own == int(meaning)
    assert any(said in remark for remark in product.remarks)


def test_planes_are_carried_through_a_product(read: Read, tmp_path: Path) -> None:
    cards = {"MP_INTRP": 1, "MP_DETECTED_NEGATIVE": 9, "MP_MINE": 40, "MP_SUSPECT": 0}
    product = read(primary(), hdu(level(), "IMAGE"), hdu(marked((1 << 40) + (1 << 1), "i8"), "MASK", cards))
    write_image(tmp_path / "out.fits", product.image, product.mask, product.variance, planes=product.planes)
    for back in (read_image(tmp_path / "out.fits"), read_any_image(tmp_path / "out.fits")):
        np.testing.assert_array_equal(back.mask, product.mask)
        assert back.planes == product.planes
        assert back.mask[PLACE] == int(MaskPlane.SUSPECT) | 1 << back.planes["INTRP"] | 1 << back.planes["MINE"]
    bits = mask_bits(fits.getheader(tmp_path / "out.fits", "MASK"))
    assert bits["NO_DATA"] == 2
    assert {"INTRP", "MINE", "DETECTED_NEGATIVE"} <= set(bits)


def test_planes_without_a_free_bit_are_named() -> None:
    names = {f"P{number}": number for number in range(32)}
    translated = translate_mask(np.array([[1 << 31, 3]], dtype=np.int64), names)
    assert {"P0", "P1", "P31"} <= set(translated.planes)
    everything = translate_mask(np.array([[2**32 - 1]], dtype=np.int64), names)
    assert len(everything.planes) == 24
    assert any("no bit is free" in remark for remark in everything.remarks)
    assert everything.mask.dtype == np.int32


@pytest.mark.parametrize(
    ("mask", "cards", "message"),
    [
        (1 - marked(1, "u1"), {}, "may mark the good ones"),
        (marked(0.5, "f4"), {}, "values that are not integers"),
        (marked(), {"MP_BAD": "zero"}, "card MP_BAD is 'zero'"),
        (marked(), {"MP_BAD": -1}, "card MP_BAD is -1"),
        (marked(), {"MP_BAD": 1.5}, "card MP_BAD is 1.5"),
        (marked(), {"MP_BAD": 64}, "card MP_BAD is 64"),
        (np.zeros((5, 5), np.int32), {}, "does not have the shape of the image"),
    ],
)
def test_masks_that_cannot_be_understood_are_refused(read: Read, mask: NDArray[Any], cards: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(primary(), hdu(level(), "IMAGE"), hdu(mask, "MASK", cards))


LAYOUTS: dict[str, tuple[list[Any], float]] = {
    "ccdproc": ([primary(level()), hdu(marked(1, "u1"), "MASK"), hdu(level("f4", 3), "UNCERT", {"UTYPE": "StdDevUncertainty"})], 9),
    "ccdproc, variance": ([primary(level()), hdu(marked(), "MASK"), hdu(level("f4", 9), "UNCERT", {"UTYPE": "VarianceUncertainty"})], 9),
    "ccdproc, inverse": ([primary(level()), hdu(marked(), "MASK"), hdu(level("f8", 0.5), "UNCERT", {"UTYPE": "InverseVariance"})], 2),
    "HST": ([primary(), hdu(level(), "SCI"), hdu(level("f4", 3), "ERR"), hdu(marked(16, "i2"), "DQ")], 9),
    "JWST": (
        [primary(), hdu(level(), "SCI"), hdu(level("f4", 3), "ERR"), hdu(marked(5, "u4"), "DQ"), hdu(level(), "AREA"),
         hdu(level(), "VAR_POISSON")], 9,
    ),
    "ESO": ([primary(), hdu(level(), "DATA"), hdu(level("f4", 7), "STAT"), hdu(marked(2), "QUAL")], 7),
    "bad pixel map": ([primary(level()), hdu(marked(1, "u1"), "BPM")], 0),
    "good pixel map": ([primary(level()), hdu(1 - marked(1, "u1"), "GOODPIX")], 0),
    "weight": ([primary(level()), hdu(1 - marked(1, "f4"), "WEIGHT")], 0),
    "inverse variance": ([primary(level()), hdu(0.25 * (1 - marked(1, "f4")), "IVAR")], 4),
    "EXTTYPE": (
        [primary(), hdu(level(), cards={"EXTTYPE": "IMAGE"}), hdu(marked(2), cards={"EXTTYPE": "MASK", "MP_SAT": 1}),
         hdu(level("f4", 5), cards={"EXTTYPE": "VARIANCE"})], 5,
    ),
    "EXTTYPE beside names of their own": (
        [primary(), hdu(level(), "EXPOSURE", {"EXTTYPE": "IMAGE"}), hdu(marked(2), "PLANES", {"EXTTYPE": "MASK", "MP_SAT": 1})], 0,
    ),
    "mask first": ([primary(), hdu(marked(2), "MASK", {"MP_SAT": 1}), hdu(level(), "IMAGE")], 0),
    "mask without a name but with planes": ([primary(), hdu(level()), hdu(marked(2), cards={"MP_SAT": 1})], 0),
    "further HDUs": (
        [primary(), hdu(level(), "IMAGE"), hdu(marked(2), "MASK", {"MP_SAT": 1}), hdu(level("f4", 5), "VARIANCE"),
         fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1])], name="ARCHIVE_INDEX"), hdu(level(), "PSF")], 5,
    ),
    "preview in front": ([primary(level()[:5, :5]), hdu(level()), hdu(marked(2), "MASK", {"MP_SAT": 1})], 0),
    "one more axis": ([primary(level()[None]), hdu(marked()[None], "MASK")], 0),
    "lower case": ([primary(), hdu(level(), "sci"), hdu(level("f4", 3), "err"), hdu(marked(), "dq")], 9),
    "units": (
        [primary(), hdu(level(), "IMAGE", {"BUNIT": "adu"}), hdu(level("f4", 3), "ERR", {"BUNIT": "adu"}),
         hdu(marked(), "DQ")], 9,
    ),
    "units of the variance": (
        [primary(), hdu(level(), "IMAGE", {"BUNIT": "nJy"}), hdu(marked(), "MASK", {"MP_BAD": 0}),
         hdu(level("f4", 2e-12), "VARIANCE", {"BUNIT": "uJy2"})], 2e-6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compressed", [False, True])
def test_layouts(read: Read, layout: str, compressed: bool) -> None:
    hdus, variance = LAYOUTS[layout]
    copies = [entry.copy() for entry in hdus]
    if compressed:
        copies = [_compressed(entry) if isinstance(entry, fits.ImageHDU) and entry.data.ndim == 2 else entry for entry in copies]
    product = read(*copies, shape=SHAPE)
    assert (product.image == LEVEL).all()
    assert only_at_place(product) != 0
    others = product.mask == 0
    np.testing.assert_allclose(product.variance[others], variance, rtol=1e-6)


def _compressed(entry: Any) -> Any:
    made = fits.CompImageHDU(entry.data, header=entry.header, compression_type="GZIP_1", quantize_level=0)
    if not entry.name:
        made.header.pop("EXTNAME", None)
    return made


def blank(dtype: str, value: int, stored: int, **cards: Any) -> Any:
    data = level(dtype)
    data[PLACE] = stored
    made = hdu(data, "IMAGE", cards)
    made.header["BLANK"] = value
    return made


def lacking(value: float) -> Any:
    data = level()
    data[PLACE] = value
    return hdu(data, "IMAGE")


@pytest.mark.parametrize(
    "image",
    [
        lacking(np.nan),
        lacking(np.inf),
        lacking(-np.inf),
        blank("i2", -32768, -32768),
        # Astropy itself ignores a BLANK of 0 and that of unsigned integers.
        blank("i2", 0, 0),
        blank("u2", 7, 32768 + 7),
        blank("u4", -5, 2**31 - 5),
        blank("u1", 255, 255, BSCALE=1.0, BZERO=LEVEL - level("u1")[0, 0]),
    ],
)
def test_what_has_no_data_never_passes_as_good(read: Read, image: Any) -> None:
    product = read(primary(), image)
    assert only_at_place(product) == MaskPlane.NO_DATA
    assert np.isnan(product.image[PLACE])
    assert np.count_nonzero(product.image == LEVEL) == product.image.size - 1


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">f8", "<i4"])
def test_values_of_any_type(read: Read, dtype: str) -> None:
    value = 200 if dtype == "u1" else 30_000
    product = read(primary(), hdu(level(dtype, value), "IMAGE"))
    assert (product.image == value).all()
    assert product.image.dtype.kind == "f"
    assert product.image.dtype.isnative


def test_scaled_integers(read: Read) -> None:
    product = read(primary(), hdu(level("i2", 450), "IMAGE", {"BSCALE": 2.0, "BZERO": 100.0}))
    assert (product.image == LEVEL).all()


@pytest.mark.parametrize("value", [np.nan, -1.0, 0.0, np.inf])
def test_a_variance_that_is_not_one_is_not_known(read: Read, value: float) -> None:
    variance = level("f4", 30)
    variance[PLACE] = value
    product = read(primary(), hdu(level(), "IMAGE"), hdu(variance, "VARIANCE"))
    assert np.isnan(product.variance[PLACE])
    assert np.count_nonzero(product.variance == 30) == variance.size - 1
    assert "the variance of 1 usable pixels is unknown" in product.remarks


@pytest.mark.parametrize(
    ("hdus", "message"),
    [
        ([primary(), hdu(level()), hdu(level())], "the image is ambiguous: HDU 1 .*HDU 2"),
        ([primary(), hdu(level(), "IMAGE"), hdu(level(), "IMAGE")], "the image is ambiguous"),
        ([primary(), hdu(level(), "A"), hdu(level(), "B")], "the image is ambiguous"),
        ([primary(), hdu(marked(), "MASK")], r"no image in this file .*MASK"),
        ([primary()], "no image in this file"),
        ([primary(np.zeros((3, *SHAPE), np.float32))], "no image in this file"),
        ([primary(), hdu(np.zeros((3, *SHAPE), np.float32), "SCI"), hdu(level(), "PSF")], r"HDU 1 \(SCI\) has 3 axes"),
        ([primary(), hdu(level(), "IMAGE"), hdu(np.zeros((2, *SHAPE), np.uint8), "MASK")], r"HDU 2 \(MASK\) has 3 axes"),
        ([primary(), *(hdu(level(), f"Segment{number:02d}") for number in range(16))], "permil assemble"),
        ([primary(), hdu(level(), "IMAGE"), hdu(marked(), "MASK"), hdu(marked(), "MASK")], "the mask is ambiguous"),
        ([primary(), hdu(level(), "IMAGE"), hdu(level(), "VAR"), hdu(level(), "VARIANCE")], "the variance is ambiguous"),
        ([primary(), hdu(level(), "IMAGE"), hdu(marked(), "MASK", {"DETECTOR": "R22_S12"})], "MASK.* is of another sensor than"),
    ],
)
def test_ambiguous_files_are_refused(read: Read, hdus: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(*[entry.copy() for entry in hdus], sensor=Sensor("R22_S11"))


def test_the_image_of_the_sensor_that_is_wanted_is_taken_with_its_planes(read: Read) -> None:
    named = [("R22_S12", 2), ("R22-S11", 1), ("R22_S10", 3)]
    hdus = [
        part
        for name, factor in named
        for part in (hdu(factor * level(), name), hdu(marked(1 << factor), f"{name} MASK", {"MP_SAT": 1}))
    ]
    product = read(primary(), *hdus, sensor=Sensor("R22_S11"))
    assert (product.image == LEVEL).all()
    assert only_at_place(product) == MaskPlane.SAT
    versions = [hdu(factor * level(), "SCI", {"EXTVER": factor, "DETECTOR": f"R22_S1{factor}"}) for factor in (2, 1)]
    masks = [hdu(marked(factor), "DQ", {"EXTVER": factor, "MP_BAD": 0, "MP_SAT": 1}) for factor in (2, 1)]
    product = read(primary(), *versions, *masks, sensor=Sensor("R22_S11"), name="versions.fits")
    assert (product.image == LEVEL).all()
    assert only_at_place(product) == MaskPlane.BAD
    with pytest.raises(InputError, match="no image of R01_S00"):
        read(primary(), hdu(level(), "R22_S12"), hdu(level(), "R22_S10"), sensor=Sensor("R01_S00"), name="others.fits")


def test_a_product_that_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flat.fits"
    write_image(path, level(), marked(), level("f4", 4))
    content = bytearray(path.read_bytes())
    content[2 * 2880 + 100] ^= 1
    path.write_bytes(content)
    for reader in (read_image, read_any_image):
        with pytest.raises(InputError, match=r"flat\.fits: damaged: .*DATASUM.*make the file again"):
            reader(path)


def test_changed_data_of_another_program_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "image.fits"
    fits.HDUList([primary(), hdu(level(), "IMAGE")]).writeto(path, checksum=True)
    content = bytearray(path.read_bytes())
    content[2 * 2880 + 3] ^= 1
    path.write_bytes(content)
    assert any("data of HDU 1 do not match DATASUM" in remark for remark in read_any_image(path).remarks)


def test_planes_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "flat.fits"
    fits.HDUList([primary(), *(hdu(level(), name) for name in ("IMAGE", "IMAGE", "MASK", "VARIANCE"))]).writeto(path)
    with pytest.raises(InputError, match="IMAGE is duplicated"):
        read_image(path)


@pytest.mark.parametrize("length", [100, 2880, 2 * 2880 + 300])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "image.fits"
    fits.HDUList([primary(), hdu(np.ones((90, 90)), "IMAGE")]).writeto(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"image\.fits: "):
        read_any_image(path)
