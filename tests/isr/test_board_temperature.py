"""The temperature that the gain follows: one set of sensors for all exposures, or none and a sentence."""

from __future__ import annotations

import numpy as np
import pytest

from permil.config.isr import IsrConfig
from permil.errors import InputError
from permil.exposures import RawDetector
from permil.isr.calibration.gains import board_temperature, board_thermometers

FOLLOWING = IsrConfig(temperature_coefficient=6.5e-4)
GOOD = {f"TEMP{number}": f"{5.0 + number}" for number in range(1, 11)}


def raw_with(cards: dict[str, str] | None, *, name: str | None = "REB_COND") -> RawDetector:
    """Return a raw detector whose readout board has some cards; None: no such extension."""
    primary = [b"SIMPLE  =                    T"]
    board = [b"XTENSION= 'BINTABLE'", *([f"EXTNAME = '{name}'".encode()] if name else [])]
    board += [f"{card:<8}= {field}".encode("latin-1") for card, field in (cards or {}).items()]
    headers = [b"".join(line.ljust(80) for line in [*lines, b"END"]) for lines in (primary, board)]
    return RawDetector("raw.fits", None, {}, tuple(headers if cards is not None else headers[:1]))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["REB_COND", None])
def test_mean_of_the_six_sensors(name: str | None) -> None:
    assert board_temperature(raw_with(GOOD, name=name), FOLLOWING) == pytest.approx(8.5)
    quoted = GOOD | {"TEMP1": "'6.0'", "TEMP2": "7.0D0 / deg C", "TEMP3": "'281.15 K'"}
    assert board_temperature(raw_with(quoted, name=name), FOLLOWING) == pytest.approx(8.5)


@pytest.mark.parametrize(
    "field", ["NaN", "-inf", "21,5", "", "null", "'null'", "'broken", "T", "-273.15", "999.0", "-999.0", "1E30", "6.0 V"]
)
def test_a_sensor_without_a_temperature(field: str) -> None:
    raw = raw_with(GOOD | {"TEMP3": field})
    with pytest.raises(
        InputError, match=r"raw\.fits: there is no board temperature: .*TEMP3.*; name sensors that work"
    ) as caught:
        board_temperature(raw, FOLLOWING)
    assert caught.value.sensors == ["TEMP3"]
    assert board_temperature(raw, IsrConfig()) is None
    # The other sensors serve all exposures, and give one temperature.
    others = FOLLOWING.model_copy(update={"temperature_card": [f"TEMP{number}" for number in (1, 2, 4, 5, 6)]})
    assert board_temperature(raw, others) == board_temperature(raw_with(GOOD), others) == pytest.approx(8.6)
    assert board_temperature(raw, FOLLOWING.model_copy(update={"temperature_card": "TEMP4"})) == 9.0


def test_a_sensor_that_is_missing() -> None:
    with pytest.raises(InputError, match="card TEMP5 is missing or undefined"):
        board_temperature(raw_with({name: field for name, field in GOOD.items() if name != "TEMP5"}), FOLLOWING)
    with pytest.raises(InputError, match="no extension REB_COND"):
        board_temperature(raw_with(None), FOLLOWING)
    with pytest.raises(InputError, match="card TEMP11 is missing"):
        board_temperature(raw_with(GOOD), FOLLOWING.model_copy(update={"temperature_card": "TEMP11"}))


def test_zero_is_a_temperature_of_one_sensor_but_not_of_all() -> None:
    """A sensor counts sixteenths of a degree: exactly 0 is one of its readings; a board that was not read says 0 everywhere."""
    assert board_temperature(raw_with(GOOD | {"TEMP1": "0.0"}), FOLLOWING) == pytest.approx(7.5)
    with pytest.raises(InputError, match="are all exactly 0"):
        board_temperature(raw_with(dict.fromkeys(GOOD, "0.0")), FOLLOWING)


def test_repeated_sensors_contradict_each_other() -> None:
    raw = raw_with(GOOD)
    lines = raw.headers[1].replace(b"END".ljust(80), b"TEMP1   = 9.0".ljust(80) + b"END".ljust(80))
    with pytest.raises(InputError, match="card TEMP1 is repeated with another value"):
        board_temperature(RawDetector("raw.fits", None, {}, (raw.headers[0], lines)), FOLLOWING)  # type: ignore[arg-type]


def test_thermometers_are_read_one_by_one() -> None:
    """The joint solution smooths each of them: one that is missing now and then does no harm."""
    broken = raw_with(GOOD | {"TEMP3": "-273.15"})
    np.testing.assert_array_equal(board_thermometers(broken, IsrConfig()), [6, 7, np.nan, 9, 10, 11])
    chosen = IsrConfig(temperature_card=["TEMP2", "TEMP9"])
    assert board_thermometers(broken, chosen) == (7.0, 14.0)
    for dead in (raw_with(None), raw_with(dict.fromkeys(GOOD, "0.0"))):
        assert np.isnan(board_thermometers(dead, IsrConfig())).tolist() == [True] * 6
    assert board_thermometers(raw_with(dict.fromkeys(GOOD, "0.0")), IsrConfig(temperature_card="TEMP1")) == (0.0,)
