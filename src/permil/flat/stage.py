"""The stage `flat`: pointings to the composite flat of each detector and LED, its metrics and the mosaic.

Each detector is solved by itself and written with its own scale below ``.relative``; once all detectors of an LED are there, the
composite median is known and the scaled flats take their names. A run that is killed anywhere goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack

from permil.beam import BeamModel
from permil.beam.stage import load_beam
from permil.camera import Camera, Detector, shared_camera
from permil.camera.frames import detector_to_ccs, projector_relative
from permil.config import Config
from permil.errors import FlatError, PermilError
from permil.exposures import POINTING, SCAN, Index, require_one_kind
from permil.flat.composite import composite_median, response_histogram
from permil.flat.divide import PointingFlat
from permil.flat.mosaic import MosaicGrid, MosaicPiece, assemble_mosaic, mosaic_grid, mosaic_piece
from permil.flat.product import SCALE_CARD, DetectorSolution, good_pixels, read_histogram, rescaled, solution_extensions
from permil.flat.solve import PointingStack, solve_by_division
from permil.isr import Calibration, LeftOut
from permil.isr.calibrate import calibration_fingerprint, detector_calibration
from permil.isr.stage import stack_group
from permil.products import (
    FINGERPRINT_CARD,
    MaskPlane,
    RunFolder,
    fingerprint,
    is_current,
    is_good,
    read_image,
    stored_fingerprint,
    write_image,
    write_table,
)
from permil.progress import StageReport, parallel_map


@dataclass(frozen=True)
class PointingGroup:
    """Exposures of one detector at one projector position."""

    number: int
    x_mm: float
    y_mm: float
    paths: tuple[str, ...]
    photodiodes: tuple[float, ...]
    aimed: bool


@dataclass(frozen=True)
class FlatTask:
    """One detector and LED."""

    config: Config
    root: Path
    detector: str
    led: str
    groups: tuple[PointingGroup, ...]
    fingerprint: str


def make_flats(config: Config, camera: Camera, folder: RunFolder, index: Index, *, workers: int) -> StageReport:
    """Make the flats of all detectors and LEDs that the data and the configuration allow.

    Raises
    ------
    FlatError
        If there are no pointings, or an LED that is asked for has none or no beam model.
    """
    report = StageReport("flat")
    leds = _flat_leds(config, folder, index, report)
    tasks = []
    for led in leds:
        tasks += flat_tasks(config, camera, folder, index, led)
    current = [task for task in tasks if _is_done(folder, task)]
    waiting = [task for task in tasks if task not in current]
    report.done += len(waiting)
    report.skipped += len(current)
    parallel_map(solve_detector, waiting, workers=workers, description="flats")
    for led in leds:
        of_led = [task for task in tasks if task.led == led]
        compose(config, camera, folder, led, of_led, workers=workers, report=report)
    return report


def _flat_leds(config: Config, folder: RunFolder, index: Index, report: StageReport) -> list[str]:
    pointings = index.select(purpose=POINTING)
    available = [led for led in index.leds if led in set(pointings["led"])]
    wanted = config.flat.leds or available
    missing = [led for led in wanted if led not in available]
    if missing or not available:
        what = f"LED {', '.join(missing)} has no pointings" if missing else "there are no pointings among the exposures"
        raise FlatError(
            what,
            remedy=f"LEDs with pointings: {', '.join(available) or 'none'}; check exposures.roots and flat.leds",
            value=missing,
        )
    leds = []
    for led in wanted:
        source = config.flat.beam_of.get(led, led)
        if folder.beam(source).is_file():
            leds.append(led)
            continue
        message = f"LED {led}: no flat, since there is no beam model of {source} (scan it, or name another LED in flat.beam_of)"
        if led in config.flat.leds or source != led:
            raise FlatError(
                f"there is no beam model of LED {source}", remedy="scan it, or name another LED in flat.beam_of", led=led
            )
        report.messages.append(message)
    if not leds:
        raise FlatError("no LED has both pointings and a beam model", remedy="name a beam for each in flat.beam_of")
    return leds


def flat_tasks(config: Config, camera: Camera, folder: RunFolder, index: Index, led: str) -> list[FlatTask]:
    """Return one task per detector that a pointing of this LED puts light on.

    Raises
    ------
    FlatError
        If a detector that is asked for was not read with this LED.
    """
    source = config.flat.beam_of.get(led, led)
    beam = load_beam(folder.beam(source))
    beam_print = stored_fingerprint(folder.beam(source)) or ""
    exposures = index.select(purpose=POINTING, led=led)
    scan = index.select(purpose=SCAN, led=source)
    if len(scan):
        require_one_kind(scan, exposures)
    else:
        require_one_kind(exposures)
    options = config.flat.model_dump(mode="json", exclude={"mosaic_mm", "detectors", "leds"})
    tasks = []
    for name in _wanted_detectors(config, camera, exposures):
        groups = tuple(pointing_groups(exposures[exposures["detector"] == name], camera[name], beam, config))
        if not groups:
            continue
        files = [path for group in groups for path in group.paths]
        positions = [[group.number, group.x_mm, group.y_mm, list(group.photodiodes)] for group in groups]
        print_ = fingerprint(
            {"flat": options, "groups": positions},
            files=files,
            upstream=[beam_print, calibration_fingerprint(config, folder, name)],
        )
        tasks.append(FlatTask(config, folder.root, name, led, groups, print_))
    if not tasks:
        raise FlatError(
            f"no pointing of LED {led} puts light on a detector that was read",
            remedy="check the positions of the pointings against the area of the beam scan",
            led=led,
        )
    return tasks


def _wanted_detectors(config: Config, camera: Camera, exposures: Table) -> list[str]:
    present = [detector.name for detector in camera.detectors.values() if detector.name in set(exposures["detector"])]
    if not config.flat.detectors:
        return present
    chosen = [name for name in present if name in config.flat.detectors or name[:3] in config.flat.detectors]
    for wanted in config.flat.detectors:
        if not any(wanted in (name, name[:3]) for name in chosen):
            raise FlatError(
                f"{wanted} was not read in any pointing",
                remedy=f"detectors that were: {', '.join(present)}; check flat.detectors",
                value=wanted,
            )
    return chosen


def pointing_groups(exposures: Table, detector: Detector, beam: BeamModel, config: Config) -> Iterator[PointingGroup]:
    """Yield the groups of exposures of one detector whose light the beam model knows, numbered in the order of time."""
    normalise = config.isr.photodiode == "header"
    usable = np.isfinite(exposures["photodiode"]) if normalise else np.ones(len(exposures), dtype=bool)
    exposures = exposures[usable]
    exposures.sort(["mjd", "obsid"])
    corner_x, corner_y = np.meshgrid(np.linspace(0, detector.nx - 1, 17), np.linspace(0, detector.ny - 1, 17))
    x_ccs, y_ccs = detector_to_ccs(detector, corner_x, corner_y)
    order = list(dict.fromkeys(int(number) for number in exposures["position_id"]))
    number = 0
    for position in order:
        members = exposures[exposures["position_id"] == position]
        x_mm, y_mm = float(np.mean(members["x_mm"])), float(np.mean(members["y_mm"]))
        if not beam.hull.contains(*projector_relative(x_ccs, y_ccs, x_mm, y_mm)).any():
            continue
        number += 1
        yield PointingGroup(
            number=number,
            x_mm=x_mm,
            y_mm=y_mm,
            paths=tuple(str(path) for path in members["path"]),
            photodiodes=tuple(float(reading) if normalise else 1.0 for reading in members["photodiode"]),
            aimed=bool(np.any(members["aimed"] == detector.name)),
        )


def _relative_path(folder: RunFolder, task: FlatTask) -> Path:
    return folder.flat(task.led, task.detector).parent / ".relative" / f"{task.detector}.fits"


def _is_done(folder: RunFolder, task: FlatTask) -> bool:
    return any(
        is_current(path, task.fingerprint) for path in (folder.flat(task.led, task.detector), _relative_path(folder, task))
    )


@lru_cache(maxsize=8)
def _beam(path: Path, _changed: int) -> BeamModel:
    return load_beam(path)


def solve_detector(task: FlatTask) -> None:
    """Solve one detector and LED and write its flat on its own scale.

    Raises
    ------
    PermilError
        Naming the detector where no file is named.
    """
    folder = RunFolder(task.root)
    config = task.config
    detector = shared_camera(config.camera)[task.detector]
    beam_path = folder.beam(config.flat.beam_of.get(task.led, task.led))
    beam = _beam(beam_path, beam_path.stat().st_mtime_ns)
    keep = partial(_write_pointing, folder, task) if config.flat.keep_pointings else None
    noted: list[LeftOut] = []
    try:
        solution = solve_by_division(
            _stacks(task, folder, beam, noted),
            beam,
            detector,
            led=task.led,
            super_pixel_mm=config.flat.super_pixel_mm,
            remove_steps=config.flat.remove_amplifier_steps,
            keep=keep,
        )
    except PermilError as error:
        if error.path is None:
            error.path = f"flat of {task.detector}, LED {task.led}"
        raise
    _write_relative(folder, task, solution, noted)


def _stacks(task: FlatTask, folder: RunFolder, beam: BeamModel, noted: list[LeftOut]) -> Iterator[PointingStack]:
    """Yield the stack of each pointing; what was left out or does not count in a scale is noted."""
    config = task.config
    camera = shared_camera(config.camera)
    calibration = detector_calibration(config, camera, folder, task.detector)
    for group in task.groups:
        # Made in a function of its own, so that nothing of it is kept while the next one is made.
        yield _stack_of(group, camera, calibration, config, beam, noted)


def _stack_of(
    group: PointingGroup, camera: Camera, calibration: Calibration, config: Config, beam: BeamModel, noted: list[LeftOut]
) -> PointingStack:
    exposures = stack_group(group.paths, group.photodiodes, camera, calibration, config.isr)
    stack, n = exposures.stack, len(exposures.used)
    noted += exposures.left_out
    noted += [LeftOut(path, "its photodiode reading contradicts its light") for path in exposures.photodiode_outliers]
    # A single exposure says nothing of its own scale error; the nodes of the scan say what one photodiode reading is worth.
    scale_error = exposures.scale_error if np.isfinite(exposures.scale_error) else beam.node_noise / np.sqrt(n)
    return PointingStack(
        number=group.number,
        x_mm=group.x_mm,
        y_mm=group.y_mm,
        signal=stack.image,
        variance=stack.variance,
        mask=stack.mask,
        photodiode=exposures.photodiode,
        scale_error=float(scale_error),
        exposures=n,
        rejected=stack.n_rejected,
        chi_square=float(np.nanmean(stack.chi_square)) if np.isfinite(stack.chi_square).any() else np.nan,
        aimed=group.aimed,
    )


def _cards(task: FlatTask, detector: Detector) -> dict[str, Any]:
    config = task.config
    return {
        FINGERPRINT_CARD: (task.fingerprint, "what this was made from"),
        "CAMERA": (config.camera if len(config.camera) < 60 else Path(config.camera).name, "camera"),
        "DETECTOR": (detector.name, "detector"),
        "LED": (task.led, "LED"),
        "BEAMLED": (config.flat.beam_of.get(task.led, task.led), "LED whose beam was divided out"),
        "PIXFRAME": ("DM", "pixel frame: row = y, column = x, 0-based"),
        "SOLVER": (config.flat.solver, "solver"),
        "PDNORM": (config.isr.photodiode, "normalisation of each exposure"),
        "GAINSRC": (Path(config.isr.gains).name, "gains"),
        "LINEAR": (Path(config.isr.linearity).name, "linearity correction"),
        "XTALK": (Path(config.isr.crosstalk).name, "crosstalk correction"),
        "STEPSREM": (config.flat.remove_amplifier_steps, "amplifier steps divided out"),
    }


def _write_pointing(folder: RunFolder, task: FlatTask, stack: PointingStack, pointing: PointingFlat) -> None:
    if not stack.aimed:
        return
    detector = shared_camera(task.config.camera)[task.detector]
    header = _cards(task, detector) | {
        "POINTING": (stack.number, "number of the pointing"),
        "BEAMX": (stack.x_mm, "[mm] projector X, CCS"),
        "BEAMY": (stack.y_mm, "[mm] projector Y, CCS"),
        "NEXPOSUR": (stack.exposures, "exposures"),
        "NREJECT": (stack.rejected, "measurements rejected as outliers"),
        "SCALEERR": (stack.scale_error, "relative error of the photodiode scale"),
        "NORM": ("electron per photodiode unit", "scale (before the composite)"),
    }
    write_image(
        folder.pointing(task.led, task.detector, stack.number), pointing.response, pointing.mask, pointing.variance, header=header
    )


def _write_relative(folder: RunFolder, task: FlatTask, solution: DetectorSolution, noted: list[LeftOut]) -> None:
    detector = shared_camera(task.config.camera)[task.detector]
    flat = solution.flat
    whole = solution.metrics[solution.metrics["amp"] == "all"][0]
    pointings = solution.pointings
    header = _cards(task, detector) | {
        "NPOINT": (len(pointings), "pointings"),
        "NEXPOSUR": (int(np.sum(pointings["exposures"])), "exposures"),
        "NREJECT": (int(np.sum(pointings["rejected"])), "measurements rejected as outliers"),
        "GRADX": (whole["gradient_x"], "[1/mm] relative gradient along CCS X"),
        "GRADXERR": (whole["gradient_x_err"], "[1/mm] its error (beam, photodiode)"),
        "GRADY": (whole["gradient_y"], "[1/mm] relative gradient along CCS Y"),
        "GRADYERR": (whole["gradient_y_err"], "[1/mm] its error (beam, photodiode)"),
        "GRADCONV": ("beam and photodiode as measured", "convention of the gradient"),
    }
    if detector.kind == "science":
        histogram = response_histogram(flat.response, good_pixels(flat))
    else:
        histogram = response_histogram(flat.response, np.isfinite(flat.response))
    write_image(
        _relative_path(folder, task),
        flat.response,
        flat.mask,
        flat.variance,
        header=header,
        extensions=[*solution_extensions(solution, histogram), *_notes(noted)],
    )


def _notes(noted: list[LeftOut]) -> list[Any]:
    """Return the table of what was left out, if anything was."""
    if not noted:
        return []
    rows = [(str(entry.path), entry.reason) for entry in noted]
    return [fits.BinTableHDU(Table(rows=rows, names=("path", "reason")), name="LEFT_OUT")]


def compose(
    config: Config, camera: Camera, folder: RunFolder, led: str, tasks: list[FlatTask], *, workers: int, report: StageReport
) -> None:
    """Put all detectors of one LED on the composite scale; write flats, mosaic and metrics.

    Raises
    ------
    FlatError
        If no science detector has a flat.
    """
    histograms = []
    for task in tasks:
        path = _relative_path(folder, task)
        histogram, _ = read_histogram(path if is_current(path, task.fingerprint) else folder.flat(led, task.detector))
        if camera[task.detector].kind == "science":
            histograms.append(histogram)
    scale = composite_median(histograms)
    grid = mosaic_grid([camera[task.detector] for task in tasks], config.flat.mosaic_mm)
    mosaic_print = fingerprint({"scale": scale, "cell": config.flat.mosaic_mm}, upstream=[task.fingerprint for task in tasks])
    if is_current(folder.metrics(led), mosaic_print) and is_current(folder.focal_plane(led), mosaic_print):
        report.skipped += 1
        return
    pieces = parallel_map(
        partial(_compose_detector, folder=folder, scale=scale, grid=grid), tasks, workers=workers, description=f"composite {led}"
    )
    metrics = vstack([piece.metrics for piece in pieces], metadata_conflicts="silent")
    response, variance, count = assemble_mosaic([piece.mosaic for piece in pieces], grid)
    report.messages += [f"{led}: {path}: {reason}" for piece in pieces for path, reason in piece.left_out]
    header = {
        FINGERPRINT_CARD: (mosaic_print, "what this was made from"),
        "LED": (led, "LED"),
        "CAMERA": (camera.name, "camera"),
        SCALE_CARD: (scale, "electron per photodiode unit that is 1 here"),
        "CELL_MM": (grid.cell_mm, "[mm] side of a cell"),
        "NDETECT": (len(tasks), "detectors"),
    }
    mask = np.where(count > 0, 0, int(MaskPlane.NO_DATA))
    write_image(folder.focal_plane(led), response, mask, variance, header=header, image_cards=grid.cards())
    metrics.meta = {"fingerprint": mosaic_print, "led": led, "composite_scale": scale}
    write_table(folder.metrics(led), metrics)
    report.messages.append(f"{led}: {len(tasks)} detectors, composite scale {scale:.6g} electrons per photodiode unit")


@dataclass(frozen=True)
class _Piece:
    """What one detector gives to the products of its LED."""

    mosaic: MosaicPiece
    metrics: Table
    left_out: list[tuple[str, str]]


def _compose_detector(task: FlatTask, *, folder: RunFolder, scale: float, grid: MosaicGrid) -> _Piece:
    """Write the flat of one detector on the composite scale."""
    detector = shared_camera(task.config.camera)[task.detector]
    final, relative = folder.flat(task.led, task.detector), _relative_path(folder, task)
    product = read_image(relative if is_current(relative, task.fingerprint) else final)
    image, variance, extensions = product.image, product.variance, list(product.extensions.values())
    if float(product.header.get(SCALE_CARD, 0.0)) != scale:
        image, variance, extensions = rescaled(product, scale)
        header = product.header.copy(strip=True)
        header[SCALE_CARD] = (scale, "electron per photodiode unit that is 1 here")
        header["NORM"] = ("median of all good science pixels is 1", "composite scale")
        write_image(final, image, product.mask, variance, header=header, extensions=extensions)
    relative.unlink(missing_ok=True)
    tables = {hdu.name: Table(hdu.data) for hdu in extensions if isinstance(hdu, fits.BinTableHDU)}
    left_out = [(str(row["path"]), str(row["reason"])) for row in tables.get("LEFT_OUT", [])]
    good = is_good(product.mask) & np.isfinite(image)
    return _Piece(mosaic_piece(image, variance, good, detector=detector, grid=grid), tables["METRICS"], left_out)
