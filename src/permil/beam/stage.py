"""The stage `beam`: measurement of nodes from scan exposures (resumable), and one model per LED."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from permil.arrays import Float32Array, Int32Array
from permil.beam.fits import model_from_hdus, model_to_hdus
from permil.beam.model import BeamModel
from permil.beam.nodes import nodes_from_table
from permil.camera import Amplifier, Camera, Detector, ReferenceBox, shared_camera
from permil.camera.frames import box_in_detector, detector_to_ccs, take_segment
from permil.config import Config
from permil.config.flat import ReferenceConfig
from permil.config.isr import IsrConfig
from permil.context import Run
from permil.engine import Task, Work
from permil.errors import BeamError, ConfigError, InputError, PermilError, PhotodiodeError, path_of
from permil.exposures import SCAN, Checksums, RawFile, require_one_kind, summarise_files
from permil.exposures.segment_rows import read_rows
from permil.isr.box import BoxSignal, box_in_segment, measure_box
from permil.isr.calibration.calibration import Calibration, Superbias
from permil.isr.calibration.gains import board_temperature
from permil.isr.calibration.masks import hot_pixel_mask
from permil.isr.calibration.superbias import read_superbias, superbias_path
from permil.isr.inputs import calibration_fingerprint, load_calibration
from permil.isr.reduce import check_detector, with_path
from permil.isr.stage import reduction_of
from permil.products import RunFolder, fingerprint_card, make_folder, read_table, write_hdus, write_table, writing
from permil.products.sensor_identity import card_of
from permil.progress import StageReport, do_tasks
from permil.stages import StageFunctions

BoxPlaces = tuple[ReferenceBox, ...]


def box_signals(
    path: str | Path,
    boxes: Sequence[ReferenceBox],
    camera: Camera,
    calibration: Calibration,
    *,
    threshold: float,
    checksums: Checksums = "refuse",
) -> list[BoxSignal]:
    """Measure bunches of pixels of one detector in one raw file.

    Parameters
    ----------
    threshold
        See `permil.isr.box.measure_box`.
    checksums
        See `permil.exposures.RawFile`; only segments with bunches, and those of their crosstalk, are checked.

    Raises
    ------
    InputError
        If the file cannot be used or is of another detector, or a required board temperature is missing.
    CameraError
        If a bunch is not on the detector.
    CalibrationError
        If a bunch has no usable pixel.
    """
    with RawFile(path, camera, checksums=checksums) as raw_file:
        check_detector(raw_file.detector, calibration.detector, path)
        whole: dict[str, Int32Array] = {}

        def read(amplifier: Amplifier, rows: slice) -> Int32Array:
            if rows == slice(0, amplifier.ny_raw) and amplifier.name not in whole:
                whole[amplifier.name] = raw_file.segment(amplifier.name)
            return whole[amplifier.name][rows] if amplifier.name in whole else read_rows(raw_file, amplifier.name, rows)

        temperature = board_temperature(raw_file, calibration)
        try:
            return [measure_box(read, calibration, box, temperature=temperature, threshold=threshold) for box in boxes]
        except PermilError as error:
            raise with_path(error, path) from error


def shared_box_calibration(config: Config, folder: RunFolder, boxes: BoxPlaces) -> Calibration:
    """Return the calibration of bunches of one detector, cached per process until its inputs change.

    Superbias and hot pixels are limited to the bunches, and to the same pixels of the segments with crosstalk into them.

    Raises
    ------
    CalibrationError, InputError
        See `permil.isr.inputs.load_calibration`.
    """
    detector = boxes[0].detector
    state = calibration_fingerprint(config, folder, detector)
    return _box_calibration(config.isr.model_dump_json(), config.camera, folder.superbias(detector), boxes, state)


@lru_cache(maxsize=16)
def _box_calibration(isr_json: str, camera_name: str, made: Path, boxes: BoxPlaces, _state: str) -> Calibration:
    camera, options = shared_camera(camera_name), IsrConfig.model_validate_json(isr_json)
    detector = camera[boxes[0].detector]
    calibration = load_calibration(detector, camera, options, with_superbias=False)
    path = superbias_path(options.bias, detector, made)
    if path is None:
        return calibration
    return _with_superbias(calibration, boxes, path, camera=camera, threshold=options.hot_pixel_threshold)


def _with_superbias(calibration: Calibration, boxes: BoxPlaces, path: Path, *, camera: Camera, threshold: float) -> Calibration:
    detector = calibration.detector
    image, mask = np.zeros(detector.shape, dtype=np.float32), calibration.static_mask.copy()
    names = dict.fromkeys(name for box in boxes for name in calibration.needed_segments(box.amp))
    superbias, unusable = read_superbias(path, detector, camera=camera, gains=calibration.gains)
    stored = {name: superbias.image[detector.amplifier(name).slices] for name in names}
    for box in boxes:
        place = box_in_segment(detector.amplifier(box.amp), box)
        for name in calibration.needed_segments(box.amp):
            amplifier = detector.amplifier(name)
            take_segment(amplifier, image)[place] = take_segment(replace(amplifier, x_min=0, y_min=0), stored[name])[place]
    for name in dict.fromkeys(box.amp for box in boxes):
        target = detector.amplifier(name)
        mask[target.slices] |= unusable[target.slices] | _hot_pixels(stored[target.name], detector, target, threshold=threshold)
    # The variance of the superbias is common to all exposures of a scan and is not used for bunches.
    return replace(calibration, superbias=Superbias(image, np.zeros_like(image)), static_mask=mask)


def _hot_pixels(stored: Float32Array, detector: Detector, amplifier: Amplifier, *, threshold: float) -> NDArray[np.int16]:
    """Return the hot pixels of one segment."""
    alone = replace(detector, nx=amplifier.nx, ny=amplifier.ny, amplifiers=(replace(amplifier, x_min=0, y_min=0),))
    return hot_pixel_mask(stored, alone, threshold=threshold)


_EXPOSURES_PER_CALL = 4
_SATURATED_FRACTION = 0.005
_NODE_KEYS = ("obsid", "detector", "amp", "row", "column", "box")
"""Columns that identify a node."""


@dataclass(frozen=True)
class _Bunch(ReferenceBox):
    """A bunch of pixels that measures the beam, with its position (CCS mm)."""

    ref_x_mm: float
    ref_y_mm: float


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


def beam_leds(run: Run) -> list[str]:
    """Return the LEDs that were scanned and whose beam is wanted."""
    scanned, wanted = set(run.index.select(purpose=SCAN)["led"]), run.config.beam.leds
    return [led for led in run.index.leds if led in scanned and (not wanted or led in wanted)]


def beam_task(run: Run, led: str) -> Task:
    """Declare the beam model of one LED, which needs the nodes of its scan."""
    return run.once(("beam", led), lambda: _beam_task(run, led))


def _beam_task(run: Run, led: str) -> Task:
    config, folder = run.config, run.folder
    scan = run.index.select(purpose=SCAN, led=led)
    kind = str(scan["position_kind"][0])
    return Task(
        ("beam", led),
        "beam models",
        lambda task: Work(
            partial(_fit_model, config=config, folder=folder, position_kind=kind, fingerprint=task.fingerprint),
            [(led, run.origin(scan, led=led))],
        ),
        outputs=(folder.beam(led),),
        options=run.options("beam.outlier_threshold", "seed", "validity"),
        needs=(_nodes_task(run, led, scan),),
        leaves_out=(BeamError, InputError, PhotodiodeError),
        command=("beam", "--led", led),
        seconds=0.8,
    )


def _nodes_task(run: Run, led: str, scan: Table) -> Task:
    """Declare the nodes of one LED; nodes that an interrupted run has measured are taken from its journal."""
    config, folder = run.config, run.folder
    bunches = reference_bunches(config, run.camera)
    wanted = sorted({bunch.detector for bunch in bunches})
    scan = scan[np.isin(scan["detector"], wanted)]
    reduction = reduction_of(run, *sorted({str(name) for name in scan["detector"]}))

    def work(task: Task) -> Work:
        unread = sorted(set(wanted) - set(scan["detector"]))
        if unread:
            raise BeamError(
                f"the scan of LED {led} did not read the reference detector {', '.join(unread)}",
                remedy="name a detector of the scan in beam.reference",
                led=led,
            )
        require_one_kind(scan)
        journal = make_folder(folder.state) / f"nodes_{led}.jsonl"
        found = _read_journal(journal, task.fingerprint)
        if not found:
            with writing(journal):
                journal.write_text(json.dumps({"fingerprint": task.fingerprint}), encoding="utf-8")

        def finish(measured: list[list[dict[str, Any]]]) -> list[str]:
            table = _nodes_table([*found, *(record for records in measured for record in records)], config)
            table.meta = {"fingerprint": task.fingerprint, "led": led, "photodiode": config.isr.photodiode}
            write_table(folder.beam_nodes(led), table)
            return [f"{led}: a node is missing: {sentence}" for sentence in _missing_nodes(table)]

        measure = partial(_measure_nodes, config=config, folder=folder, bunches=tuple(bunches), journal=journal)
        return Work(measure, _unmeasured(scan, found), finish)

    return Task(
        ("nodes", led),
        f"beam nodes {led}",
        work,
        outputs=(folder.beam_nodes(led),),
        options=reduction.options,
        facts={
            "bunches": [asdict(bunch) for bunch in bunches],
            "positions": sorted([float(row["x_mm"]), float(row["y_mm"])] for row in scan),
        },
        files=[*sorted(scan["path"]), *reduction.files],
        needs=reduction.needs,
        command=("beam", "--led", led),
        seconds=sum(0.004 + 2e-10 * run.camera[str(name)].nx * run.camera[str(name)].ny for name in scan["detector"]),
    )


def fit_beams(run: Run) -> StageReport:
    """Measure the nodes and fit the beam of each scanned LED.

    Raises
    ------
    BeamError
        If no LED was scanned, the scan did not read a reference detector, or no LED has enough nodes for a model.
    """
    report, config = StageReport("beam"), run.config
    leds = beam_leds(run)
    missing = [led for led in config.beam.leds if led not in leds]
    if missing or not leds:
        what = f"LED {', '.join(missing)} was not scanned" if missing else "the exposures contain no beam scan"
        scanned = sorted(set(run.index.select(purpose=SCAN)["led"]))
        raise BeamError(
            what,
            path=config.exposures.roots[0] if config.exposures.roots else None,
            remedy=f"scanned LEDs: {', '.join(scanned) or 'none'}; check exposures.roots and beam.leds",
        )
    models = [beam_task(run, led) for led in leds]
    ends = do_tasks([*(model.needs[0] for model in models), *models])
    failed = [end.error for end in ends.values() if end.error is not None]
    if len(failed) == len(leds):
        raise failed[0]
    report.count(ends)
    for end in ends.values():
        report.messages += end.messages if end.error is None else [f"LED {end.task.key[1]} is left out: {end.error}"]
    return report


def _tasks(run: Run, _earlier: Sequence[Task]) -> list[Task]:
    return [beam_task(run, led) for led in beam_leds(run)] if run.has_exposures else []


def _single(run: Run, _step: str, led: str, _detector: str) -> list[Task]:
    if led not in beam_leds(run):
        scanned = ", ".join(beam_leds(run)) or "none"
        raise ConfigError(f"there is no scan of LED {led} to fit", remedy=f"scanned LEDs: {scanned}; check beam.leds")
    model = beam_task(run, led)
    return [*model.needs, model]


# Without any stars a bench campaign is what the user means: the stage says what is missing from it.
STAGE = StageFunctions(
    fit_beams, is_wanted=lambda run: run.has_bench_exposures or not run.has_stars, tasks=_tasks, single=_single
)


def _fit_model(
    led_and_origin: tuple[str, Mapping[str, Any]], *, config: Config, folder: RunFolder, position_kind: str, fingerprint: str
) -> list[str]:
    """Fit and write the model of one LED to the nodes in the folder; return messages for the user."""
    led, origin = led_and_origin
    path = folder.beam_nodes(led)
    try:
        nodes = _usable_nodes(read_table(path), config)
        model = BeamModel.from_nodes(nodes, outlier_threshold=config.beam.outlier_threshold, seed=config.seed)
    except PermilError as error:
        error.path = str(path)
        raise
    cards = {
        **origin,
        **fingerprint_card(fingerprint),
        "PDNORM": (config.isr.photodiode, "normalisation of each exposure"),
        "POSKIND": (position_kind, "projector positions from header or folder"),
    }
    write_hdus(folder.beam(led), model_to_hdus(model, header=cards))
    return [f"{led}: {model.describe()}"]


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


def _unmeasured(scan: Table, found: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the rows of the exposures that are not in the journal, a few of one detector together."""
    measured = {(record["obsid"], record["detector"]) for record in found}
    columns = [scan[name].tolist() for name in scan.colnames]
    rows = [dict(zip(scan.colnames, row, strict=True)) for row in zip(*columns, strict=True)]
    together = []
    for detector in sorted({row["detector"] for row in rows}):
        own = [row for row in rows if row["detector"] == detector and (row["obsid"], detector) not in measured]
        together += [own[start : start + _EXPOSURES_PER_CALL] for start in range(0, len(own), _EXPOSURES_PER_CALL)]
    return together


def _nodes_table(records: list[dict[str, Any]], config: Config) -> Table:
    """Return all nodes of one LED, with units."""
    units = dict.fromkeys(("x_mm", "y_mm", "ref_x_mm", "ref_y_mm"), "mm")
    units |= dict.fromkeys(("signal", "signal_err"), "adu" if config.isr.gains == "none" else "electron")
    order = ("x_mm", "y_mm", "obsid", "detector", "amp")
    return Table(rows=sorted(records, key=lambda record: tuple(record[name] for name in order)), units=units)


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


def _measure_nodes(
    rows: list[dict[str, Any]], *, config: Config, folder: RunFolder, bunches: tuple[_Bunch, ...], journal: Path
) -> list[dict[str, Any]]:
    """Measure the bunches of some exposures of one detector and note them in the journal."""
    own = tuple(bunch for bunch in bunches if bunch.detector == rows[0]["detector"])
    calibration = shared_box_calibration(config, folder, own)
    records = [record for row in rows for record in _nodes_of_exposure(row, own, calibration, config)]
    # One short write per call: lines of different workers do not mix. Each begins with the end of the line before, which may be cut.
    with writing(journal), journal.open("a", encoding="utf-8") as stream:
        stream.write("\n" + json.dumps(records))
    return records


def _nodes_of_exposure(
    row: dict[str, Any], bunches: tuple[_Bunch, ...], calibration: Calibration, config: Config
) -> list[dict[str, Any]]:
    note, limit, checksums = "", config.isr.rejection_threshold, config.exposures.checksums
    try:
        signals = box_signals(
            row["path"], bunches, shared_camera(config.camera), calibration, threshold=limit, checksums=checksums
        )
    except InputError as error:
        # A damaged file of a scan is a missing node and does not stop the run.
        note = f"{error.path}: {error.what}"
        signals = [BoxSignal(np.nan, np.nan, 0, 0, 0, np.nan) for _ in bunches]
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
                **asdict(bunch),
                "pixels": box.count,
                "rejected": box.rejected,
                "saturated": box.saturated,
                "obsid": row["obsid"],
                "mjd": row["mjd"],
                "note": note or ("saturated" if saturated else ""),
            }
        )
    return records


def load_beam(path: str | Path, *, led: str = "") -> BeamModel:
    """Read a beam model.

    Parameters
    ----------
    path
        FITS file that `permil beam fit` or a run wrote.
    led
        Expected LED, checked if the file names one.

    Returns
    -------
    BeamModel
        ``beam(ux, uy)`` is the beam at places minus the projector position, mm.

    Raises
    ------
    InputError
        If the file is missing, damaged, not a beam model, or of another LED.

    Examples
    --------
    >>> import permil
    >>> round(float(permil.load_beam("out/beam/red.fits")(0.0, 0.0)), 1)
    1.0
    """
    path = path_of(path, "a beam model")
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
