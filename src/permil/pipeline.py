"""The stages in order: what each needs, what it makes, and what a person is told.

Every product carries a fingerprint of what it was made from, so that a stage redoes only what is not up to date, and a run that was
killed goes on where it was. Only one run at a time works in a folder. Who does the tasks of the stages (processes of this machine, a
Dask cluster, jobs of a batch system) is chosen once, here.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.table import Table

from permil import __version__
from permil.camera import Camera, load_camera
from permil.config import Config
from permil.config.exposures import ExposuresConfig
from permil.engine import Executor, make_executor, session
from permil.engine.locks import locked_folder
from permil.engine.performance import StepCost, metered_stage, performance_table
from permil.engine.session import BatchRecord
from permil.errors import ConfigError, InputError, PhotodiodeError
from permil.estimate import estimate
from permil.exposures import POINTING, SCAN, SPOT, Index, summarise_files
from permil.exposures.stage import make_index, read_index
from permil.products import RunFolder, atomic_output, check_output, make_folder, read_table, remove_partial_files, write_table
from permil.progress import StageReport, console, default_workers

STAGES = ("index", "isr", "beam", "flat", "spots", "compare", "report")
"""In the order in which they need each other."""

# Sentences of one kind about the files of an index, and duplicates, that are shown.
_MOST_SENTENCES, _MOST_DUPLICATES = 10, 3


_WARNINGS_SHOWN = 10


@dataclass(frozen=True)
class Run:
    """One run: its configuration, camera, folder and how many processes of this machine may work."""

    config: Config
    camera: Camera
    folder: RunFolder
    workers: int

    @classmethod
    def from_config(cls, config: Config) -> Run:
        """Load the camera and name the folder; nothing is written yet."""
        return cls(config, load_camera(config.camera), RunFolder(config.output), config.pipeline.workers or default_workers())


def run_pipeline(config: Config, *, stages: tuple[str, ...] | None = None) -> list[StageReport]:
    """Do the stages that are asked for, in order, each only as far as it is not up to date.

    Parameters
    ----------
    stages
        Some of `STAGES`; when None, those that the data ask for. A stage that is asked for alone uses what earlier ones left.

    Raises
    ------
    PermilError
        Whatever a user has to mend.
    """
    run = Run.from_config(config)
    with locked_folder(run.folder.root, run.folder.state, shared=False, tell=tell):
        remove_partial_files(run.folder.root)
        _write_configuration(run)
        try:
            return _do_stages(run, _executor(run), stages)
        finally:
            # Workers that were killed in the middle of a write leave what they had begun.
            remove_partial_files(run.folder.root)


def _executor(run: Run) -> Executor:
    make_folder(run.folder.root)
    return make_executor(run.config.pipeline, workers=run.workers, folder=run.folder.root.absolute(), tell=tell)


def _do_stages(run: Run, executor: Executor, stages: tuple[str, ...] | None) -> list[StageReport]:
    reports: list[StageReport] = []
    costs: list[StepCost] = []
    warned: set[str] = set()
    before = read_table(run.folder.performance) if run.folder.performance.is_file() else None
    with session(executor) as opened:
        for name, stage in _stages(run):
            if name not in stages if stages is not None else not _is_wanted(run, name):
                continue
            begin = time.perf_counter()
            with metered_stage(name, opened) as meter:
                report = stage()
            report.seconds = time.perf_counter() - begin
            # What a stage warns of, later ones that read the same files warn of again.
            report.messages += describe_warnings(meter.records, but=warned)
            costs += meter.costs
            tell_report(report)
            reports.append(report)
            # The report shows the stages before it, and is remade when what they cost changes: its own cost would change it always.
            if name != "report":
                _record(run, reports)
                write_table(run.folder.performance, performance_table(costs, order=STAGES, before=before))
    return reports


def describe_warnings(records: list[BatchRecord], *, but: set[str] | None = None) -> list[str]:
    """Return what was warned of files, each sentence once, and some of them if there are many.

    Parameters
    ----------
    records
        Of the batches in which the files were read.
    but
        Sentences that a person has seen; the others are added.
    """
    seen = set() if but is None else but
    sentences = list(dict.fromkeys(each for record in records for each in record.file_warnings if each not in seen))
    seen.update(sentences)
    more = [f"... and {len(sentences) - _WARNINGS_SHOWN} more warnings of files"] if len(sentences) > _WARNINGS_SHOWN else []
    return [f"warning: {sentence}" for sentence in sentences[:_WARNINGS_SHOWN]] + more


def _is_wanted(run: Run, name: str) -> bool:
    """Return whether the data ask for a stage: a run may hold beam and pointings, artificial stars, or both."""
    catalogs = bool(run.config.spots.catalogs)
    if name in ("index", "isr"):
        return bool(run.config.exposures.roots) or not catalogs
    if name == "report":
        return True
    purposes = set(read_run_index(run.folder).table["purpose"]) if run.config.exposures.roots else set()
    has_stars = catalogs or SPOT in purposes
    if name == "spots":
        return has_stars
    if name == "compare":
        from permil.compare.stage import has_pairs

        return has_pairs(run.config, run.folder)
    # Without any stars a bench campaign is what the user means: say what is missing from it.
    return bool(purposes & {SCAN, POINTING}) or not has_stars


def _stages(run: Run) -> Iterator[tuple[str, Callable[[], StageReport]]]:
    functions = (_index_stage, _isr_stage, _beam_stage, _flat_stage, _spots_stage, _compare_stage, _report_stage)
    for name, function in zip(STAGES, functions, strict=True):
        yield name, partial(function, run)


def _index_stage(run: Run) -> StageReport:
    config, folder = run.config, run.folder
    if not config.exposures.roots:
        raise ConfigError(
            "no folders to search", remedy="name the folders of raw files in exposures.roots", key="exposures.roots"
        )
    index = make_index(config.exposures.roots, run.camera, folder.exposures, options=config.exposures, workers=run.workers)
    _write_unreadable(folder, index)
    _write_left_out(run, index)
    report = StageReport("index", done=len(index.table), messages=describe_index(index))
    report.messages.append(estimate(config, run.camera, folder, index, workers=run.workers))
    return report


def _isr_stage(run: Run) -> StageReport:
    from permil.isr.calibrate import make_calibrations

    index = read_run_index(run.folder)
    detectors = reduced_detectors(run, index)
    report = make_calibrations(run.config, run.camera, run.folder, index, detectors, workers=run.workers)
    if run.config.isr.photon_transfer:
        from permil.isr.measured_gains import measure_gains

        measured = measure_gains(run.config, run.camera, run.folder, index, detectors, workers=run.workers)
        report.done, report.skipped = report.done + measured.done, report.skipped + measured.skipped
        report.messages += measured.messages
    return report


def _beam_stage(run: Run) -> StageReport:
    from permil.beam.stage import fit_beams

    return fit_beams(run.config, run.camera, run.folder, read_run_index(run.folder), workers=run.workers)


def _flat_stage(run: Run) -> StageReport:
    from permil.flat.stage import make_flats

    return make_flats(run.config, run.camera, run.folder, read_run_index(run.folder), workers=run.workers)


def _spots_stage(run: Run) -> StageReport:
    from permil.spots.stage import run_spots

    index = None if run.config.spots.catalogs else read_run_index(run.folder)
    return run_spots(run.config.spots, run.config, run.camera, run.folder, index=index, workers=run.workers)


def _compare_stage(run: Run) -> StageReport:
    from permil.compare.stage import run_compare

    return run_compare(run.config, run.camera, run.folder, workers=run.workers)


def _report_stage(run: Run) -> StageReport:
    from permil.report.stage import make_report

    page = make_report(run.config, run.camera, run.folder, workers=run.workers)
    return StageReport("report", done=1, messages=[f"open {page}"])


def index_folders(roots: list[Path], *, camera: str, out: Path) -> None:
    """Write the index of some folders, without a run."""
    check_output(out)
    index = make_index(roots, load_camera(camera), out, options=ExposuresConfig(), workers=default_workers())
    for message in describe_index(index):
        console.print(message, highlight=False, soft_wrap=True)
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)


def simulate_run(config: Config) -> None:
    """Simulate what the section `simulate` says, below the output folder."""
    from permil.simulate.stage import simulate_bench

    workers = config.pipeline.workers or default_workers()
    summary = simulate_bench(config.simulate, config.output, workers=workers)
    console.print(str(summary), highlight=False, soft_wrap=True)


def simulate_spots_run(config: Config) -> None:
    """Simulate what the section `simulate_spots` says, below the output folder."""
    from permil.simulate.spots import simulate_spots

    workers = config.pipeline.workers or default_workers()
    console.print(str(simulate_spots(config.simulate_spots, config.output, workers=workers)), highlight=False, soft_wrap=True)


def describe_index(index: Index) -> list[str]:
    """Return what a person should know of an index."""
    lines = []
    for row in index.summary():
        led = f" {row['led']}" if row["led"] else ""
        lines.append(
            f"run {row['run'] or '?'}: {row['exposures']} {row['purpose']}{led} exposures, {row['files']} files, "
            f"{row['detectors']} detectors, {row['positions']} positions"
        )
    lines += [
        f"run {offset.run}: header position = folder position + ({offset.x_mm:.3f}, {offset.y_mm:.3f}) mm, "
        f"constant to {offset.scatter_mm:.3f} mm over {offset.n_exposures} exposures"
        for offset in index.offsets
        if offset.is_named
    ]
    for title, entries in (
        ("not used", [(entry.path, entry.reason) for entry in index.unreadable]),
        ("noticed", index.notes),
    ):
        sentences = summarise_files(entries)
        lines += [f"{title}: {sentence}" for sentence in sentences[:_MOST_SENTENCES]]
        if len(sentences) > _MOST_SENTENCES:
            lines.append(f"... and {len(sentences) - _MOST_SENTENCES} more, {title}")
    lines += [f"left out, same content as {entry.kept}: {entry.left_out}" for entry in index.duplicates[:_MOST_DUPLICATES]]
    if len(index.duplicates) > _MOST_DUPLICATES:
        lines.append(f"... and {len(index.duplicates) - _MOST_DUPLICATES} more files with the content of another one")
    if index.off_detector:
        shown = ", ".join(index.off_detector[:5])
        lines.append(f"{len(index.off_detector)} exposures point at no detector and are not used: {shown}")
    return lines


def _write_unreadable(folder: RunFolder, index: Index) -> None:
    rows = [(entry.path, entry.reason) for entry in index.unreadable]
    write_table(folder.unreadable, Table(rows=rows, names=("path", "reason"), dtype=(str, str)) if rows else _empty_list())


def _write_left_out(run: Run, index: Index) -> None:
    """List the exposures that the photodiode leaves out.

    Raises
    ------
    PhotodiodeError
        If it leaves out all scans or all pointings.
    """
    rows: list[tuple[str, str]] = []
    if run.config.isr.photodiode == "header":
        for purpose in (SCAN, POINTING):
            chosen = index.select(purpose=purpose)
            missing = ~np.isfinite(np.asarray(chosen["photodiode"], dtype=float))
            if len(chosen) and missing.all():
                raise PhotodiodeError(
                    f"none of {len(chosen)} {purpose} files has a usable photodiode reading (CCOBADC)",
                    path=str(chosen["path"][0]),
                    remedy="set isr.photodiode=none to go on without normalisation (the products will say so)",
                )
            reason = "photodiode is missing, zero or negative: not used for the beam, nor for flats but by the solver joint"
            rows += [(str(path), reason) for path in chosen["path"][missing]]
    rows += [(entry.left_out, f"same content as {entry.kept}") for entry in index.duplicates]
    path = run.folder.left_out
    write_table(path, Table(rows=rows, names=("path", "reason"), dtype=(str, str)) if rows else _empty_list())


def _empty_list() -> Table:
    return Table({"path": np.array([], dtype="U1"), "reason": np.array([], dtype="U1")})


def read_run_index(folder: RunFolder) -> Index:
    """Return the index of a run.

    Raises
    ------
    InputError
        If there is none yet.
    """
    if not folder.exposures.is_file():
        raise InputError("there is no index yet", path=folder.exposures, remedy="run `permil index CONFIG` first")
    return read_index(folder.exposures)


def reduced_detectors(run: Run, index: Index) -> list[str]:
    """Return the detectors that are reduced: those with pointings or stars that are wanted, and those that watch the beam."""
    from permil.beam.stage import reference_bunches

    wanted = run.config.flat.detectors
    pointed = set(index.select(purpose=POINTING)["detector"])
    names = {name for name in pointed if not wanted or name in wanted or name[:3] in wanted}
    if len(index.select(purpose=SCAN)):
        names |= {bunch.detector for bunch in reference_bunches(run.config, run.camera)} & set(
            index.select(purpose=SCAN)["detector"]
        )
    stars = set(index.select(purpose=SPOT)["detector"])
    chosen = {run.camera[label].name for label in run.config.spots.detectors}
    names |= stars & chosen if chosen else stars
    return [name for name in run.camera.detectors if name in names]


def _write_configuration(run: Run) -> None:
    content = {
        "versions": {"permil": __version__, "python": platform.python_version(), **_versions()},
        "config": run.config.model_dump(mode="json"),
    }
    with atomic_output(run.folder.configuration) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("numpy", "scipy", "astropy", "numba")}


def tell(sentence: str) -> None:
    """Show a sentence to whoever watches the run."""
    console.print(f"  {sentence}", highlight=False, soft_wrap=True)


def tell_report(report: StageReport) -> None:
    """Show what a stage did."""
    for message in report.messages:
        tell(message)
    skipped = f", {report.skipped} up to date" if report.skipped else ""
    console.print(f"{report.stage}: {report.done} done{skipped}, {report.seconds:.1f} s", highlight=False, soft_wrap=True)


def _record(run: Run, reports: list[StageReport]) -> None:
    rows: list[dict[str, Any]] = [
        {"stage": report.stage, "done": report.done, "skipped": report.skipped, "seconds": round(report.seconds, 2)}
        for report in reports
    ]
    write_table(run.folder.stages, Table(rows=rows))
