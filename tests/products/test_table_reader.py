"""The one reader of tables: masks, units and types of every format and program."""

from __future__ import annotations

import decimal
import gzip
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Column, MaskedColumn, QTable, Table
from pyarrow import parquet

from permil.errors import InputError
from permil.products.tables import flags, labels, numbers, read_table, recognise, texts, write_table


def masked_table() -> Table:
    return Table(
        {
            "place": MaskedColumn([1, 2, 3], mask=[False, True, False], unit="um"),
            "gain": MaskedColumn([1.0, 2.0, 3.0], mask=[False, False, True], unit="electron/adu"),
            "name": MaskedColumn(["C10", "C11", "C12"], mask=[True, False, False]),
            "bad": MaskedColumn([True, False, True], mask=[False, False, True]),
            "small": Column([1.0, 2.0, 3.0], unit="1e-6 / adu"),
        }
    )


@pytest.mark.parametrize("suffix", ["ecsv", "fits", "parquet"])
def test_masks_and_units_come_back_in_every_format(tmp_path: Path, suffix: str) -> None:
    write_table(tmp_path / f"t.{suffix}", masked_table())
    table = read_table(tmp_path / f"t.{suffix}")
    np.testing.assert_allclose(numbers(table, "place", unit="mm"), [0.001, np.nan, 0.003])
    np.testing.assert_array_equal(numbers(table, "gain", unit="e-/ADU"), [1.0, 2.0, np.nan])
    np.testing.assert_allclose(numbers(table, "small", unit="1/adu"), [1e-6, 2e-6, 3e-6])
    assert texts(table, "name") == ["", "C11", "C12"]
    assert flags(table, "bad").tolist() == [True, False, False]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["masked column", "quantity", "plain", "votable"])
def test_parquet_of_astropy(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t.parquet"
    note = {"unit": "um", "ucd": "", "utype": "", "description": ""}
    if kind == "quantity":
        QTable({"x": [1000.0, 2000.0] * u.um}).write(path)
    elif kind == "votable":
        Table({"x": [1000.0, 2000.0]}).write(path, format="parquet.votable", metadata={"x": note})
    else:
        column = (
            MaskedColumn([1000.0, -9.0], mask=[False, True], unit="um")
            if kind == "masked column"
            else Column([1000.0, 2000.0], unit="um")
        )
        Table({"x": column}).write(path)
    expected = [1.0, np.nan] if kind == "masked column" else [1.0, 2.0]
    table = read_table(path)
    assert table.colnames == ["x"]
    np.testing.assert_array_equal(numbers(table, "x", unit="mm"), expected)


def test_parquet_of_pandas_and_others(tmp_path: Path) -> None:
    columns = {
        "whole": pa.array([1, None, 3]),
        "real": pa.array([1.0, None, np.nan]),
        "category": pa.array(["C10", "C11", None]).dictionary_encode(),
        "decimal": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal(2)]),
        "binary": pa.array([b"C10", b"C11", None]),
        "flag": pa.array([True, None, False]),
        "nothing": pa.nulls(3),
        "day": pa.array([datetime(2019, 10, 28, tzinfo=UTC)] * 3),
        "vector": pa.array([[1.0, 2.0]] * 3),
        "__index_level_0__": pa.array([0, 1, 2]),
    }
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    np.testing.assert_array_equal(numbers(table, "whole"), [1, np.nan, 3])
    np.testing.assert_array_equal(numbers(table, "real"), [1, np.nan, np.nan])
    np.testing.assert_array_equal(numbers(table, "decimal"), [1.5, np.nan, 2])
    assert np.isnan(numbers(table, "nothing")).all()
    assert texts(table, "category") == texts(table, "binary") == ["C10", "C11", ""]
    assert flags(table, "flag").tolist() == [True, False, False]
    for name, message in (("day", "row 1, which is not a number"), ("vector", "2 values per row"), ("flag", "'True' in row 1")):
        with pytest.raises(InputError, match=message):
            numbers(table, name, path="t.parquet")


def test_units_of_fields_of_other_programs(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("x", pa.float64(), metadata={"unit": "cm"})])
    parquet.write_table(pa.table([pa.array([2.0])], schema=schema), tmp_path / "t.parquet")
    assert numbers(read_table(tmp_path / "t.parquet"), "x", unit="mm").tolist() == [20.0]


def fits_table(path: Path) -> Path:
    columns = [
        fits.Column("NULL", "J", array=np.array([1, -99, 3], np.int32), null=-99, unit="um"),
        fits.Column("UNSIGNED", "I", array=np.array([1, 2, 65535], np.uint16), bzero=32768),
        fits.Column("NAME", "8A", array=np.array(["C10   ", "", "C12"])),
        fits.Column("LOGICAL", "L", array=np.array([True, False, True])),
        fits.Column("BIT", "1X", array=np.array([[True], [False], [True]])),
        fits.Column("ONE", "D", dim="(1)", array=np.ones((3, 1))),
        fits.Column("TWO", "2D", array=np.ones((3, 2))),
        fits.Column("LIST", "PD()", array=np.array([[1.0], [1.0, 2.0], []], dtype=object)),
        fits.Column("COMPLEX", "C", array=np.ones(3, complex)),
        fits.Column("NAN", "E", array=np.array([1, np.nan, 3]), unit="rms e-/pixel"),
        fits.Column("SCALED", "I", array=np.array([101, 102, 103]), bscale=1, bzero=100, null=2),
    ]
    fits.BinTableHDU.from_columns(columns, name="DATA").writeto(path)
    return path


def test_columns_of_fits_tables(tmp_path: Path) -> None:
    table = read_table(fits_table(tmp_path / "T.FITS"))
    np.testing.assert_array_equal(numbers(table, "NULL", unit="mm"), [1e-3, np.nan, 3e-3])
    np.testing.assert_array_equal(numbers(table, "UNSIGNED"), [1, 2, 65535])
    # TNULL is the stored value, before TZERO.
    np.testing.assert_array_equal(numbers(table, "SCALED"), [101, np.nan, 103])
    assert texts(table, "NAME") == ["C10", "", "C12"]
    assert flags(table, "LOGICAL").tolist() == flags(table, "BIT").tolist() == [True, False, True]
    assert numbers(table, "ONE").tolist() == [1, 1, 1]
    np.testing.assert_array_equal(numbers(table, "NAN"), [1, np.nan, 3])
    with pytest.raises(InputError, match="unit 'rms e-/pixel' is unknown"):
        numbers(table, "NAN", unit="electron")
    for name, message in (
        ("TWO", "2 values per row"),
        ("LIST", "not a number"),
        ("COMPLEX", "not a number"),
        ("LOGICAL", "not a number"),
    ):
        with pytest.raises(InputError, match=message):
            numbers(table, name)


def test_logical_values_written_as_numbers(tmp_path: Path) -> None:
    hdu = fits.BinTableHDU.from_columns([fits.Column("F", "L", array=np.array([True, False, True]))])
    hdu.data.view(np.ndarray)["F"][:] = [1, 0, 1]
    hdu.writeto(tmp_path / "t.fits")
    assert flags(read_table(tmp_path / "t.fits"), "F").tolist() == [True, False, True]


def test_the_table_with_the_columns_is_taken_of_several(tmp_path: Path) -> None:
    path = tmp_path / "t.fits"
    first, second = (
        fits.BinTableHDU.from_columns([fits.Column(name, "D", array=[2.0])], name=name) for name in ("GAIN", "NOISE")
    )
    fits.HDUList([fits.PrimaryHDU(), first, second]).writeto(path)
    assert read_table(path, columns=("noise",)).colnames == ["noise"]
    assert read_table(path, extension="GAIN").colnames == ["GAIN"]
    with pytest.raises(InputError, match=r"2 possible tables: .*GAIN \(GAIN\), NOISE \(NOISE\)"):
        read_table(path)
    with pytest.raises(InputError, match="no table in an extension OTHER"):
        read_table(path, extension="OTHER")


@pytest.mark.parametrize("kind", ["byte order mark", "CRLF", "gzip", "upper case"])
def test_unusual_text_files(tmp_path: Path, kind: str) -> None:
    write_table(tmp_path / "t.ecsv", masked_table())
    content = (tmp_path / "t.ecsv").read_bytes()
    path = tmp_path / {"gzip": "u.ecsv.gz", "upper case": "U.ECSV"}.get(kind, "u.ecsv")
    path.write_bytes(
        {
            "byte order mark": b"\xef\xbb\xbf" + content,
            "CRLF": content.replace(b"\n", b"\r\n"),
            "gzip": gzip.compress(content),
        }.get(kind, content)
    )
    table = read_table(path)
    np.testing.assert_allclose(numbers(table, "place", unit="mm"), [0.001, np.nan, 0.003])
    assert texts(table, "name") == ["", "C11", "C12"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,b\n1,2\n", "no table format for suffix"),
        ("t.dat", b"1 2\n", "no table format for suffix"),
        ("t.ecsv", b"a b\n1 2\n", "ECSV header"),
        ("t.ecsv", b"", "cannot be read as a table"),
        ("t.ecsv", b"# %ECSV 1.0\n# ---\n# datatype:\n# - {name: \xb5, datatype: float64}\na\n1\n", "cannot be read as a table"),
        ("t.fits", b"SIMPLE", "cannot be read as a table"),
        ("t.parquet", b"PAR1", "cannot be read as a table"),
    ],
)
def test_what_is_no_table_is_one_sentence(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / name)


def test_a_column_given_twice_is_refused(tmp_path: Path) -> None:
    header = "# %ECSV 1.0\n# ---\n# datatype:\n# - {name: a, datatype: float64}\n# - {name: a, datatype: float64}\n"
    (tmp_path / "t.ecsv").write_text(header + "# schema: astropy-2.0\na a\n1 2\n")
    parquet.write_table(pa.table({"a": [1], "b": [2]}).rename_columns(["a", "a"]), tmp_path / "t.parquet")
    for name in ("t.ecsv", "t.parquet"):
        with pytest.raises(InputError, match="column a is given twice"):
            read_table(tmp_path / name)


def test_names_of_columns_in_other_spellings() -> None:
    table = recognise(Table({" Gain ": [1.0], "DETECTOR": ["R22_S11"]}), needed=("detector", "gain"))
    assert table.colnames == ["gain", "detector"]
    with pytest.raises(InputError, match="either may be the column gain"):
        recognise(Table({"Gain": [1.0], "GAIN": [2.0]}), needed=("gain",))


@pytest.mark.parametrize(
    ("found", "optional"),
    [
        ("gain_error", "gain_err"), ("gainerr", "gain_err"), ("e_gain", "gain_err"), ("gainErr", "gain_err"), ("GAIN_UNC", "gain_err"),
        ("signal_error", "signal_err"), ("widht", "width"), ("heigth", "height"), ("photodoide", "photodiode"), ("mdj", "mjd"),
    ],
)  # fmt: skip
def test_a_misspelt_column_is_not_ignored(found: str, optional: str) -> None:
    with pytest.raises(InputError, match=f"did you mean {optional}"):
        recognise(Table({found: [1.0]}), optional=(optional,))
    # If the column itself is there, the other one is of another purpose.
    assert found in recognise(Table({found: [1.0], optional: [1.0]}), optional=(optional,)).colnames


@pytest.mark.parametrize(
    ("found", "optional"), [("exptime", "exposure"), ("x_header_mm", "ref_x_mm"), ("led", "amp"), ("seq", "box")]
)
def test_columns_of_other_purposes_may_be_there(found: str, optional: str) -> None:
    assert recognise(Table({found: [1.0]}), optional=(optional,)).colnames == [found]


def test_labels_are_names_or_whole_numbers() -> None:
    table = Table(
        {"a": MaskedColumn(["C10", "5", "094", "94.0", "x"], mask=[False] * 4 + [True]), "b": [5.0, 94.0, 1.5, np.nan, 3.0]}
    )
    assert labels(table, "a") == ["C10", 5, "094", 94, ""]
    assert labels(table, "b") == [5, 94, "1.5", "", 3]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1", "?"], r"'\?' in row 2"),
        ([True, False], "'True' in row 1"),
        ([1j, 2j], "row 1"),
        (["1_000", "2"], "'1_000' in row 1"),
    ],
)
def test_what_is_no_number_names_column_and_row(values: list, message: str) -> None:
    with pytest.raises(InputError, match=rf"t\.ecsv: column a holds .*{message}"):
        numbers(Table({"a": values}), "a", path="t.ecsv")
