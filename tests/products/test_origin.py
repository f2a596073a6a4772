"""Cards that say where a product comes from."""

from __future__ import annotations

from typing import Any

import pytest
from astropy.table import Table, vstack

from permil.camera import load_camera
from permil.config import Config, load_config
from permil.errors import ConfigError
from permil.products import configuration_digest, origin_cards, provenance

CAMERA = load_camera("lsstcam-bin8")


def plain(**changes: Any) -> dict[str, Any]:
    return Config.model_validate({"camera": "lsstcam-bin8"} | changes).model_dump(mode="json")


def exposures(detector: str = "R22_S11", **changes: Any) -> Table:
    columns = {
        "obsid": ["MC_C_20191028_000002", "MC_C_20191028_000001"],
        "detector": [detector] * 2,
        "serial": ["E2V-CCD250-382"] * 2,
        "run": ["6841D", "6840D"],
        "mjd": [58784.75, 58784.5],
        "filter": ["", "NONE"],
    }
    return Table(columns | changes)


def cards(rows: Table, **options: Any) -> dict[str, Any]:
    config = options.pop("config", plain())
    return dict(provenance(origin_cards(rows, CAMERA, config=config, **options)))


def test_cards_of_a_detector_and_an_led() -> None:
    header = cards(exposures(), detector="R22_S11", led="nm750")
    expected = {
        "DETECTOR": "R22_S11", "LSST_NUM": "E2V-CCD250-382", "LED": "nm750", "BAND": "i", "WAVELEN": 750.0, "RUNNUM": "6840D,6841D",
        "DATE-BEG": "2019-10-28T12:00:00.000", "DATE-END": "2019-10-28T18:00:00.000", "MJD-BEG": 58784.5, "MJD-END": 58784.75,
        "NEXPOSUR": 2,
    }  # fmt: skip
    assert expected.items() <= header.items()
    assert header["ORIGIN"] == "permil"
    assert header["PERMILVE"]
    assert header["CONFDIG"] == configuration_digest(plain())
    assert {"VALIDBEG", "VALIDEND", "FILTER"} & set(header) == set()


def test_what_is_not_known_is_not_written() -> None:
    header = cards(exposures(mjd=[float("nan")] * 2, run=["", ""]), led="red")
    assert {"DETECTOR", "LSST_NUM", "RUNNUM", "DATE-BEG", "MJD-END", "WAVELEN"} & set(header) == set()
    assert header["BAND"] == "r"
    assert "BAND" not in cards(exposures(), led="laser")
    assert "LSST_NUM" not in cards(exposures(serial=["E2V-CCD250-382", "E2V-CCD250-383"]), detector="R22_S11")


def test_a_detector_counts_its_own_exposures_only() -> None:
    rows = vstack([exposures(), exposures("R22_S12", serial=["E2V-CCD250-383"] * 2, run=["7000D"] * 2)])
    assert cards(rows, detector="R22_S12")["RUNNUM"] == "7000D"
    assert cards(rows, detector="R22_S12")["LSST_NUM"] == "E2V-CCD250-383"
    assert cards(rows)["NEXPOSUR"] == 2
    assert cards(exposures(filter=["SDSSi", "SDSSi"]))["FILTER"] == "SDSSi"


def test_many_runs_fit_a_card() -> None:
    many = vstack([exposures(run=[f"{number}D", f"{number + 1}D"]) for number in range(13000, 13200, 2)])
    text = cards(many)["RUNNUM"]
    assert len(text) <= 68
    assert text.startswith("13000D,13001D")
    assert text.endswith("more")
    shown = text.split(" and ")[0].split(",")
    assert len(shown) + int(text.split(" and ")[1].split()[0]) == 200


def test_validity_is_that_of_the_configuration() -> None:
    header = cards(exposures(), config=plain(validity={"begin": "2021-12-01", "end": "2022-03-31T12:00:00"}))
    assert (header["VALIDBEG"], header["VALIDEND"]) == ("2021-12-01", "2022-03-31T12:00:00")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["validity.begin=yesterday"], "write a date"),
        (["validity.end=2021-02-30"], "not a date"),
        (["validity.begin=2022-01-01", "validity.end=2021-12-31"], "before the begin"),
    ],
)
def test_bad_dates_are_errors(options: list[str], message: str, tmp_path: Any) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("camera: lsstcam-bin8\n")
    with pytest.raises(ConfigError, match=message):
        load_config(path, options)


def test_a_date_of_yaml_is_understood(tmp_path: Any) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("validity: {begin: 2021-12-01, end: 2021-12-01T10:00:00}\n")
    assert load_config(path).validity.begin == "2021-12-01"


def test_digest_depends_on_what_matters() -> None:
    digest = configuration_digest(plain())
    same = ({"output": "/elsewhere"}, {"pipeline": {"workers": 7}}, {"report": {"step_limit": 0.1}}, {"simulate": {"seed": 9}})
    for changes in same:
        assert configuration_digest(plain(**changes)) == digest, changes
    for changes in ({"seed": 4}, {"isr": {"gains": "none"}}, {"flat": {"solver": "divide"}}, {"validity": {"end": "2030-01-01"}}):
        assert configuration_digest(plain(**changes)) != digest, changes
    first, second = (configuration_digest(plain(isr={"gains": f"/{folder}/gains.ecsv"})) for folder in ("a", "b"))
    assert first == second != digest
