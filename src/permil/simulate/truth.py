"""The truth as products: flats, beams and tables in the formats of the results."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.arrays import FloatArray, IntArray
from permil.products import is_good
from permil.simulate.bench import Bench, ExposureTruth
from permil.simulate.campaign import modified_julian_date
from permil.simulate.electronics import board_of
from permil.simulate.projector import WEATHER_TERMS

BEAM_STEP_MM = 0.25
BEAM_HALF_SIDE_MM = 60.0

_BINS_PER_UNIT = 100_000
_LARGEST_RESPONSE = 2


def response_histogram(bench: Bench, detector: str, led: str) -> IntArray:
    """Return the histogram of the response of the good pixels of a detector, in steps of 1e-5 from 0 to 2."""
    sensor = bench.camera[detector]
    response = bench.sensors.response(sensor, led)[is_good(bench.sensors.mask(sensor))]
    bins = np.minimum(response * np.float32(_BINS_PER_UNIT), _LARGEST_RESPONSE * _BINS_PER_UNIT - 1)
    return np.bincount(bins.astype(np.int64), minlength=_LARGEST_RESPONSE * _BINS_PER_UNIT)


def median_of_histogram(histogram: IntArray) -> float:
    """Return the median of the responses in a histogram, linear within its step (error far below 1e-6)."""
    below = np.concatenate([[0], np.cumsum(histogram)])
    half = below[-1] / 2
    step = int(np.searchsorted(below, half, side="right")) - 1
    return float((step + (half - below[step]) / histogram[step]) / _BINS_PER_UNIT)


def flat_cards(bench: Bench, detector: str, led: str, scale: float) -> dict[str, Any]:
    """Return the cards of a true flat."""
    return {
        "CONTENT": ("true flat", "what this is"),
        "CAMERA": (bench.camera.name, "camera"),
        "DETECTOR": (detector, "detector"),
        "LED": (led, "LED"),
        "SEED": (bench.config.seed, "seed of the simulation"),
        "SCALE": (scale, "median response of all good pixels"),
    }


def beam_image(bench: Bench, led: str) -> FloatArray:
    """Return the beam as a function of u: rows are u_y, columns are u_x, in steps of `BEAM_STEP_MM`."""
    count = round(BEAM_HALF_SIDE_MM / BEAM_STEP_MM)
    places = BEAM_STEP_MM * np.arange(-count, count + 1)
    return bench.beam(led)(places[None, :], places[:, None])


def beam_cards(bench: Bench, led: str) -> tuple[dict[str, Any], fits.Header]:
    """Return the cards of the primary header and of the image of a true beam.

    The coordinates of the image are relative to the beam's own centre; the headers give this centre relative to the commanded position.
    """
    stage = bench.stage
    primary = {
        "CONTENT": ("true beam", "what this is"),
        "LED": (led, "LED"),
        "SEED": (bench.config.seed, "seed of the simulation"),
        "OFFSETX": (stage.offset[0], "[mm] beam centre minus commanded, CCS X"),
        "OFFSETY": (stage.offset[1], "[mm] beam centre minus commanded, CCS Y"),
        "ADDEDX": (stage.added[0], "[mm] added to commanded X by the stage"),
        "ADDEDY": (stage.added[1], "[mm] added to commanded Y by the stage"),
        "ROTATION": (stage.rotation, "[rad] stage axes to CCS, from X to Y"),
    }
    image = fits.Header()
    middle = round(BEAM_HALF_SIDE_MM / BEAM_STEP_MM) + 1.0
    for axis, name in ((1, "UX"), (2, "UY")):
        image[f"CTYPE{axis}"] = (name, "place minus beam centre, CCS axes")
        image[f"CUNIT{axis}"] = "mm"
        image[f"CRPIX{axis}"] = middle
        image[f"CRVAL{axis}"] = 0.0
        image[f"CDELT{axis}"] = BEAM_STEP_MM
    return primary, image


def scale_table(bench: Bench, truths: list[ExposureTruth]) -> Table:
    """Return the light, the photodiode and the weather of each exposure with light."""
    rows = [
        (
            *_identity(exposure),
            modified_julian_date(exposure.end),
            exposure.exposure_time,
            truth.electrons,
            truth.photodiode,
            truth.photodiode_response,
            *truth.weather,
        )
        for exposure, truth in zip(bench.exposures, truths, strict=True)
        if exposure.kind != "bias"
    ]
    weather = (f"weather_{term}" for term in WEATHER_TERMS)
    names = ("mjd", "exposure_s", "electrons", "photodiode", "photodiode_response", *weather)
    table = Table(rows=rows, names=(*_IDENTITY, *names))
    for name, unit in (("mjd", "d"), ("exposure_s", "s"), ("electrons", "electron")):
        table[name].unit = unit
    return table


def position_table(bench: Bench, truths: list[ExposureTruth]) -> Table:
    """Return commanded, recorded and true positions of the lamp, and positions of the beam's centre, CCS mm."""
    rows = [
        (*_identity(exposure), *exposure.commanded, *truth.recorded, *truth.lamp, *truth.beam_centre)
        for exposure, truth in zip(bench.exposures, truths, strict=True)
        if exposure.kind != "bias"
    ]
    coordinates = [f"{what}_{axis}_mm" for what in ("commanded", "recorded", "lamp", "beam") for axis in "xy"]
    table = Table(rows=rows, names=(*_IDENTITY, *coordinates))
    for name in coordinates:
        table[name].unit = "mm"
    return table


def amplifier_table(bench: Bench) -> Table:
    """Return the true gain, read noise, full well, curvature and gain step of each amplifier."""
    rows = []
    stepped = [exposure for exposure in bench.exposures if bench.is_after_gain_steps(exposure)]
    begin = modified_julian_date(stepped[0].end) if stepped else np.nan
    for detector in bench.read:
        truth = bench.electronics(detector)
        steps = bench.gain_steps(detector)
        times = np.where(steps == 0, np.nan, begin)
        numbers_of = (truth.gain, truth.read_noise, truth.full_well, truth.curvature, steps, times)
        columns = zip(detector.amplifiers, *numbers_of, strict=True)
        rows += [(detector.name, amplifier.name, *map(float, numbers)) for amplifier, *numbers in columns]
    units = {"gain": "electron / adu", "read_noise": "electron", "full_well": "electron", "a1": "1 / adu"}
    table = Table(rows=rows, names=("detector", "segment", *units, "gain_step", "gain_step_mjd"))
    for name, unit in (*units.items(), ("gain_step_mjd", "d")):
        table[name].unit = unit
    return table


def board_table(bench: Bench) -> Table:
    """Return the temperature of each readout board in its exposures, and its factor on the counts."""
    rows = []
    for exposure in bench.exposures:
        boards = {board_of(bench.camera[name]): bench.camera[name] for name in exposure.detectors}
        for board, detector in boards.items():
            changes = bench.board_temperature(detector, exposure), bench.counts_factor(detector, exposure)
            rows.append((exposure.obsid, modified_julian_date(exposure.end), *board, *changes))
    table = Table(rows=rows, names=("obsid", "mjd", "raft", "board", "temperature", "counts_factor"))
    table["mjd"].unit, table["temperature"].unit = "d", "deg_C"
    return table


_IDENTITY = ("obsid", "run", "kind", "led", "target", "point", "image")


def _identity(exposure: Any) -> tuple[Any, ...]:
    return tuple(getattr(exposure, name) for name in _IDENTITY)
