"""Run the pipeline, or open the folder of a run, and get its products as tables and objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable, Table, vstack

from permil.beam.model import BeamModel
from permil.beam.stage import load_beam
from permil.camera import Camera, load_camera
from permil.config import Config, load_config
from permil.config.load import RECORD, read_record
from permil.context import index_of
from permil.engine import prepare_workers
from permil.errors import InputError, path_of, texts_of
from permil.exposures import POINTING, SCAN
from permil.flat.flat import Flat
from permil.isr import Calibration
from permil.isr.inputs import detector_calibration
from permil.products import RunFolder, read_table


class RunResults:
    """The products of a run, finished or not, as tables and objects. Tables are read on request.

    Create it with `permil.run` or `permil.open_run`.

    Attributes
    ----------
    config : Config
        Configuration of the run.
    camera : Camera
        The camera.
    folder : RunFolder
        Paths of all products.

    Examples
    --------
    >>> import permil
    >>> permil.open_run("out").leds["led"].tolist()
    ['nm960', 'red']
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = RunFolder(config.output)
        self.camera: Camera = load_camera(config.camera)

    @property
    def exposures(self) -> QTable:
        """The index: one row per detector file, with position, LED, purpose and photodiode.

        Raises
        ------
        InputError
            If there is no index yet.
        """
        return QTable(index_of(self.folder).table)

    @property
    def leds(self) -> QTable:
        """One row per LED: numbers of scan and pointing exposures, whether it has a beam model, number of flats."""
        table = index_of(self.folder).table if self.folder.exposures.is_file() else None
        names = [] if table is None else sorted(set(np.asarray(table["led"])) - {""})
        rows = []
        for led in dict.fromkeys([*names, *self._leds_with_flats()]):
            counts = (_exposures(table, led, purpose) for purpose in (SCAN, POINTING))
            rows.append((led, *counts, self.folder.beam(led).is_file(), len(self._flat_files(led))))
        columns = ("led", "scan_exposures", "pointing_exposures", "has_beam", "flats")
        return QTable(rows=rows or None, names=columns, dtype=("U16", int, int, bool, int))

    @property
    def detectors(self) -> QTable:
        """One row per detector with exposures or flats: place of its centre (CCS), number of files and of flats."""
        read, flats = Counter[str](), Counter[str]()
        if self.folder.exposures.is_file():
            read = Counter(str(name) for name in index_of(self.folder).table["detector"])
        for led in self._leds_with_flats():
            for path in self._flat_files(led):
                flats[path.stem] += 1
        rows = []
        for detector in self.camera.detectors.values():
            if detector.name in read or detector.name in flats:
                x_mm, y_mm = detector.to_ccs(*detector.centre_pixel)
                counts = (read[detector.name], flats[detector.name])
                rows.append((detector.name, detector.raft, detector.vendor, float(x_mm), float(y_mm), *counts))
        columns = ("detector", "raft", "vendor", "x", "y", "files", "flats")
        table = QTable(rows=rows or None, names=columns, dtype=("U8", "U4", "U8", float, float, int, int))
        for name in ("x", "y"):
            table[name].unit = "mm"
        return table

    @property
    def summary(self) -> QTable:
        """All metrics of the run with specification and verdict.

        Raises
        ------
        InputError
            If the report has not been made.
        """
        path = self.folder.summary
        if not path.is_file():
            raise InputError("there is no summary yet", path=path, remedy="run the stage report: permil report CONFIG")
        return QTable(read_table(path))

    @property
    def metrics(self) -> QTable:
        """Quality of the flats of all LEDs, per detector and amplifier, with a column ``led``.

        Raises
        ------
        InputError
            If no LED has a composite flat.
        """
        tables = []
        for led in self._leds_with_flats():
            if self.folder.metrics(led).is_file():
                table = Table(read_table(self.folder.metrics(led)))
                table["led"] = led
                tables.append(table)
        if not tables:
            raise InputError("there is no composite flat", path=self.folder.root, remedy="run the stage flat: permil flat CONFIG")
        return QTable(vstack(tables, metadata_conflicts="silent"))

    def table(self, name: str) -> QTable:
        """Return a table of the run by its name in the folder, such as ``performance``, or its path there (``flat/red/metrics``).

        Raises
        ------
        InputError
            If there is no such table, or more than one.
        """
        root = self.folder.root
        tables = {
            path.relative_to(root).with_suffix("").as_posix(): path
            for path in sorted(root.rglob("*"))
            if path.suffix in (".ecsv", ".parquet")
        }
        found = [name] if name in tables else [each for each in tables if each.endswith(f"/{name}")]
        if not found:
            raise InputError(f"this run has no table {name}", path=root, remedy="see the files in this folder", value=name)
        if len(found) > 1:
            raise InputError(
                f"this run has {len(found)} tables {name}", path=root, remedy=f"name one of {', '.join(found[:6])}", value=found
            )
        return QTable(read_table(tables[found[0]]))

    def flat(self, led: str, detector: Any) -> Flat:
        """Return the flat of one LED and detector.

        Parameters
        ----------
        led
            LED, in any letter case.
        detector
            Name (``R22_S11``), number or serial number.

        Raises
        ------
        InputError
            If there is none.
        """
        name, led = self.camera[detector].name, self._spelt(led)
        path = self.folder.flat(led, name)
        if not path.is_file():
            there = [file.stem for file in self._flat_files(led)]
            leds = ", ".join(self._leds_with_flats()) or "none yet"
            listed = f"detectors with a flat of {led}: {', '.join(there[:6])}" if there else f"LEDs: {leds}"
            raise InputError(f"there is no flat of {name}, LED {led}", path=path, remedy=listed, led=led, detector=name)
        return Flat.read(path)

    def beam(self, led: str) -> BeamModel:
        """Return the beam model of an LED, named in any letter case.

        Raises
        ------
        InputError
            If there is none.
        """
        led = self._spelt(led)
        path = self.folder.beam(led)
        if not path.is_file():
            raise InputError(f"there is no beam model of LED {led}", path=path, remedy="run the stage beam: permil beam CONFIG")
        return load_beam(path, led=led)

    def calibration(self, detector: Any) -> Calibration:
        """Return the gains, masks, superbias and corrections of a detector, for `permil.reduce` and `permil.stack`.

        Raises
        ------
        CalibrationError, InputError
            If an input is missing for this detector or does not fit it.
        """
        return detector_calibration(self.config, self.camera, self.folder, self.camera[detector].name)

    def _spelt(self, led: str) -> str:
        """Return the name of an LED as the run spells it."""
        return {name.lower(): name for name in self.config.exposures.leds}.get(str(led).lower(), str(led))

    def _leds_with_flats(self) -> list[str]:
        return sorted({path.parent.name for path in (self.folder.root / "flat").glob("*/R*.fits")})

    def _flat_files(self, led: str) -> list[Path]:
        return [
            path for path in sorted((self.folder.root / "flat" / led).glob("*.fits")) if self.camera.find(path.stem) is not None
        ]

    def __repr__(self) -> str:
        """Return the folder, the camera and what there is."""
        flats = {led: len(self._flat_files(led)) for led in self._leds_with_flats()}
        made = ", ".join(f"{count} of {led}" for led, count in flats.items()) or "none yet"
        return f"<RunResults {self.folder.root}; camera: {self.camera.name}; flats: {made}>"

    def _repr_html_(self) -> str:
        """Return the table of LEDs under the name of the folder."""
        return f"<p>permil run <code>{escape(str(self.folder.root))}</code>, camera {escape(self.camera.name)}</p>" + str(
            self.leds._repr_html_()
        )


def _exposures(table: Table | None, led: str, purpose: str) -> int:
    if table is None:
        return 0
    chosen = (np.asarray(table["led"]) == led) & (np.asarray(table["purpose"]) == purpose)
    return len(set(np.asarray(table["obsid"])[chosen]))


def run(
    config: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = (), *, stages: Sequence[str] | None = None
) -> RunResults:
    """Do everything of a run that is not up to date.

    Parameters
    ----------
    config
        Configuration: a YAML file, its content as nested mappings, or a `Config`.
    overrides
        ``section.key=value`` strings that win over ``config``.
    stages
        Some of ``index``, ``isr``, ``beam``, ``flat``, ``spots``, ``compare``, ``report``; by default those for which there are data.

    Returns
    -------
    RunResults
        The products.

    Raises
    ------
    ConfigError
        If the configuration is wrong.
    PermilError
        What else a user can correct: inputs that are missing or contradict each other, a full disk.

    Notes
    -----
    The work is done by ``pipeline.workers`` processes. In a script, call this below ``if __name__ == "__main__":``.

    Examples
    --------
    >>> import permil
    >>> run = permil.run({"camera": "lsstcam-bin8", "exposures": {"roots": ["raw"]}, "output": "new"}, stages=["index"])
    >>> run.leds["led"].tolist()
    ['nm960', 'red']
    """
    from permil.pipeline import run_pipeline
    from permil.stages import STAGES

    loaded = load_config(config, overrides)
    chosen = None if stages is None else tuple(texts_of(stages, "stages"))
    unknown = [name for name in chosen or () if name not in STAGES]
    if unknown:
        raise InputError(f"there is no stage {unknown[0]}", remedy=f"stages are {', '.join(STAGES)}", value=unknown[0])
    prepare_workers(loaded.pipeline)
    run_pipeline(loaded, stages=chosen)
    return RunResults(loaded)


def open_run(folder: str | Path) -> RunResults:
    """Open the folder of a finished or half-finished run.

    Parameters
    ----------
    folder
        Folder with ``run.yaml``; it may have been moved.

    Returns
    -------
    RunResults
        The products.

    Raises
    ------
    InputError
        If it is not the folder of a run.

    Examples
    --------
    >>> import permil
    >>> permil.open_run("out").flat("red", "R22_S11").shape
    (500, 512)
    """
    folder = path_of(folder, "a run")
    if not (folder / RECORD).is_file():
        raise InputError(
            f"this is not the folder of a run: {RECORD} is missing",
            path=folder,
            remedy="give the folder that `output` names in the configuration, or make a run with permil.run",
        )
    return RunResults(read_record(folder / RECORD).model_copy(update={"output": folder}))
