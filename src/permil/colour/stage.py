"""The stage `colour`: ratios of the flats of all LEDs, vendors, and variance common to LEDs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from permil.arrays import FloatArray
from permil.beam import BeamModel
from permil.beam.stage import load_beam
from permil.camera import Camera, shared_camera
from permil.colour.detector import DetectorColour, measure_colour
from permil.colour.files import read_colour, read_led_flat, write_colour
from permil.colour.planes import Beam, LedPlanes, LightGradient, light_gradient
from permil.colour.run_colour import (
    all_ratios,
    correlation_rows,
    gradient_rows,
    level_moments,
    planes_of,
    ratio_rows,
    response_rows,
    variance_rows,
    vendor_rows,
    wave_rows,
)
from permil.config import Config
from permil.context import Run
from permil.engine import State, Task, Work
from permil.errors import FlatError, InputError
from permil.flat.between_leds import SharedTerms
from permil.flat.joint.file import open_joint, read_light, read_planes
from permil.flat.signals import read_signals
from permil.isr.stage import memory_for
from permil.products import MaskPlane, RunFolder, fingerprint_card, origin_entries, read_image, write_image, write_table
from permil.products.fits import wcs_cards
from permil.products.folder import ColourFolder
from permil.progress import StageReport, do_tasks
from permil.stages import StageFunctions

TABLES = ("responses", "ratios", "vendors", "gradients", "correlations", "variances", "waves")

_LEAVES_OUT = (FlatError, InputError)
_LOSS_AT = 50_000.0
"""Electrons at which the losses of LINEARITY are given."""

_COLUMNS: dict[str, dict[str, Any]] = {
    "responses": {
        "detector": "", "amp": "", "vendor": "", "led": "", "band": "-", "wavelength_nm": np.nan, "response": np.nan,
        "response_err": np.nan, "pixels": 0,
    },
    "ratios": {
        "led": "", "over_led": "", "detector": "", "amp": "", "ratio": np.nan, "ratio_err": np.nan, "gradient_x": np.nan,
        "gradient_x_err": np.nan, "gradient_y": np.nan, "gradient_y_err": np.nan,
    },
    "vendors": {
        "vendor": "", "over_vendor": "", "led": "", "over_led": "-", "ratio": np.nan, "ratio_err": np.nan, "vendor_err": np.nan,
        "sensor_scatter": np.nan, "sensors": 0, "over_sensors": 0,
    },
    "gradients": {
        "led": "", "over_led": "", "sensor_x": np.nan, "sensor_x_err": np.nan, "sensor_y": np.nan, "sensor_y_err": np.nan,
        "light_x": np.nan, "light_x_err": np.nan, "light_y": np.nan, "light_y_err": np.nan, "p_value": np.nan, "verdict": "-",
        "light_rms": np.nan, "signal": np.nan, "over_signal": np.nan, "linearity": np.nan,
    },
    "correlations": {
        "scale": "", "detector": "", "led": "", "over_led": "", "pattern_removed": False, "r": np.nan, "r_err": np.nan,
        "r_corrected": np.nan, "r_corrected_err": np.nan, "p_value": np.nan, "n": 0, "n_eff": np.nan, "reason": "-",
    },
    "variances": {
        "scale": "", "led": "", "part": "", "variance": np.nan, "variance_err": np.nan, "rms_per_mil": np.nan,
        "rms_per_mil_err": np.nan, "freedom": 0,
    },
    "waves": {
        "detector": "", "wave": 0, "period_mm": np.nan, "angle_deg": np.nan, "led": "", "amplitude": np.nan,
        "amplitude_err": np.nan,
    },
}  # fmt: skip
"""Columns of the tables, with the entry of a row that lacks one."""
_UNITS = {"wavelength_nm": "nm", "period_mm": "mm", "angle_deg": "deg", "signal": "electron", "over_signal": "electron"} | {
    f"{name}_{axis}{error}": "1 / mm" for name in ("gradient", "sensor", "light") for axis in "xy" for error in ("", "_err")
}


def flats_of(folder: RunFolder, camera: Camera, planned: Collection[tuple[str, str]] = ()) -> dict[str, list[str]]:
    """Return the LEDs, by wavelength, of each science detector that has, or will have, a flat in at least two.

    Parameters
    ----------
    planned
        LED and detector of the flats that a run will make.
    """
    found: dict[str, list[str]] = {}
    root = folder.root / "flat"
    there = {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()
    leds = camera.sorted_leds(there | {led for led, _ in planned})
    for detector in camera.science:
        own = [led for led in leds if (led, detector.name) in planned or folder.flat(led, detector.name).is_file()]
        if len(own) >= 2:
            found[detector.name] = own
    return found


def run_colour(run: Run) -> StageReport:
    """Measure the colour of all detectors with flats in at least two LEDs.

    Raises
    ------
    FlatError
        If there is none.
    InputError
        If a product is damaged.
    """
    report, tasks = StageReport("colour"), colour_tasks(run, flats_of(run.folder, run.camera))
    ends = do_tasks(tasks)
    report.count(ends)
    left_out = [f"{task.key[1]} is left out: {ends[task.key].error}" for task in tasks[:-1] if ends[task.key].error is not None]
    if ends[tasks[-1].key].state == State.DROPPED and ends[tasks[-1].key].error is not None:
        raise ends[tasks[-1].key].error  # type: ignore[misc]
    report.messages += [*left_out, *ends[tasks[-1].key].messages]
    return report


def colour_tasks(run: Run, flats: Mapping[str, Sequence[str]]) -> list[Task]:
    """Declare the colour of each detector, and the tables and maps of the whole run.

    Parameters
    ----------
    flats
        LEDs of each detector (`flats_of`).

    Raises
    ------
    FlatError
        If no detector has flats in two LEDs.
    """
    if not flats:
        raise FlatError(
            "no science detector has flats in two LEDs",
            path=run.folder.root / "flat",
            remedy="run `permil flat CONFIG` with at least two LEDs first",
        )
    detectors = [_detector_task(run, name, leds) for name, leds in flats.items()]
    return [*detectors, _tables_task(run, detectors, flats)]


def _tasks(run: Run, earlier: Sequence[Task]) -> list[Task]:
    composites = tuple(task for task in earlier if task.key[0] == "composite")
    flats = flats_of(run.folder, run.camera, {(task.key[1], task.key[2]) for task in earlier if task.key[0] == "flat"})
    return [replace(task, after=composites) for task in colour_tasks(run, flats)] if flats else []


def _single(run: Run, step: str, _led: str, detector: str) -> list[Task]:
    *detectors, tables = colour_tasks(run, flats_of(run.folder, run.camera))
    if step == "colour":
        return [task for task in detectors if task.key[1] == detector]
    # A detector that is left out is so again: the tables do without it.
    return [*detectors, tables]


STAGE = StageFunctions(run_colour, is_wanted=lambda run: bool(flats_of(run.folder, run.camera)), tasks=_tasks, single=_single)


@dataclass(frozen=True)
class ColourRequest:
    """One detector and its LEDs by wavelength."""

    config: Config
    root: Path
    detector: str
    leds: tuple[str, ...]
    fingerprint: str
    origin: Mapping[str, tuple[Any, str]]


def _origin(run: Run, leds: Sequence[str], detector: str = "") -> dict[str, tuple[Any, str]]:
    """Return the provenance cards of a product (run, dates, sensor); none in a folder of flats without an index."""
    if not run.folder.exposures.is_file():
        return {}
    table = run.index.table
    rows = table[np.isin(np.asarray(table["led"], dtype=np.str_), list(leds))]
    return run.origin(rows, detector=detector)


def _detector_task(run: Run, detector: str, leds: Sequence[str]) -> Task:
    def work(task: Task) -> Work:
        origin = _origin(run, leds, detector)
        return Work(_measure, [ColourRequest(run.config, run.folder.root, detector, tuple(leds), task.fingerprint, origin)])

    return Task(
        ("colour", detector),
        "colour of detectors",
        work,
        outputs=(ColourFolder(run.folder.root).detector(detector),),
        options=run.options("flat.super_pixel_mm", "camera", "seed", "validity"),
        facts=list(leds),
        # A flat on another composite scale has the same fingerprint.
        files=[run.folder.flat(led, detector) for led in leds],
        leaves_out=_LEAVES_OUT,
        command=("colour", "--detector", detector),
        seconds=1.5 + 3e-7 * len(leds) * run.camera[detector].nx * run.camera[detector].ny,
        size=2e5,
        memory=memory_for(run.camera[detector], bytes_per_pixel=30 + 22 * len(leds)),
    )


def _measure(request: ColourRequest) -> None:
    """Measure and write the colour of one detector."""
    folder, detector = RunFolder(request.root), shared_camera(request.config.camera)[request.detector]
    size_mm = request.config.flat.super_pixel_mm
    flats = [read_led_flat(folder.flat(led, detector.name), led, detector, super_pixel_mm=size_mm) for led in request.leds]
    colour = measure_colour(flats, detector, super_pixel_mm=size_mm, seed=request.config.seed)
    cards = {
        **request.origin,
        **fingerprint_card(request.fingerprint),
        "SEED": (request.config.seed, "seed"),
    }
    write_colour(ColourFolder(request.root).detector(detector.name), colour, cards)


def _tables_task(run: Run, detectors: Sequence[Task], flats: Mapping[str, Sequence[str]]) -> Task:
    products = ColourFolder(run.folder.root)
    leds = run.camera.sorted_leds({led for own in flats.values() for led in own})
    maps = {pair: products.ratio(*pair) for pair in pairwise(leds) if all(run.folder.focal_plane(led).is_file() for led in pair)}
    inputs = [path for led in leds for path in (run.folder.joint(led), run.folder.focal_plane(led), run.folder.beam(led))]

    def write(task: Task) -> list[str]:
        names = [need.key[1] for need in task.needs]
        colours = [read_colour(products.detector(name)) for name in names]
        for pair, path in maps.items():
            _write_ratio(run, pair, path, task.fingerprint)
        return _write_tables(run, colours, leds, task.fingerprint)

    return Task(
        ("colour_tables",),
        "tables of colour",
        lambda task: Work.here(partial(write, task)),
        outputs=(*(products.table(name) for name in TABLES), *maps.values()),
        options=run.options("camera", "validity"),
        files=[path for path in inputs if path.is_file()],
        needs=tuple(detectors),
        tolerant=True,
        command=("colour", "--step", "colour_tables"),
    )


def _write_ratio(run: Run, pair: tuple[str, str], path: Path, fingerprint: str) -> None:
    """Write the ratio of the mosaics of two LEDs."""
    folder = run.folder
    first, second = (read_image(folder.focal_plane(led)) for led in pair)
    if first.image.shape != second.image.shape:
        raise InputError(
            f"the mosaics of {pair[0]} and {pair[1]} have {first.image.shape} and {second.image.shape} cells",
            path=folder.focal_plane(pair[1]),
            remedy="make the flats of both LEDs for the same detectors, with the same flat.mosaic_mm",
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = first.image / second.image
        variance = ratio**2 * (first.variance / first.image**2 + second.variance / second.image**2)
    mask = np.where(np.isfinite(ratio), first.mask | second.mask, int(MaskPlane.NO_DATA))
    header = {
        **_origin(run, pair),
        **fingerprint_card(fingerprint),
        "LED": (pair[0], "LED of the numerator"),
        "OVERLED": (pair[1], "LED of the denominator"),
        "SCALE": ("both composite: median of all pixels 1", "scale of the ratio"),
    }
    write_image(path, ratio, mask, variance, header=header, image_cards=wcs_cards(first.image_header))


def _write_tables(run: Run, colours: Sequence[DetectorColour], leds: Sequence[str], fingerprint: str) -> list[str]:
    """Write all tables of the run; return the messages for the user."""
    planes, messages = _read_planes(run, colours, leds)
    ratios = all_ratios(planes)
    neighbours = [ratios[pair] for pair in pairwise(leds) if pair in ratios]
    signals, losses = _signals(run.folder, colours, leds), _losses(run.folder, leds)
    lights = {ratio.leds: found for ratio in neighbours if (found := _light_of(run.folder, ratio.leds)) is not None}
    gradients = gradient_rows(neighbours, lights, signals)
    for row in gradients:
        difference = abs(row["signal"] - row["over_signal"]) / _LOSS_AT
        row["linearity"] = difference * max(losses.get(row["led"], np.nan), losses.get(row["over_led"], np.nan))
    rows = {
        "responses": response_rows(colours, run.camera),
        "ratios": [row for ratio in neighbours for row in ratio_rows(colours, ratio)],
        "vendors": vendor_rows(planes, neighbours, run.camera),
        "gradients": gradients,
        "correlations": correlation_rows(colours, leds),
        "variances": variance_rows(colours, leds, level_moments(planes, ratios)),
        "waves": wave_rows(colours),
    }
    origin = origin_entries(_origin(run, leds))
    for name, columns in _COLUMNS.items():
        entries = {column: [row.get(column, absent) for row in rows[name]] for column, absent in columns.items()}
        units = {column: unit for column, unit in _UNITS.items() if column in columns}
        table = Table(entries, units=units, meta={**origin, "fingerprint": fingerprint})
        write_table(ColourFolder(run.folder.root).table(name), table)
    return messages


def _read_planes(run: Run, colours: Sequence[DetectorColour], leds: Sequence[str]) -> tuple[list[LedPlanes], list[str]]:
    """Return the planes of each LED, and the reasons for missing ones."""
    planes, messages = [], []
    for led in leds:
        path, solved, shared = run.folder.joint(led), None, None
        if path.is_file():
            solved = read_planes(path)
            with open_joint(path) as hdus:
                shared = SharedTerms.read(hdus)
        if shared is None:
            messages.append(f"{led}: errors shared with other LEDs are unknown; the errors of its ratios count them twice")
        planes.append(planes_of(led, colours, solved, shared))
    return planes, messages


def _signals(folder: RunFolder, colours: Sequence[DetectorColour], leds: Sequence[str]) -> dict[str, float]:
    """Return the median signal of a pixel in each LED on one detector, electrons, where it is known."""
    found = {}
    for led in leds:
        paths = [folder.super_pixels(led, one.detector) for one in colours if led in one.leds]
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            found[led] = float(np.nanmedian(read_signals(path).signal))
    return found


def _losses(folder: RunFolder, leds: Sequence[str]) -> dict[str, float]:
    """Return the median error of the loss of an amplifier at 50,000 electrons in each LED, where it was measured."""
    found = {}
    for led in leds:
        if folder.joint(led).is_file():
            with open_joint(folder.joint(led)) as hdus:
                if "LINEARITY" in hdus and len(hdus["LINEARITY"].data):
                    found[led] = float(np.nanmedian(hdus["LINEARITY"].data["loss_err"]))
    return found


def _light_of(folder: RunFolder, pair: tuple[str, str]) -> LightGradient | None:
    """Return the gradient of the ratio of two beams, of the joint solutions or else of the beam models; None without them."""
    if all(folder.joint(led).is_file() for led in pair):
        tables = [read_light(folder.joint(led)).tables[0][0] for led in pair]
        ends = [np.array(table.coefficients.shape) - 2 for table in tables]
        corners = [(table.origin + table.step, table.origin + table.step * end) for table, end in zip(tables, ends, strict=True)]
        beams: tuple[Beam, Beam] = (tables[0].at, tables[1].at)
    elif all(folder.beam(led).is_file() for led in pair):
        models = [load_beam(folder.beam(led)) for led in pair]
        corners = [(model.hull.lower, model.hull.upper) for model in models]
        beams = (_logarithm_of(models[0]), _logarithm_of(models[1]))
    else:
        return None
    return light_gradient(beams, np.max([low for low, _ in corners], axis=0), np.min([high for _, high in corners], axis=0))


def _logarithm_of(model: BeamModel) -> Callable[[FloatArray], FloatArray]:
    """Return the logarithm of a beam as a function of points (n, 2), NaN where there is no data."""

    def logarithm(points: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(np.asarray(model.evaluate(points[:, 0], points[:, 1])[0], dtype=np.float64))

    return logarithm
