"""Outputs of a simulation for the reduction: tables and configuration, and the truth in the formats of the results."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.io import fits
from astropy.table import Table

from permil.arrays import FloatArray, IntArray
from permil.products import atomic_output, is_good, write_table
from permil.simulate.bench import Bench, ExposureTruth
from permil.simulate.campaign import modified_julian_date
from permil.simulate.electronics import board_of
from permil.simulate.headers import REB_COND
from permil.simulate.projector import WEATHER_TERMS
from permil.simulate.randoms import generator

CONFIGURATION = "config.yaml"
"""Configuration to reduce the simulated files."""

_THERMOMETERS = tuple(f"TEMP{number}" for number in range(1, 7))


def gains(bench: Bench, kind: str) -> Table:
    """Return the gains: true, or as measured with Fe55 or by photon transfer; columns detector, segment, gain.

    Parameters
    ----------
    kind
        ``true``, ``fe55`` or ``ptc``.
    """
    handover = bench.config.handover
    rms, bias = {"true": (0.0, 0.0), "fe55": (handover.fe55_rms, 0.0), "ptc": (handover.ptc_rms, handover.ptc_bias)}[kind]
    rows = []
    for detector in bench.read:
        true = bench.gains(detector)
        errors = rms * generator(bench.config.seed, "measured gains", kind, detector.name).standard_normal(true.size)
        measured = true * (1.0 + bias) * (1.0 + errors)
        rows += [
            (detector.name, amplifier.name, float(gain)) for amplifier, gain in zip(detector.amplifiers, measured, strict=True)
        ]
    return Table(rows=rows, names=("detector", "segment", "gain"), units={"gain": "electron / adu"})


def linearity(bench: Bench) -> Table:
    """Return ``a1`` (1/adu) of ``linear = adu (1 + a1 adu)``, counts above bias; columns detector, segment, a1."""
    return Table(
        rows=[
            (detector.name, amplifier.name, float(curvature))
            for detector in bench.read
            for amplifier, curvature in zip(detector.amplifiers, bench.electronics(detector).curvature, strict=True)
        ],
        names=("detector", "segment", "a1"),
    )


def crosstalk(bench: Bench) -> Table:
    """Return the coefficients that are not zero; columns detector, victim, source, coefficient."""
    rows = []
    for detector in bench.read:
        matrix = bench.electronics(detector).crosstalk
        rows += [
            (detector.name, detector.amplifiers[victim].name, detector.amplifiers[source].name, float(matrix[victim, source]))
            for victim, source in zip(*np.nonzero(matrix), strict=True)
        ]
    return Table(rows=rows, names=("detector", "victim", "source", "coefficient"))


def defects(bench: Bench) -> Table:
    """Return bad columns and hot pixels as boxes of detector pixels; columns detector, x, y, width, height."""
    rows = []
    for detector in bench.read:
        rows += [
            (detector.name, columns.start, reach.start, columns.stop - columns.start, reach.stop - reach.start)
            for reach, columns, _ in bench.sensors.bad_columns(detector)
        ]
        places, _ = bench.sensors.hot_pixels(detector)
        rows += [(detector.name, int(x), int(y), 1, 1) for y, x in places.T]
    return Table(rows=rows, names=("detector", "x", "y", "width", "height"))


def board_reference() -> float:
    """Return the readout-board temperature of the true gains: the mean of TEMP1 to TEMP6, deg C."""
    return float(np.mean([card[1] for card in REB_COND if card[0] in _THERMOMETERS]))


def write_tables(bench: Bench, folder: Path) -> dict[str, str]:
    """Write the tables of the section ``isr`` for the effects of the bench; return the file of each. Unchanged files stay untouched.

    Gains with errors are written as measured with both methods; the section names one of them.

    Raises
    ------
    OutputError
        If a table cannot be written.
    """
    effects, handover = bench.config.effects, bench.config.handover
    measured = () if handover.gains == "true" else ("fe55", "ptc")
    for kind in measured:
        write_table(folder / f"gains_{kind}.ecsv", gains(bench, kind), keep_same=True)
    tables = {} if measured else {"gains": gains(bench, "true")}
    if effects.nonlinearity and handover.linearity:
        tables["linearity"] = linearity(bench)
    if effects.crosstalk:
        tables["crosstalk"] = crosstalk(bench)
    if handover.defects and len(boxes := defects(bench)):
        tables["defects"] = boxes
    for name, table in tables.items():
        write_table(folder / f"{name}.ecsv", table, keep_same=True)
    of_gains = {"gains": f"gains_{handover.gains}.ecsv"} if measured else {}
    return of_gains | {name: f"{name}.ecsv" for name in tables}


def configuration(bench: Bench, tables: dict[str, str], *, flats: bool = True) -> dict[str, Any]:
    """Return the content of a configuration to reduce the raw files.

    Parameters
    ----------
    tables
        File of each table of the section ``isr``.
    flats
        Whether there are raw files of the bench.
    """
    config = bench.config
    content: dict[str, Any] = {
        "camera": config.camera,
        "output": ".",
        "seed": config.seed,
        "exposures": {"roots": ["raw"]},
        "isr": dict(tables),
    }
    electronics = config.electronics
    changes = config.effects.temperature_drift and electronics.temperature_coefficient * electronics.temperature_amplitude != 0
    if changes and config.handover.temperature_coefficient:
        content["isr"] |= {
            "temperature_coefficient": -electronics.temperature_coefficient,
            "temperature_reference": board_reference(),
        }
    if flats:
        content["beam"] = {"reference": [asdict(bench.camera.reference)]}
        if config.campaign.images == 1:
            # Single images at the pointings of many detectors form a grid like a scan; so the runs are named.
            for purpose, kind in (("scan", "scan"), ("pointings", "pointing")):
                runs = sorted({exposure.run for exposure in bench.exposures if exposure.kind == kind})
                content["exposures"][purpose] = {"runs": runs}
    return content


def write_configuration(folder: Path, content: dict[str, Any]) -> Path:
    """Write a configuration; return its path.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    path = folder / CONFIGURATION
    with atomic_output(path, keep_same=True) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


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
        "CONTENT": ("true flat", "content of the image"),
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
        "CONTENT": ("true beam", "content of the image"),
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
    return Table(rows=rows, names=(*_IDENTITY, *names), units={"mjd": "d", "exposure_s": "s", "electrons": "electron"})


def position_table(bench: Bench, truths: list[ExposureTruth]) -> Table:
    """Return commanded, recorded and true positions of the lamp, and positions of the beam's centre, CCS mm."""
    rows = [
        (*_identity(exposure), *exposure.commanded, *truth.recorded, *truth.lamp, *truth.beam_centre)
        for exposure, truth in zip(bench.exposures, truths, strict=True)
        if exposure.kind != "bias"
    ]
    coordinates = [f"{what}_{axis}_mm" for what in ("commanded", "recorded", "lamp", "beam") for axis in "xy"]
    return Table(rows=rows, names=(*_IDENTITY, *coordinates), units=dict.fromkeys(coordinates, "mm"))


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
    return Table(
        rows=rows, names=("detector", "segment", *units, "gain_step", "gain_step_mjd"), units=units | {"gain_step_mjd": "d"}
    )


def board_table(bench: Bench) -> Table:
    """Return the temperature of each readout board in its exposures, and its factor on the counts."""
    rows = []
    for exposure in bench.exposures:
        boards = {board_of(bench.camera[name]): bench.camera[name] for name in exposure.detectors}
        for board, detector in boards.items():
            changes = bench.board_temperature(detector, exposure), bench.counts_factor(detector, exposure)
            rows.append((exposure.obsid, modified_julian_date(exposure.end), *board, *changes))
    names = ("obsid", "mjd", "raft", "board", "temperature", "counts_factor")
    return Table(rows=rows, names=names, units={"mjd": "d", "temperature": "deg_C"})


_IDENTITY = ("obsid", "run", "kind", "led", "target", "point", "image")


def _identity(exposure: Any) -> tuple[Any, ...]:
    return tuple(getattr(exposure, name) for name in _IDENTITY)
