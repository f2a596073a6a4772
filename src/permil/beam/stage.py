"""The stage `beam`: measurement of nodes from scan exposures (resumable), and one model per LED."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.beam.bunches import box_signals, shared_box_calibration
from permil.beam.model import BeamModel
from permil.beam.model_file import model_from_hdus, model_to_hdus
from permil.beam.nodes import nodes_from_table
from permil.camera import Camera, ReferenceBox, shared_camera
from permil.camera.frames import box_in_detector, detector_to_ccs
from permil.config import Config
from permil.config.beam import ReferenceConfig
from permil.errors import BeamError, InputError, PermilError, PhotodiodeError
from permil.exposures import SCAN, Index, require_one_kind, summarise_files
from permil.isr.box import BoxSignal
from permil.isr.calibrate import calibration_fingerprint
from permil.isr.calibration import Calibration
from permil.products import (
    FINGERPRINT_CARD,
    RunFolder,
    fingerprint,
    is_current,
    make_folder,
    read_table,
    write_hdus,
    write_table,
    writing,
)
from permil.products.sensor_identity import card_of
from permil.progress import StageReport, parallel_map

_EXPOSURES_PER_TASK = 4
_SATURATED_FRACTION = 0.005
_NODE_KEYS = ("obsid", "detector", "amp", "row", "column", "box")
"""Columns that identify a node."""


@dataclass(frozen=True)
class _Bunch:
    """A bunch of pixels that measures the beam."""

    detector: str
    amp: str
    row: int
    column: int
    box: int
    ref_x_mm: float
    ref_y_mm: float


@dataclass(frozen=True)
class _NodeTask:
    """Some scan exposures of one detector, and the journal of their nodes."""

    config: Config
    root: Path
    rows: tuple[dict[str, Any], ...]
    bunches: tuple[_Bunch, ...]
    journal: Path


def reference_bunches(config: Config, camera: Camera) -> list[_Bunch]:
    """Return the bunches of the configuration, or that of the camera, with their positions.

    Raises
    ------
    CameraError
        If a detector or amplifier does not exist, or a box extends beyond its segment.
    """
    references = config.beam.reference or [ReferenceConfig(**asdict(camera.reference))]
    bunches = []
    for reference in references:
        detector = camera[reference.detector]
        amplifier = detector.amplifier(reference.amp)
        rows, columns = box_in_detector(amplifier, row=reference.row, column=reference.column, box=reference.box)
        x_mm, y_mm = detector_to_ccs(detector, (columns.start + columns.stop - 1) / 2, (rows.start + rows.stop - 1) / 2)
        place = (reference.row, reference.column, reference.box)
        bunches.append(_Bunch(detector.name, amplifier.name, *place, float(x_mm), float(y_mm)))
    return bunches


def beam_fingerprint(config: Config, folder: RunFolder, scan: Table, bunches: list[_Bunch]) -> tuple[str, str]:
    """Return the fingerprints of the nodes and of the model of one LED."""
    detectors = sorted({bunch.detector for bunch in bunches})
    options = {"bunches": [asdict(bunch) for bunch in bunches], "positions": _positions(scan)}
    calibrations = [calibration_fingerprint(config, folder, detector) for detector in detectors]
    nodes = fingerprint(options, files=sorted(scan["path"]), upstream=calibrations)
    return nodes, fingerprint({"outlier_threshold": config.beam.outlier_threshold, "seed": config.seed}, upstream=[nodes])


def fit_beams(config: Config, camera: Camera, folder: RunFolder, index: Index, *, workers: int) -> StageReport:
    """Measure the nodes and fit the beam of each scanned LED.

    Raises
    ------
    BeamError
        If no LED was scanned, the scan did not read a reference detector, or no LED has enough nodes for a model.
    """
    report = StageReport("beam")
    bunches = reference_bunches(config, camera)
    scan = index.select(purpose=SCAN)
    leds = [led for led in index.leds if led in set(scan["led"]) and (not config.beam.leds or led in config.beam.leds)]
    missing = [led for led in config.beam.leds if led not in leds]
    if missing or not leds:
        what = f"LED {', '.join(missing)} was not scanned" if missing else "the exposures contain no beam scan"
        raise BeamError(
            what,
            path=config.exposures.roots[0] if config.exposures.roots else None,
            remedy=f"scanned LEDs: {', '.join(sorted(set(scan['led']))) or 'none'}; check exposures.roots and beam.leds",
        )
    tasks = [
        _nodes_of_led(config, folder, scan[scan["led"] == led], led, bunches, workers=workers, report=report) for led in leds
    ]
    waiting = [task for task in tasks if not is_current(folder.beam(task.led), task.fingerprint)]
    results = parallel_map(_attempt_model, waiting, workers=workers, description="beam models")
    failed = [result for result in results if isinstance(result, PermilError)]
    if failed and len(failed) == len(tasks):
        raise failed[0]
    report.done += len(waiting) - len(failed)
    report.skipped += len(tasks) - len(waiting)
    for task, result in zip(waiting, results, strict=True):
        if isinstance(result, PermilError):
            # A model of an earlier run must not be mistaken for that of these nodes.
            folder.beam(task.led).unlink(missing_ok=True)
            report.messages.append(f"LED {task.led} is left out: {result}")
        else:
            report.messages.append(f"{task.led}: {result}")
    return report


def _attempt_model(task: _ModelTask) -> str | PermilError:
    """Fit the model of one LED; return its summary, or the error if it cannot be fitted."""
    try:
        return _fit_model(task)
    except (BeamError, InputError, PhotodiodeError) as error:
        return error


@dataclass(frozen=True)
class _ModelTask:
    """The beam model of one LED, fitted to the nodes in the folder."""

    config: Config
    root: Path
    led: str
    position_kind: str
    fingerprint: str


def _nodes_of_led(
    config: Config, folder: RunFolder, scan: Table, led: str, bunches: list[_Bunch], *, workers: int, report: StageReport
) -> _ModelTask:
    wanted = {bunch.detector for bunch in bunches}
    scan = scan[np.isin(scan["detector"], sorted(wanted))]
    unread = sorted(wanted - set(scan["detector"]))
    if unread:
        raise BeamError(
            f"the scan of LED {led} did not read the reference detector {', '.join(unread)}",
            remedy="give a detector of the scan in beam.reference",
            led=led,
        )
    require_one_kind(scan)
    nodes_print, model_print = beam_fingerprint(config, folder, scan, bunches)
    if is_current(folder.beam_nodes(led), nodes_print):
        report.skipped += 1
    else:
        table = _measure(config, folder, scan, led, bunches, nodes_print, workers=workers)
        write_table(folder.beam_nodes(led), table)
        report.done += len(table)
        report.messages += [f"{led}: a node is missing: {sentence}" for sentence in _missing_nodes(table)]
    return _ModelTask(config, folder.root, led, str(scan["position_kind"][0]), model_print)


def _fit_model(task: _ModelTask) -> str:
    """Fit and write the model of one LED; return its summary."""
    folder = RunFolder(task.root)
    path = folder.beam_nodes(task.led)
    try:
        nodes = _usable_nodes(read_table(path), task.config)
        model = BeamModel.fit(nodes, outlier_threshold=task.config.beam.outlier_threshold, seed=task.config.seed)
    except PermilError as error:
        error.path = str(path)
        raise
    cards = {
        FINGERPRINT_CARD: (task.fingerprint, "what this was made from"),
        "LED": (task.led, "LED"),
        "PDNORM": (task.config.isr.photodiode, "normalisation of each exposure"),
        "POSKIND": (task.position_kind, "projector positions from header or folder"),
    }
    write_hdus(folder.beam(task.led), model_to_hdus(model, header=cards))
    return model.describe()


def _missing_nodes(table: Table) -> list[str]:
    return summarise_files((str(row["obsid"]), str(row["note"])) for row in table if row["note"])


def _usable_nodes(table: Table, config: Config) -> Any:
    if len(table) and all(table["note"]):
        raise BeamError(
            f"none of {len(table)} nodes could be measured; {_missing_nodes(table)[0]}", remedy="correct the cause and run again"
        )
    if config.isr.photodiode == "none":
        table = table.copy()
        table.remove_column("photodiode")
    return nodes_from_table(table)


def _positions(scan: Table) -> list[list[float]]:
    return sorted([float(row["x_mm"]), float(row["y_mm"])] for row in scan)


def _measure(
    config: Config,
    folder: RunFolder,
    scan: Table,
    led: str,
    bunches: list[_Bunch],
    nodes_print: str,
    *,
    workers: int,
) -> Table:
    """Measure all nodes of one LED; nodes of an interrupted run are taken from its journal."""
    journal = make_folder(folder.state) / f"nodes_{led}.jsonl"
    found = _read_journal(journal, nodes_print)
    if not found:
        with writing(journal):
            journal.write_text(json.dumps({"fingerprint": nodes_print}), encoding="utf-8")
    measured = {(record["obsid"], record["detector"]) for record in found}
    rows = [dict(zip(scan.colnames, row, strict=True)) for row in scan.iterrows()]
    rows = [_plain(row) for row in rows if (row["obsid"], row["detector"]) not in measured]
    tasks = []
    for detector in sorted({bunch.detector for bunch in bunches}):
        own = tuple(bunch for bunch in bunches if bunch.detector == detector)
        exposures = [row for row in rows if row["detector"] == detector]
        tasks += [
            _NodeTask(config, folder.root, tuple(exposures[start : start + _EXPOSURES_PER_TASK]), own, journal)
            for start in range(0, len(exposures), _EXPOSURES_PER_TASK)
        ]
    for records in parallel_map(_measure_nodes, tasks, workers=workers, description=f"beam nodes {led}"):
        found += records
    found.sort(key=lambda record: (record["x_mm"], record["y_mm"], record["obsid"], record["detector"], record["amp"]))
    table = Table(rows=found)
    for name, unit in (("x_mm", "mm"), ("y_mm", "mm"), ("ref_x_mm", "mm"), ("ref_y_mm", "mm")):
        table[name].unit = unit
    signal_unit = "adu" if config.isr.gains == "none" else "electron"
    table["signal"].unit = table["signal_err"].unit = signal_unit
    table.meta = {"fingerprint": nodes_print, "led": led, "photodiode": config.isr.photodiode}
    return table


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}


def _read_journal(journal: Path, expected: str) -> list[dict[str, Any]]:
    """Return the nodes of a journal of the same measurement; incomplete lines are ignored."""
    if not journal.is_file():
        return []
    first, *lines = journal.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    if _parsed(first) != {"fingerprint": expected}:
        return []
    # A task is repeated if its worker died after writing its line: duplicate nodes are merged.
    entries = [entry for line in lines if isinstance(entry := _parsed(line), list)]
    return list({tuple(record[name] for name in _NODE_KEYS): record for entry in entries for record in entry}.values())


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _measure_nodes(task: _NodeTask) -> list[dict[str, Any]]:
    """Measure the bunches of some exposures and append them to the journal."""
    camera = shared_camera(task.config.camera)
    boxes = tuple(ReferenceBox(bunch.detector, bunch.amp, bunch.row, bunch.column, bunch.box) for bunch in task.bunches)
    calibration = shared_box_calibration(task.config, RunFolder(task.root), boxes)
    records = []
    for row in task.rows:
        records += _nodes_of_exposure(row, task.bunches, boxes, calibration, camera, task.config)
    # One short write per task, so that lines of workers do not mix. Each starts with a newline, since the line before may be incomplete.
    with writing(task.journal), task.journal.open("a", encoding="utf-8") as stream:
        stream.write("\n" + json.dumps(records))
    return records


def _nodes_of_exposure(
    row: dict[str, Any],
    bunches: tuple[_Bunch, ...],
    boxes: tuple[ReferenceBox, ...],
    calibration: Calibration,
    camera: Camera,
    config: Config,
) -> list[dict[str, Any]]:
    note = ""
    try:
        signals = box_signals(row["path"], boxes, camera, calibration, config.isr, checksums=config.exposures.checksums)
    except InputError as error:
        # A damaged file of a scan is a missing node and does not stop the run.
        note = f"{error.path}: {error.what}"
        signals = [BoxSignal(np.nan, np.nan, 0, 0, 0, np.nan) for _ in boxes]
    records = []
    for bunch, box in zip(bunches, signals, strict=True):
        # Saturation biases the mean of the bunch and invalidates the node; the track of a cosmic ray does not.
        saturated = box.saturated > _SATURATED_FRACTION * bunch.box**2
        records.append(
            {
                "x_mm": row["x_mm"],
                "y_mm": row["y_mm"],
                "ref_x_mm": bunch.ref_x_mm,
                "ref_y_mm": bunch.ref_y_mm,
                "signal": float("nan") if saturated else box.signal,
                "signal_err": float("nan") if saturated else box.error,
                "photodiode": row["photodiode"],
                "detector": bunch.detector,
                "amp": bunch.amp,
                "row": bunch.row,
                "column": bunch.column,
                "box": bunch.box,
                "pixels": box.count,
                "rejected": box.rejected,
                "saturated": box.saturated,
                "obsid": row["obsid"],
                "mjd": row["mjd"],
                "note": note or ("saturated" if saturated else ""),
            }
        )
    return records


def load_beam(path: Path, *, led: str = "") -> BeamModel:
    """Read a beam model.

    Parameters
    ----------
    led
        Expected LED, checked if the file names one.

    Raises
    ------
    InputError
        If the file is missing, damaged, not a beam model, or of another LED.
    """
    model = model_from_hdus(path)
    found = card_of(fits.getheader(path, 0), "LED") if led else None
    if found is not None and str(found).lower() != led.lower():
        raise InputError(
            f"this is the beam of LED {found}, not of {led}",
            path=path,
            remedy="fit the beam of this LED again, or choose another LED with flat.beam_of",
            value=str(found),
            expected=led,
        )
    return model
