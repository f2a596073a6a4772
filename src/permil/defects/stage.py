"""The stage `defects`: a table of the defects of each detector, after the flats of all its LEDs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table, vstack
from astropy.time import Time

from permil.arrays import Float32Array, FloatArray, IntArray
from permil.camera import Camera, Detector, shared_camera
from permil.camera.frames import detector_to_ccs
from permil.config import Config
from permil.context import Run
from permil.defects.exposures import FEWEST_EXPOSURES, fit_pixels, varying_pixels
from permil.defects.find import DarkImage, LedResponse, VaryingPixels, find_defects
from permil.defects.neighbourhood import BlockLevels, block_levels, extrapolated
from permil.defects.table import COLUMNS, defect_table, with_given
from permil.engine import Task, Work, report_part, threaded_map
from permil.errors import FlatError, InputError
from permil.exposures import POINTING, SCAN, Checksums
from permil.flat.divide import sampling_step
from permil.isr.calibration.calibration import Calibration
from permil.isr.calibration.masks import hot_pixel_mask
from permil.isr.inputs import detector_calibration, given_defects
from permil.isr.open_exposure import OpenExposure, RowSample, Strip, strips_of
from permil.isr.stage import common_serial, memory_for, reduction_of, seconds_of_file
from permil.products import MaskPlane, RunFolder, is_usable, origin_entries, read_image, read_table, write_table
from permil.progress import StageReport, do_tasks
from permil.stages import StageFunctions

_REACH_MM = 60.0
"""Distance of the projector from the middle of a detector up to which exposures are searched."""

_LIGHT_BLOCK = 32
_LEAST_LIGHT = 500.0
_STRIP_ROWS = 32
_NOT_SEARCHED = int(MaskPlane.NO_DATA | MaskPlane.SAT | MaskPlane.EDGE)
_INSTRUMENTS = {"lsstcam": "LSSTCam"}
"""Names of instruments in Rubin's curated calibrations, by those of the cameras."""


@dataclass(frozen=True)
class DefectsRequest:
    """The defects of one detector: paths of the exposures of each LED with a flat, cards of the table."""

    config: Config
    root: Path
    detector: str
    exposures: tuple[tuple[str, tuple[str, ...]], ...]
    cards: tuple[tuple[str, Any], ...]
    fingerprint: str


def make_defects(run: Run) -> StageReport:
    """Find the defects of every detector with a flat.

    Raises
    ------
    FlatError
        If there is no flat.
    """
    report = StageReport("defects")
    detectors = [name for name in run.camera.detectors if _leds_with_flat(run, name)]
    if not detectors:
        raise FlatError("there is no flat of any detector", path=run.folder.root, remedy="run `permil flat CONFIG` first")
    ends = do_tasks([defects_task(run, name) for name in detectors])
    report.count(ends)
    report.messages += [sentence for end in ends.values() for sentence in end.messages]
    report.messages.append(_summary([read_table(run.folder.defects(name), columns=tuple(COLUMNS)) for name in detectors]))
    return report


def _leds_with_flat(run: Run, detector: str) -> list[str]:
    """Return the LEDs with a flat of a detector."""
    return [led for led in run.config.flat.leds or run.index.leds if run.folder.flat(led, detector).is_file()]


def _summary(tables: Sequence[Table]) -> str:
    counts = Counter[str]()
    for table in tables:
        _, first = np.unique(np.asarray(table["defect"]), return_index=True)
        counts.update(str(reason).replace("_", " ") for reason in table["reason"][first])
    listed = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    places = f"{len(tables)} detector{'s' if len(tables) > 1 else ''}"
    return f"{sum(counts.values())} defects in {places}" + (f": {listed}" if listed else "")


def defects_task(run: Run, detector: str) -> Task:
    """Declare the table of defects of a detector, after the flats of all its LEDs."""
    reduction = reduction_of(run, detector)
    lit = [run.index.select(purpose=purpose, detector=detector) for purpose in (POINTING, SCAN)]
    rows = vstack(lit, metadata_conflicts="silent")
    leds = run.config.flat.leds or run.index.leds
    chosen = {led: _chosen(rows, led, run.camera[detector], run.config.defects.exposures) for led in leds}
    cards = _cards(run.camera, run.camera[detector], rows)

    def work(task: Task) -> Work:
        # The flats are known only when the tasks before have ended.
        exposures = tuple((led, paths) for led, paths in chosen.items() if run.folder.flat(led, detector).is_file())
        if not exposures:
            raise FlatError(
                f"there is no flat of {detector}", remedy="run `permil flat CONFIG` first, or check --detector", detector=detector
            )
        # In Rubin's curated calibrations DETECTOR is a number.
        origin = {
            name: entry for name, entry in origin_entries(run.origin(rows, detector=detector)).items() if name != "DETECTOR"
        }
        request = DefectsRequest(run.config, run.folder.root, detector, exposures, (*origin.items(), *cards), task.fingerprint)
        return Work(search_detector, [request])

    pixels = run.camera[detector].nx * run.camera[detector].ny
    files = sum(len(paths) for paths in chosen.values())
    return Task(
        ("defects", detector),
        "defects",
        work,
        outputs=(run.folder.defects(detector),),
        options=reduction.options | run.options("defects", "validity"),
        facts=[list(chosen), cards],
        files=[*(path for paths in chosen.values() for path in paths), *reduction.files],
        products=[run.folder.flat(led, detector) for led in chosen],
        needs=reduction.needs,
        command=("defects", "--detector", detector),
        seconds=0.1 + len(chosen) * 2e-7 * pixels + files * (1.5 * seconds_of_file(run.camera[detector]) + 7e-9 * pixels),
        size=1e5,
        memory=memory_for(run.camera[detector], bytes_per_pixel=40 + 10 * len(chosen)),
    )


def _tasks(run: Run, earlier: Sequence[Task]) -> list[Task]:
    # The composite moves the flats to their final place.
    composites = tuple(task for task in earlier if task.key[0] == "composite")
    detectors = dict.fromkeys(task.key[2] for task in earlier if task.key[0] == "flat")
    return [replace(defects_task(run, name), after=composites) for name in detectors]


STAGE = StageFunctions(
    make_defects,
    is_wanted=lambda run: run.has_bench_exposures or not run.has_stars,
    tasks=_tasks,
    single=lambda run, _step, _led, detector: [defects_task(run, detector)],
)


def _chosen(rows: Table, led: str, detector: Detector, count: int) -> tuple[str, ...]:
    """Return exposures of an LED whose light on the detector differs: evenly spaced in the order of distance from the projector."""
    lit = rows[np.asarray(rows["led"]) == led]
    x, y = detector_to_ccs(detector, *detector.centre_pixel)
    distance = np.hypot(np.asarray(lit["x_mm"], dtype=float) - float(x), np.asarray(lit["y_mm"], dtype=float) - float(y))
    order = np.argsort(distance, kind="stable")
    order = order[distance[order] <= _REACH_MM]
    if count < FEWEST_EXPOSURES or order.size < FEWEST_EXPOSURES:
        return ()
    places = np.unique(np.linspace(0, order.size - 1, min(count, order.size)).round().astype(int))
    return tuple(str(lit["path"][index]) for index in order[places])


def _cards(camera: Camera, detector: Detector, rows: Table) -> tuple[tuple[str, Any], ...]:
    """Return the cards that name detector and time, as in Rubin's curated calibrations."""
    times = np.asarray(rows["mjd"], dtype=float)
    known = times[np.isfinite(times)]
    cards: list[tuple[str, Any]] = [
        ("INSTRUME", _INSTRUMENTS.get(camera.name, camera.name)),
        ("RAFTNAME", detector.raft),
        ("SLOTNAME", detector.slot),
        ("DETECTOR", detector.id),
        ("DET_NAME", detector.name),
        ("DET_SER", common_serial(rows, detector.name)),
        ("CALIBCLS", "lsst.ip.isr.defects.Defects"),
    ]
    if known.size:
        cards.append(("CALIBDATE", str(Time(known.min(), format="mjd", scale="tai").isot)))
    return tuple((name, entry) for name, entry in cards if entry != "")


def search_detector(request: DefectsRequest) -> list[str]:
    """Find the defects of a detector and write their table; return messages for the user.

    Raises
    ------
    InputError
        If a flat or an input of the reduction cannot be read.
    """
    config, folder = request.config, RunFolder(request.root)
    camera = shared_camera(config.camera)
    detector = camera[request.detector]
    calibration = detector_calibration(config, camera, folder, request.detector)
    flats, messages = [], list[str]()
    for number, (led, paths) in enumerate(request.exposures):
        flat = _read_flat(folder.flat(led, request.detector), led, detector)
        varying, sentences = search_exposures(paths, camera, calibration, checksums=config.exposures.checksums)
        flats.append(replace(flat, varying=varying))
        messages += [f"{led}: {sentence}" for sentence in sentences]
        report_part((number + 1) / (len(request.exposures) + 1))
    found = find_defects(flats, detector, options=config.defects, dark=_dark(calibration, config.isr.hot_pixel_threshold))
    given = given_defects(config.isr.defects, detector, camera=camera)
    searched = [led for led, _ in request.exposures]
    cards = {**dict(request.cards), "leds": searched, "fingerprint": request.fingerprint}
    cards["exposures_searched"] = {led: len(paths) for led, paths in request.exposures}
    write_table(folder.defects(request.detector), defect_table(with_given(found, given, detector.shape), cards=cards))
    return messages


def _read_flat(path: Path, led: str, detector: Detector) -> LedResponse:
    product = read_image(path)
    if product.image.shape != detector.shape:
        raise InputError(
            f"the flat has {product.image.shape} pixels, detector {detector.name} has {detector.shape}",
            path=path,
            remedy="make the flat again with this camera",
            value=product.image.shape,
        )
    missing = (product.mask & _NOT_SEARCHED) != 0
    response, variance = (np.where(missing, np.float32(np.nan), image) for image in (product.image, product.variance))
    return LedResponse(led, response, variance)


def _dark(calibration: Calibration, threshold: float) -> DarkImage | None:
    """Return the superbias in electrons, None without one."""
    if calibration.superbias is None:
        return None
    gain = calibration.gains.gain.astype(np.float32)[calibration.detector.amplifier_map()]
    image, variance = calibration.superbias.image * gain, calibration.superbias.variance * gain**2
    outliers = hot_pixel_mask(calibration.superbias.image, calibration.detector, threshold=threshold) != 0
    return DarkImage(image, variance, outliers)


def search_exposures(
    paths: Sequence[str], camera: Camera, calibration: Calibration, *, checksums: Checksums
) -> tuple[VaryingPixels | None, list[str]]:
    """Return the pixels that vary between exposures of one LED, and the reason for each exposure that is left out.

    Returns None if fewer than `permil.defects.exposures.FEWEST_EXPOSURES` can be used.
    """
    detector, notes = calibration.detector, list[str]()
    if len(paths) < FEWEST_EXPOSURES:
        return None, notes
    sampled = RowSample.of(calibration, sampling_step(detector.shape))
    with ExitStack() as stack:
        opened: list[tuple[OpenExposure, list[BlockLevels | None]]] = []
        for path in paths:
            try:
                exposure = stack.enter_context(OpenExposure(path, camera, calibration, sampled, checksums=checksums))
            except InputError as error:
                notes.append(f"{Path(path).name} is not searched for defects: {error.what}")
                continue
            opened.append((exposure, _light(exposure, sampled)))
        if len(opened) < FEWEST_EXPOSURES:
            return None, notes
        neighbours = max(exposure.neighbours for exposure, _ in opened)
        strips = strips_of(detector, rows=_STRIP_ROWS, neighbours=neighbours)
        parts = [part for found in threaded_map(lambda strip: _search_strip(strip, opened, detector), strips) for part in found]
    rows, columns, *arrays = (np.concatenate([part[number] for part in parts]) for number in range(5))
    return VaryingPixels(rows, columns, fit_pixels(*arrays)), notes


def _light(exposure: OpenExposure, sampled: RowSample) -> list[BlockLevels | None]:
    """Return the light on each amplifier; None where there is too little."""
    step = max(1, round(exposure.detector.ny / sampled.detector_rows.size))
    usable = is_usable(exposure.sample.mask) & ((exposure.sample.mask & int(MaskPlane.EDGE)) == 0)
    image = np.where(usable, exposure.sample.image, np.float32(np.nan))
    levels: list[BlockLevels | None] = []
    for amplifier in exposure.detector.amplifiers:
        rows, columns = amplifier.slices
        own = (sampled.detector_rows >= rows.start) & (sampled.detector_rows < rows.stop)
        found = block_levels(
            image[own, columns],
            sampled.detector_rows[own].astype(np.float64),
            np.arange(columns.start, columns.stop, dtype=np.float64),
            size=(max(_LIGHT_BLOCK // step, 1), _LIGHT_BLOCK),
        )
        is_lit = np.isfinite(found.levels).all() and float(found.levels.min()) > _LEAST_LIGHT
        levels.append(found if is_lit else None)
    return levels


def _search_strip(
    strip: Strip, opened: Sequence[tuple[OpenExposure, list[BlockLevels | None]]], detector: Detector
) -> list[tuple[IntArray | FloatArray, ...]]:
    """Return rows, columns, signals, light and noise of the pixels of a strip that vary."""
    signals: list[list[Float32Array]] = [[] for _ in strip.runs]
    for exposure, _ in opened:
        image, mask = exposure.read(strip)
        unusable = ~is_usable(mask) | ((mask & int(MaskPlane.EDGE)) != 0)
        image[unusable] = np.nan
        for own, places in zip(signals, strip.own_rows, strict=True):
            own.append(image[places].copy())
    found = []
    for run, own in zip(strip.runs, signals, strict=True):
        signal = np.stack(own)
        for number, amplifier in enumerate(detector.amplifiers):
            whole, columns = amplifier.slices
            # At the mid-line one run has rows of both halves.
            rows = range(max(run.start, whole.start), min(run.stop, whole.stop))
            if not rows:
                continue
            grid = np.array(rows, dtype=np.float64), np.arange(columns.start, columns.stop, dtype=np.float64)
            light = extrapolated([levels[number] for _, levels in opened], *grid)
            noise = np.array([exposure.noise_variance[number] for exposure, _ in opened], dtype=np.float32)
            part = signal[:, rows.start - run.start : rows.stop - run.start, columns]
            y, x = np.nonzero(varying_pixels(part, light, np.repeat(noise[:, None], part.shape[2], axis=1)))
            pixels = part[:, y, x].T, light[:, y, x].T
            found.append(
                (
                    y.astype(np.int64) + rows.start,
                    x.astype(np.int64) + columns.start,
                    *(each.astype(np.float64) for each in pixels),
                    np.repeat(noise[None, :].astype(np.float64), y.size, axis=0),
                )
            )
    return found
