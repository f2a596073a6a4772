"""The stage `isr` of a run: superbias, gains and measured gains of all detectors that are reduced."""

from __future__ import annotations

from collections.abc import Sequence

from permil.context import Run
from permil.engine import Task
from permil.errors import ConfigError
from permil.exposures import POINTING, SCAN, SPOT
from permil.isr.measured_gains import measure_gains, noise_task
from permil.isr.stage import make_calibrations, superbias_task
from permil.progress import StageReport
from permil.stages import StageFunctions


def run_isr(run: Run) -> StageReport:
    """Make superbias and gains of every detector that is reduced; measure gains where that is asked for."""
    detectors = reduced_detectors(run)
    made = make_calibrations(run, detectors)
    if run.config.isr.photon_transfer:
        measured = measure_gains(run, detectors)
        made.done, made.skipped = made.done + measured.done, made.skipped + measured.skipped
        made.messages += measured.messages
    return made


def reduced_detectors(run: Run) -> list[str]:
    """Return the detectors that are reduced: those with pointings or stars that are wanted, and those that watch the beam."""
    index, wanted = run.index, run.config.flat.detectors
    pointed = set(index.select(purpose=POINTING)["detector"])
    names = {name for name in pointed if not wanted or name in wanted or name[:3] in wanted}
    scanned = set(index.select(purpose=SCAN)["detector"])
    if scanned:
        watching = [reference.detector for reference in run.config.beam.reference] or [run.camera.reference.detector]
        names |= {run.camera[label].name for label in watching} & scanned
    stars = set(index.select(purpose=SPOT)["detector"])
    chosen = {run.camera[label].name for label in run.config.spots.detectors}
    names |= stars & chosen if chosen else stars
    return [name for name in run.camera.detectors if name in names]


def _tasks(run: Run, _earlier: Sequence[Task]) -> list[Task]:
    detectors, options = reduced_detectors(run) if run.has_exposures else [], run.config.isr
    superbiases = [superbias_task(run, name) for name in detectors] if options.bias == "auto" else []
    noise = [noise_task(run, name) for name in detectors] if options.photon_transfer else []
    return [*superbiases, *(task for task in noise if task is not None)]


def _single(run: Run, step: str, _led: str, detector: str) -> list[Task]:
    if step == "noise":
        if not run.config.isr.photon_transfer:
            raise ConfigError("no gains are measured with isr.photon_transfer=false", remedy="leave this task out")
        task = noise_task(run, detector)
        return [] if task is None else [task]
    if run.config.isr.bias != "auto":
        raise ConfigError(f"there is no superbias to make with isr.bias={run.config.isr.bias}", remedy="leave this task out")
    return [superbias_task(run, detector)]


STAGE = StageFunctions(run_isr, is_wanted=lambda run: run.has_exposures, tasks=_tasks, single=_single)
