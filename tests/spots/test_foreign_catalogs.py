"""Catalogs as other programs leave them: units, masks, markers of missing values, flags, cards that no standard allows, damage."""

from __future__ import annotations

import bz2
import gzip
import re
import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from astropy.utils.masked import Masked

from permil.errors import InputError
from permil.spots.catalog import SpotCatalog, SpotFlag, write_catalog
from permil.spots.files import grid_file
from permil.spots.readers import read_catalog

COUNT = 12
STACK = ("base_SdssCentroid_x", "base_SdssCentroid_y", "base_SdssShape_xx", "base_SdssShape_yy", "base_SdssShape_xy")
FLUX = "base_CircularApertureFlux_12_0_instFlux"


def _values(count=COUNT):
    rng = np.random.default_rng(0)
    names = ("x", "y", "xx", "yy", "xy", "flux")
    values = {name: rng.uniform(4.0, 900.0, count) for name in names}
    return values | {f"{name}_err": rng.uniform(0.01, 0.1, count) for name in names}


def _stack(**columns):
    table = Table({name: np.arange(COUNT) + 1.25 * number for number, name in enumerate((*STACK, FLUX), start=1)})
    for name, values in columns.items():
        table[name] = values
    return table


def _write(path, table, *, primary=None, cards=None, name=None):
    """Write a table; the cards are 80 characters each, as they are to stand in the file."""
    hdu = fits.BinTableHDU(table, name=name)
    hdu.header.update(cards or {})
    head = fits.PrimaryHDU()
    raw = list(primary or [])
    for number in range(len(raw)):
        head.header[f"XX{number}"] = "placeholder"
    fits.HDUList([head, hdu]).writeto(path)
    content = path.read_bytes()
    for number, card in enumerate(raw):
        start = content.index(f"XX{number:<6}=".encode())
        content = content[:start] + card.ljust(80).encode("latin-1") + content[start + 80 :]
    path.write_bytes(content)
    return path


# Units


def _declare(path, column, unit):
    with fits.open(path, mode="update") as hdus:
        hdus[1].header[f"TUNIT{hdus[1].columns.names.index(column) + 1}"] = unit
    return path


@pytest.mark.parametrize("unit", ["mag", "nJy", "electron / s", "adu s-1", "Jy", "W", "erg / s"])
@pytest.mark.parametrize("column", ["flux", "flux_err"])
def test_fluxes_in_other_units_are_refused(tmp_path, column, unit):
    with pytest.raises(InputError, match=rf"a\.fits: .*{column}.* given in {unit[:2]}"):
        read_catalog(_declare(_write(tmp_path / "a.fits", Table(_values())), column, unit))


def test_units_that_astropy_keeps_in_comments(tmp_path):
    table = QTable({name.upper().replace("_", ""): values for name, values in _values().items()})
    table["FLUX"] = Masked(np.asarray(table["FLUX"]) * u.electron, mask=np.arange(COUNT) == 3)
    table["X"] *= u.pix
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table.write(tmp_path / "a.fits")
        table["FLUX"] = table["FLUX"] / u.s
        table.write(tmp_path / "b.fits")
    catalog = read_catalog(tmp_path / "a.fits")
    assert catalog.flux_unit == "electron"
    np.testing.assert_array_equal(np.isnan(catalog.flux), np.arange(COUNT) == 3)
    with pytest.raises(InputError, match=r"given in electron / s"):
        read_catalog(tmp_path / "b.fits")


@pytest.mark.parametrize(("column", "unit"), [
    ("x", "arcsec"), ("y", "deg"), ("x", "mm"), ("x", "um"), ("xx", "arcsec2"), ("yy", "pixel"), ("xy", "mm2"), ("x_err", "arcsec"),
    ("xx_err", "pixel"), ("x", "furlongs of 1824"), ("background", "nJy / pixel"),
])  # fmt: skip
def test_places_and_moments_in_other_units_are_refused(tmp_path, column, unit):
    table = Table(_values() | {"background": np.ones(COUNT)})
    with pytest.raises(InputError, match=rf"a\.fits: column {column}"):
        read_catalog(_declare(_write(tmp_path / "a.fits", table), column, unit))


@pytest.mark.parametrize(("stored", "card", "expected"), [
    ("electron", None, "electron"), ("e-", None, "electron"), ("adu", None, "count"), ("ADU", "counts", "count"), ("DN", None, "count"),
    ("count", None, "count"), (None, "adu", "count"), (None, None, "electron"), ("-", "electrons", "electron"), ("none", None, "electron"),
])  # fmt: skip
def test_unit_of_the_flux_is_what_the_column_says(tmp_path, stored, card, expected):
    path = _write(tmp_path / "a.fits", Table(_values()), primary=[f"FLUXUNIT= '{card}'"] if card else [])
    if stored:
        _declare(path, "flux", stored)
    assert read_catalog(path).flux_unit == expected


def test_units_of_column_and_card_contradict_each_other(tmp_path):
    table = Table(_values())
    table["flux"].unit = "adu"
    with pytest.raises(InputError, match=r"column flux is in adu, but the card FLUXUNIT is electron"):
        read_catalog(_write(tmp_path / "a.fits", table, primary=["FLUXUNIT= 'electron'"]))


def test_usual_spellings_of_pixels(tmp_path):
    for number, (length, area) in enumerate(
        [("pix", "pix^2"), ("pixels", "pixel**2"), ("pixel", "pixel2"), ("PIXEL", "PIXEL^2")]
    ):
        path = _write(tmp_path / f"{number}.fits", Table(_values()))
        with fits.open(path, mode="update") as hdus:
            for column, name in enumerate(hdus[1].columns.names, start=1):
                if name[0] in "xy":
                    hdus[1].header[f"TUNIT{column}"] = length if name[:2] in ("x", "y", "x_", "y_") else area
        np.testing.assert_array_equal(read_catalog(path).xx, _values()["xx"])


# Masks, formats, markers


def test_nulls_of_integer_columns_are_missing(tmp_path):
    whole = (100 * np.arange(COUNT) + 7).astype(np.int32)
    table = Table(_values() | {"x": MaskedColumn(whole, mask=np.arange(COUNT) == 3), "flux": whole[::-1].copy()})
    catalog = read_catalog(_write(tmp_path / "a.fits", table))
    np.testing.assert_array_equal(np.isnan(catalog.x), np.arange(COUNT) == 3)
    assert not catalog.good[3]
    np.testing.assert_array_equal(catalog.flux, whole[::-1])


def test_null_of_a_scaled_column_is_a_stored_value(tmp_path):
    columns = [fits.Column(name, "D", array=values) for name, values in _values().items() if name != "flux"]
    columns.append(fits.Column("flux", "J", array=np.arange(COUNT, dtype=np.int32), null=5))
    path = tmp_path / "a.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(path)
    with fits.open(path, mode="update") as hdus:
        number = hdus[1].columns.names.index("flux") + 1
        hdus[1].header[f"TSCAL{number}"], hdus[1].header[f"TZERO{number}"] = 2.5, 1.0
    # The value 5 = 2.5 * 1.6 + 1 is no null, the stored 5 is.
    np.testing.assert_array_equal(read_catalog(path).flux, [1 + 2.5 * n if n != 5 else np.nan for n in range(COUNT)])


@pytest.mark.parametrize("format_", ["E", "J", "K", "I", "8A", "1D", "TABLE"])
def test_other_formats_of_numbers(tmp_path, format_):
    values = {name: np.arange(COUNT) * 3.0 + 5 * number for number, name in enumerate(_values())}
    as_text = format_ == "8A"
    columns = []
    for name, numbers in values.items():
        kind = "F12.3" if format_ == "TABLE" else format_
        columns.append(fits.Column(name, kind, array=np.array([f"{n:.1f}" for n in numbers]) if as_text else numbers))
    hdu = (fits.TableHDU if format_ == "TABLE" else fits.BinTableHDU).from_columns(columns)
    if format_ == "1D":
        for number in range(1, len(columns) + 1):
            hdu.header[f"TDIM{number}"] = "(1)"
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "a.fits")
    catalog = read_catalog(tmp_path / "a.fits")
    for name, numbers in values.items():
        expected = np.where(numbers > 0, numbers, np.nan) if name.endswith("_err") else numbers
        np.testing.assert_array_equal(getattr(catalog, name), expected, err_msg=name)


@pytest.mark.parametrize(("format_", "values"), [
    ("3D", np.ones((COUNT, 3))), ("PD()", np.array([np.arange(1.0 + n % 3) for n in range(COUNT)], dtype=object)),
    ("10A", np.array(["about 5"] * COUNT)), ("M", np.ones(COUNT, dtype=complex)),
])  # fmt: skip
def test_columns_without_one_number_per_row_are_refused(tmp_path, format_, values):
    columns = [fits.Column(name, "D", array=array) for name, array in _values().items() if name != "flux"]
    columns.append(fits.Column("flux", format_, array=values))
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(tmp_path / "a.fits")
    with pytest.raises(InputError, match=r"a\.fits: column flux"):
        read_catalog(tmp_path / "a.fits")


@pytest.mark.parametrize(("column", "rows", "marker", "lost"), [
    ("x", [2], -9999.0, "x"), ("y", [2, 4], -999.0, "y"), ("x", [1], 1e20, "x"), ("y", [1], np.inf, "y"), ("flux", [3, 5], -9999.0, "flux"),
    ("flux", [3], 1e30, "flux"), ("xx", [2], -1.0, "xx"), ("yy", [2], -99.0, "yy"), ("xy", [6], -9999.0, "xy"),
    ("x_err", [0, 1], 0.0, "x_err"), ("flux_err", [2], -1.0, "flux_err"), ("flux_err", [2], 1e20, "flux_err"),
    ("xx_err", [2], np.inf, "xx_err"),
])  # fmt: skip
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_markers_of_missing_values(tmp_path, column, rows, marker, lost, kind):
    table = Table({name: values.astype(kind) for name, values in _values().items()})
    table[column][rows] = marker
    catalog = read_catalog(_write(tmp_path / "a.fits", table))
    np.testing.assert_array_equal(np.isnan(getattr(catalog, lost)), np.isin(np.arange(COUNT), rows))
    is_listed = any(f"{len(rows)} values of {column} mark missing" in remark for remark in catalog.remarks)
    assert is_listed == (not column.endswith("_err") and np.isfinite(marker))


@pytest.mark.parametrize(
    ("columns", "marker"), [(("x", "y"), -1.0), (("x", "y"), 0.0), (("flux", "flux_err"), 99.0), (("xx", "yy"), 999.0)]
)
def test_markers_in_two_columns(tmp_path, columns, marker):
    table = Table(_values())
    for name in columns:
        table[name][[4, 7]] = marker
    catalog = read_catalog(_write(tmp_path / "a.fits", table))
    np.testing.assert_array_equal(np.isnan(getattr(catalog, columns[0])), np.isin(np.arange(COUNT), [4, 7]))


def test_numbers_that_only_look_like_markers_are_kept(tmp_path):
    table = Table(_values())
    table["flux"][2], table["flux"][5] = -9999.0, 99.0  # once, with an error of its own
    table["x"][1], table["y"][2], table["xy"][3], table["xx"][4] = 99.0, 0.0, -1.0, 99.0
    catalog = read_catalog(_write(tmp_path / "a.fits", table))
    for name in ("x", "y", "xx", "xy", "flux"):
        np.testing.assert_array_equal(getattr(catalog, name), table[name], err_msg=name)
    assert catalog.remarks == ()


def test_rows_that_repeat_others_count_once(tmp_path):
    table = Table(_values())
    again = table[[2, 5, 5, 7]]
    again["flux"][3] += 1  # another measurement of the same source
    whole = Table(np.concatenate([table.as_array(), again.as_array()]))
    catalog = read_catalog(_write(tmp_path / "a.fits", whole))
    np.testing.assert_array_equal(np.isfinite(catalog.x), [*[True] * COUNT, False, False, False, True])
    assert catalog.remarks == ("3 rows repeat others exactly and count once (the first: row 13)",)


# Flags


@pytest.mark.parametrize("kind", ["int16", "uint8", "int64", "float64", "letters", "words"])
def test_logical_flags_that_come_back_as_something_else(tmp_path, kind):
    raised = np.arange(COUNT) == 4
    text = {"letters": np.where(raised, "T", "F"), "words": np.where(raised, "True", "false")}
    values = text[kind] if kind in text else raised.astype(kind)
    catalog = read_catalog(_write(tmp_path / "a.fits", _stack(base_SdssShape_flag=values, base_PixelFlags_flag_bad=values)))
    np.testing.assert_array_equal(catalog.flags, np.where(raised, int(SpotFlag.BAD_FIT | SpotFlag.MASKED), 0))


def test_masked_flags_are_not_raised_and_others_are_refused(tmp_path):
    flag = MaskedColumn(np.full(COUNT, 1, dtype=np.int16), mask=np.arange(COUNT) != 4)
    catalog = read_catalog(_write(tmp_path / "a.fits", _stack(base_SdssCentroid_flag=flag)))
    np.testing.assert_array_equal(catalog.flags != 0, np.arange(COUNT) == 4)
    with pytest.raises(InputError, match=r"base_SdssCentroid_flag holds '7' in row 1, which is neither true nor false"):
        read_catalog(_write(tmp_path / "b.fits", _stack(base_SdssCentroid_flag=np.full(COUNT, 7))))


@pytest.mark.parametrize("stored", ["bits", "bytes", "numbers", "logical"])
def test_named_bits_in_other_formats(tmp_path, stored):
    bits = np.zeros((COUNT, 10), dtype=bool)
    bits[4, 1] = bits[5, 9] = bits[6, 0] = True
    packed = {"bytes": np.packbits(bits, axis=1), "numbers": bits.astype(np.int16), "logical": bits}
    cards = {"TFLAG1": "base_Other_flag", "TFLAG2": "base_SdssShape_flag", "TFLAG10": "base_PixelFlags_flag_saturated"}
    path = tmp_path / "a.fits"
    columns = [fits.Column(name, "D", array=np.asarray(_stack()[name])) for name in _stack().colnames]
    format_ = {"bits": "10X", "bytes": "2B", "numbers": "10I", "logical": "10L"}[stored]
    columns.append(fits.Column("flags", format_, array=packed.get(stored, bits)))
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.header.update(cards)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    expected = np.zeros(COUNT, dtype=int)
    expected[4], expected[5] = int(SpotFlag.BAD_FIT), int(SpotFlag.SATURATED)
    np.testing.assert_array_equal(read_catalog(path).flags, expected)


def test_bits_of_unknown_order_are_refused(tmp_path):
    table = _stack(flags=np.arange(COUNT, dtype=np.int32) * 1000)
    with pytest.raises(InputError, match="bits of column flags"):
        read_catalog(_write(tmp_path / "a.fits", table, cards={"TFLAG1": "base_SdssShape_flag"}))


def test_flags_of_permil_are_recognised_by_name(tmp_path):
    table = Table(_values() | {"flags": np.array([0, 1, 2, 4, 8] + [0] * 7, dtype=np.int16)})
    named = read_catalog(_write(tmp_path / "a.fits", table, cards={"FL_EDGE": 0, "FL_SATUR": 1, "FL_BLEND": 2}))
    blend, edge, saturated = int(SpotFlag.BLEND), int(SpotFlag.EDGE), int(SpotFlag.SATURATED)
    np.testing.assert_array_equal(named.flags[:5], [0, edge, saturated, blend, int(SpotFlag.BAD_FIT)])
    assert "1 sources have flags without a name in a card FL_*" in named.remarks[0]
    np.testing.assert_array_equal(read_catalog(_write(tmp_path / "b.fits", table)).flags[:5], [0, 1, 2, 4, 8])


def test_grid_files_keep_the_names_of_flags_the_unit_and_the_aperture(tmp_path):
    i, j = (index.ravel() for index in np.indices((8, 8)))
    flags = np.where(i == 3, int(SpotFlag.SATURATED), 0)
    catalog = SpotCatalog(
        x=100.0 + 60 * i + 0.01 * j, y=90.0 + 60 * j, xx=5 + 0.1 * i, yy=5 + 0.1 * j, flux=1e4 + i, flags=flags, flux_unit="adu",
        aperture=9.0, detector="R22_S11", serial="E2V-CCD250-382", exposure="e1",
    )  # fmt: skip
    write_catalog(tmp_path / "a.fits", catalog)
    grid_file(tmp_path / "a.fits", tmp_path / "grid.fits", columns=8, rows=8)
    again = read_catalog(tmp_path / "grid.fits")
    assert (again.flux_unit, again.aperture, again.serial, again.exposure) == ("count", 9.0, "E2V-CCD250-382", "e1")
    np.testing.assert_array_equal(again.flags, flags)
    assert fits.getheader(tmp_path / "grid.fits", 1)["FL_SATUR"] == 2


@pytest.mark.parametrize("value", [1.5, 0.25])
def test_labels_that_are_no_nodes_are_refused(tmp_path, value):
    table = Table(_values() | {"grid_i": np.full(COUNT, value), "grid_j": np.arange(COUNT)})
    with pytest.raises(InputError, match="which is not a node"):
        read_catalog(_write(tmp_path / "a.fits", table))


def test_missing_labels(tmp_path):
    table = Table(
        _values() | {"GRID_I": MaskedColumn(np.arange(COUNT), mask=np.arange(COUNT) == 2), "grid_j": np.arange(COUNT) * 1.0}
    )
    table["grid_j"][5] = np.nan
    np.testing.assert_array_equal(~read_catalog(_write(tmp_path / "a.fits", table)).labelled, np.isin(np.arange(COUNT), [2, 5]))


# Cards


@pytest.mark.parametrize(("card", "field", "expected"), [
    ("EXPTIME = '15.0 s'", "exposure_time", 15.0), ("EXPTIME = '15.0'", "exposure_time", 15.0),
    ("EXPTIME = '15000 ms'", "exposure_time", 15.0), ("EXPTIME = NaN", "exposure_time", np.nan),
    ("EXPTIME =", "exposure_time", np.nan), ("EXPTIME = 'long'", "exposure_time", np.nan), ("EXPTIME = -1.0", "exposure_time", np.nan),
    ("EXPTIME = T", "exposure_time", np.nan), ("exptime = 15.0", "exposure_time", 15.0), ("EXPTIME = 1.0E400", "exposure_time", np.nan),
    ("MJD     = '2019-10-30T12:00:00'", "mjd", 58786.5), ("MJD     = '2019-10-30'", "mjd", 58786.0),
    ("MJD     = '58786.25'", "mjd", 58786.25), ("MJD     = '2019-13-30T12:00:00'", "mjd", np.nan), ("MJD     = 2458786.5", "mjd", np.nan),
    ("MJD     = -999.0", "mjd", np.nan), ("MJD     =", "mjd", np.nan), ("MJD-OBS = '2019-10-30T12:00:00Z'", "mjd", 58786.5),
    ("PROJX   = '12 cm'", "projector_x", 120.0), ("BOTXCAM = NaN", "projector_x", np.nan), ("PROJX   = -9999.0", "projector_x", np.nan),
    ("BOTYCAM = '3,5'", "projector_y", np.nan), ("APERTURE= 'wide'", "aperture", np.nan), ("APERTURE= 0", "aperture", np.nan),
    ("BAND    =", "band", ""), ("FILTER  = 'NONE'", "band", ""), ("BAND    = 'RED'", "band", "red"), ("FILTER  = 'SDSSi'", "band", "SDSSi"),
    ("OBSID   = 3019103000363", "exposure", "3019103000363"), ("EXPOSURE= 12", "exposure", "12"), ("EXPOSURE=", "exposure", "a"),
    ("DETECTOR= 94", "detector", "94"), ("DETECTOR= 'R22-S11 '", "detector", "R22-S11"), ("DETECTOR= 'unknown'", "detector", ""),
    ("LSST_NUM= 'E2V-CCD250-382'", "detector", "E2V-CCD250-382"), ("RAFTBAY = 'R22'", "detector", "R22"),
])  # fmt: skip
def test_cards_that_no_standard_allows(tmp_path, card, field, expected):
    catalog = read_catalog(_write(tmp_path / "a.fits", Table(_values()), primary=[card]))
    found = getattr(catalog, field)
    assert found == expected or (found != found and expected != expected)
    keyword = card[:8].strip()
    # What says something but cannot be used is listed.
    is_lost = expected != expected and card.split("=")[1].strip() not in ("", "T")
    assert any(keyword in remark and "not used" in remark for remark in catalog.remarks) == (is_lost or card.endswith("= T"))


def test_cards_in_the_header_of_the_table(tmp_path):
    cards = {"DETECTOR": "R22_S11", "EXPOSURE": "e7", "EXPTIME": 2.0, "MJD": 58000.0, "FLUXUNIT": "adu", "BAND": "blue"}
    catalog = read_catalog(_write(tmp_path / "a.fits", Table(_values()), cards=cards))
    assert (catalog.detector, catalog.exposure, catalog.exposure_time, catalog.mjd) == ("R22_S11", "e7", 2.0, 58000.0)
    assert (catalog.flux_unit, catalog.band) == ("count", "blue")


@pytest.mark.parametrize(("name", "card", "ext"), [
    ("a.fits", "DETECTOR= 'R22_S11'", {"DETECTOR": "R02_S02"}), ("MC_C_20191030_000363_R02_S02.fits", "DETECTOR= 'R22-S11'", {}),
    ("MC_C_20191030_000363_R02_S02.fits", "OBSID   = 'MC_C_20191030_000364'", {}), ("a_r02s02.fits", "DETECTOR= 'R22_S11'", {}),
])  # fmt: skip
def test_contradicting_statements_are_refused(tmp_path, name, card, ext):
    with pytest.raises(InputError, match="contradict each other"):
        read_catalog(_write(tmp_path / name, Table(_values()), primary=[card], cards=ext))


def test_other_spellings_of_one_statement_are_no_contradiction(tmp_path):
    name = "MC_C_20191030_000363_R22-S11_1.5e1s_1e-05x_-3.5y.fits"
    catalog = read_catalog(_write(tmp_path / name, Table(_values()), primary=["DETECTOR= 'r22_s11'"], cards={"DETECTOR": 94}))
    assert (catalog.detector, catalog.exposure, catalog.exposure_time) == ("r22_s11", "MC_C_20191030_000363", 15.0)
    assert (catalog.projector_x, catalog.projector_y) == (1e-5, -3.5)


# Files


def _damaged(folder):
    """Yield files that cannot be used, and what is to be said of each."""
    good = _write(folder / "good.fits", Table(_values(400))).read_bytes()
    yield "cut.fits", good[: len(good) - 2880 * 3], "cut short|cannot be"
    yield "cut_in_header.fits", good[:3500], "cannot be read|no table|cut short"
    yield "empty.fits", b"", "cannot be read as FITS"
    yield "zeros.fits", b"\0" * 5760, "cannot be read as FITS"
    yield "text.fits", b"not FITS at all", "cannot be read as FITS"
    yield "cut.fits.gz", gzip.compress(good)[:-500], "cannot be|cut short"
    yield "half.fits.bz2", bz2.compress(good)[:-500], "cannot be|cut short"
    yield "columns.fits", good.replace(b"TFORM3  = 'D       '", b"TFORM3  = 'Q9      '"), "cannot be|damaged|column"
    yield (
        "rows.fits",
        good.replace(b"NAXIS2  =                  400", b"NAXIS2  =           4000000000"),
        "cannot be|cut short|damaged",
    )
    yield "negative.fits", re.sub(rb"(NAXIS1  = +)96", rb"\g<1>-8", good), "cannot be|damaged|negative"
    yield "bitpix.fits", good.replace(b"BITPIX  =                    8", b"BITPIX  =           8000000000", 2), "cannot be"
    yield "catalog.ecsv", b"# %ECSV 1.0\n", "a catalog of spots is a FITS file, not .ecsv"
    yield "catalog.parquet", b"PAR1", "a catalog of spots is a FITS file, not .parquet"


def test_damaged_files_are_named_in_one_sentence(tmp_path):
    for name, content, sentence in _damaged(tmp_path):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=sentence) as caught:
            read_catalog(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name)), name


@pytest.mark.parametrize("more", [bytes(100), bytes(2880), b" " * 2880], ids=["zeros", "a block of zeros", "a block of blanks"])
def test_bytes_behind_the_last_hdu_are_a_remark(tmp_path, more):
    good = _write(tmp_path / "good.fits", Table(_values()))
    (tmp_path / "longer.fits").write_bytes(good.read_bytes() + more)
    found, expected = (read_catalog(tmp_path / name) for name in ("longer.fits", "good.fits"))
    np.testing.assert_array_equal(found.x, expected.x)
    assert any("after the last HDU" in remark for remark in found.remarks)


def test_changed_data_are_found_by_their_sum(tmp_path):
    write_catalog(tmp_path / "a.fits", SpotCatalog(**_values()))
    content = bytearray((tmp_path / "a.fits").read_bytes())
    content[-2880 + 100] ^= 0x40
    (tmp_path / "a.fits").write_bytes(content)
    with pytest.raises(InputError, match="do not match their DATASUM"):
        read_catalog(tmp_path / "a.fits")


def test_packed_files(tmp_path):
    write_catalog(tmp_path / "a.fits", SpotCatalog(**_values(), exposure="e", band="red"))
    content = (tmp_path / "a.fits").read_bytes()
    for name, packed in (
        ("a.fits.gz", gzip.compress(content)),
        ("a.fits.bz2", bz2.compress(content)),
        ("b.cat", gzip.compress(content)),
    ):
        (tmp_path / name).write_bytes(packed)
        catalog = read_catalog(tmp_path / name)
        assert (catalog.exposure, catalog.band) == ("e", "red")
        np.testing.assert_array_equal(catalog.flux, _values()["flux"])


def test_wrong_kinds_of_files(tmp_path):
    table = Table(_values())
    fits.PrimaryHDU(np.zeros((20, 20))).writeto(tmp_path / "image.fits")
    with pytest.raises(InputError, match="no table of spots"):
        read_catalog(tmp_path / "image.fits")
    with pytest.raises(InputError, match="residuals of a calibration"):
        read_catalog(_write(tmp_path / "residuals.fits", table, name="RESIDUALS"))
    with pytest.raises(InputError, match="compressed in tiles"):
        read_catalog(_write(tmp_path / "tiles.fits", table, cards={"ZTABLE": True}))
    two = fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(table, name="A"), fits.BinTableHDU(table, name="B")])
    two.writeto(tmp_path / "two.fits")
    with pytest.raises(InputError, match=r"2 tables of spots \(HDUs 1, 2\)"):
        read_catalog(tmp_path / "two.fits")
    two[2].name = "SPOTS"
    two.writeto(tmp_path / "named.fits")
    assert len(read_catalog(tmp_path / "named.fits")) == COUNT
    with pytest.raises(InputError, match=r"all fluxes \(flux\) are NaN or missing"):
        read_catalog(_write(tmp_path / "dark.fits", Table(_values() | {"flux": np.full(COUNT, np.nan)})))
    with pytest.raises(InputError, match=r"all positions \(x, y\) are NaN or missing"):
        read_catalog(_write(tmp_path / "nowhere.fits", Table(_values() | {"x": np.full(COUNT, -9999.0)})))


def test_columns_in_another_case(tmp_path):
    table = _stack()
    table[f"{FLUX}Err"] = np.full(COUNT, 3.0)
    for name in table.colnames:
        table.rename_column(name, name.upper())
    catalog = read_catalog(_write(tmp_path / "a.fits", table))
    np.testing.assert_array_equal(catalog.flux_err, 3.0)
    assert catalog.aperture == 12.0
    own = Table({name.upper(): values for name, values in _values().items()})
    np.testing.assert_array_equal(read_catalog(_write(tmp_path / "b.fits", own)).flux_err, _values()["flux_err"])


@pytest.mark.parametrize(
    "column", ["base_ApertureFlux_instFlux", "base_CircularApertureFlux_wide_instFlux", "slot_ApertureFlux_"]
)
def test_any_column_can_be_the_flux(tmp_path, column):
    catalog = read_catalog(_write(tmp_path / "a.fits", _stack(**{column: np.ones(COUNT)})), flux=column)
    assert np.isnan(catalog.aperture)


# Arrays


def test_catalogs_of_arrays_of_any_make():
    masked = np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False])
    catalog = SpotCatalog(
        x=masked,
        y=np.array([1, 2, 3], dtype=">i4"),
        xx=[4, 5, 6] * u.pixel**2,
        flux=MaskedColumn([1.0, 2.0, 3.0], mask=[True, False, False], unit="adu"),
        flux_err=np.array([1, 2, 3], dtype=">f4"),
        flags=np.ma.array([1, 2, 4], mask=[False, False, True]),
        grid_i=np.array([0.0, np.nan, 2.0]),
        grid_j=MaskedColumn([0, 1, 2], mask=[False, False, True]),
        flux_unit="DN",
    )
    np.testing.assert_array_equal(catalog.x, [1, np.nan, 3])
    np.testing.assert_array_equal(catalog.flux, [np.nan, 2, 3])
    assert all(getattr(catalog, name).dtype == np.float64 for name in ("x", "y", "xx", "flux", "flux_err"))
    np.testing.assert_array_equal(catalog.flags, [1, 2, 0])
    np.testing.assert_array_equal(catalog.labelled, [True, False, False])
    assert catalog.flux_unit == "count"
    np.testing.assert_array_equal(
        catalog.with_labels(np.ma.array([1, 1, 1], mask=[0, 1, 0]), [1, 1, 1]).labelled, [True, False, True]
    )


@pytest.mark.parametrize(("name", "values"), [
    ("x", [1, 2, 3] * u.arcsec), ("xx", [1, 2, 3] * u.pixel), ("flux", [1, 2, 3] * u.mag), ("flux", [1, 2, 3] * u.adu),
    ("flux", ["1", "2", "3"]), ("y", [1, 2]), ("y", np.ones((3, 1))), ("grid_i", [0.5, 1, 2]), ("flags", [1, 2, np.inf]),
    ("background", [1, 2, 3] * u.Jy),
])  # fmt: skip
def test_arrays_that_are_no_catalog_are_refused(name, values):
    arrays = {"x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0]} | {name: values}
    with pytest.raises(InputError, match=f"column {name} of a spot catalog"):
        SpotCatalog(**arrays)


def test_units_of_fluxes_are_electrons_or_counts():
    with pytest.raises(InputError, match="fluxes are given in nJy"):
        SpotCatalog([1.0], [1.0], flux_unit="nJy")
