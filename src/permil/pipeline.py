"""The stages of a run, in the order of their dependencies, and the messages of each to the user.

Each stage declares its tasks and does those that are not up to date, so that a run that was killed goes on where it was. One run at a
time works in a folder; the workers of its tasks (processes of this machine, a Dask cluster, jobs of a batch system) are chosen here.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import yaml
from astropy.table import Table

from permil import __version__
from permil.beam.stage import fit_beams
from permil.camera import load_camera
from permil.config import Config
from permil.config.exposures import ExposuresConfig
from permil.context import Run, with_measured_tables
from permil.engine import Executor, make_executor, session
from permil.engine.locks import locked_folder
from permil.engine.performance import StepCost, metered_stage, performance_table
from permil.exposures import POINTING, SCAN, SPOT
from permil.exposures.stage import describe_index, index_run, make_index
from permil.flat.stage import make_flats
from permil.isr.measured_gains import measure_gains
from permil.isr.stage import make_calibrations
from permil.products import atomic_output, check_output, make_folder, read_table, remove_partial_files, write_table
from permil.progress import StageReport, console, default_workers, describe_warnings, tell, tell_report
from permil.tasks import estimate, reduced_detectors


def run_pipeline(config: Config, *, stages: tuple[str, ...] | None = None) -> list[StageReport]:
    """Do the stages that are asked for, in order, each only as far as it is not up to date.

    Parameters
    ----------
    stages
        Some of `STAGES`; when None, those that the data ask for. What a stage that is asked for alone needs must be up to date.

    Raises
    ------
    PermilError
        Whatever a user has to mend.
    """
    run = Run.from_config(with_measured_tables(config))
    with locked_folder(run.folder.root, run.folder.state, shared=False, tell=tell):
        remove_partial_files(run.folder.root)
        _write_configuration(run)
        try:
            return _do_stages(run, _executor(run), stages)
        finally:
            # Workers that were killed in the middle of a write leave what they had begun.
            remove_partial_files(run.folder.root)


def index(run: Run) -> StageReport:
    """List what was taken, and say what the run will need."""
    query, found, lines = run.config.exposures.butler, None, list[str]()
    if query.repo:
        from permil.butler.raws import find_raws, local_files

        selection = find_raws(query, run.camera)
        lines = selection.describe()
        found = local_files(selection, run.folder.fetched_raws, tell=tell)
    report = index_run(run.config, run.camera, run.folder, workers=run.workers, found=found)
    report.messages = [*lines, *report.messages]
    report.messages.append(estimate(run))
    return report


def isr(run: Run) -> StageReport:
    """Make superbias and gains of every detector whose exposures are used; measure gains where that is asked for."""
    detectors = reduced_detectors(run)
    made = make_calibrations(run, detectors)
    if run.config.isr.photon_transfer:
        measured = measure_gains(run, detectors)
        made.done, made.skipped = made.done + measured.done, made.skipped + measured.skipped
        made.messages += measured.messages
    return made


def beam(run: Run) -> StageReport:
    """Fit the beam of each LED to its scan."""
    return fit_beams(run)


def flat(run: Run) -> StageReport:
    """Make the composite flats of each LED."""
    return make_flats(run)


def stability(run: Run) -> StageReport:
    """Measure whether light, photodiode, electronics and beam repeat."""
    from permil.stability.stage import measure_stability

    return measure_stability(run)


def defects(run: Run) -> StageReport:
    """Find the defects of each detector in its flats, superbias and exposures."""
    from permil.defects.stage import make_defects

    return make_defects(run)


def colour(run: Run) -> StageReport:
    """Compare the flats of all LEDs."""
    from permil.colour.stage import run_colour

    return run_colour(run)


def spots(run: Run) -> StageReport:
    """Measure, label and calibrate the artificial stars."""
    from permil.spots.stage import run_spots

    return run_spots(run)


def compare(run: Run) -> StageReport:
    """Compare the stars with the flats."""
    from permil.compare.stage import run_compare

    return run_compare(run)


def report(run: Run) -> StageReport:
    """Make the pages."""
    from permil.report.stage import make_report

    return make_report(run)


STAGES = {stage.__name__: stage for stage in (index, isr, beam, flat, stability, defects, colour, spots, compare, report)}
"""In the order in which they need each other."""


def _is_wanted(run: Run, name: str) -> bool:
    """Return whether the data ask for a stage: a run may hold beam and pointings, artificial stars, or both."""
    has_raw, catalogs = run.config.exposures.has_raw_files, bool(run.config.spots.catalogs)
    if name in ("index", "isr"):
        return has_raw or not catalogs
    purposes = set(run.index.table["purpose"]) if has_raw else set()
    has_stars = catalogs or SPOT in purposes
    if name in ("beam", "flat", "defects"):
        # Without any stars a bench campaign is what the user means: say what is missing from it.
        return bool(purposes & {SCAN, POINTING}) or not has_stars
    if name == "stability":
        return bool(purposes & {SCAN, POINTING})
    if name == "colour":
        from permil.colour.stage import flats_of

        return bool(flats_of(run.folder, run.camera))
    if name == "compare":
        from permil.compare.stage import has_pairs

        return has_pairs(run.config, run.folder)
    return has_stars if name == "spots" else True


def _executor(run: Run) -> Executor:
    make_folder(run.folder.root)
    return make_executor(run.config.pipeline, workers=run.workers, folder=run.folder.root.absolute(), tell=tell)


def _do_stages(run: Run, executor: Executor, stages: tuple[str, ...] | None) -> list[StageReport]:
    reports: list[StageReport] = []
    costs: list[StepCost] = []
    warned: set[str] = set()
    before = read_table(run.folder.performance) if run.folder.performance.is_file() else None
    with session(executor) as opened:
        for name, stage in STAGES.items():
            if name not in stages if stages is not None else not _is_wanted(run, name):
                continue
            begin = time.perf_counter()
            with metered_stage(name, opened) as meter:
                found = stage(run)
            found.seconds = time.perf_counter() - begin
            # What a stage warns of, later ones that read the same files warn of again.
            found.messages += describe_warnings(meter.records, but=warned)
            costs += meter.costs
            tell_report(found)
            reports.append(found)
            # The report shows the stages before it, and is remade when what they cost changes: its own cost would change it always.
            if name != "report":
                _record(run, reports)
                write_table(run.folder.performance, performance_table(costs, order=tuple(STAGES), before=before))
    return reports


def _record(run: Run, reports: list[StageReport]) -> None:
    rows = [
        {"stage": report.stage, "done": report.done, "skipped": report.skipped, "seconds": round(report.seconds, 2)}
        for report in reports
    ]
    write_table(run.folder.stages, Table(rows=rows))


def _write_configuration(run: Run) -> None:
    from importlib.metadata import version

    libraries = {name: version(name) for name in ("numpy", "scipy", "astropy")}
    content = {
        "versions": {"permil": __version__, "python": platform.python_version(), **libraries},
        "config": run.config.model_dump(mode="json"),
    }
    with atomic_output(run.folder.configuration) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def index_folders(roots: list[Path], *, camera: str, out: Path) -> None:
    """Write the index of some folders, without a run."""
    check_output(out)
    found = make_index(roots, load_camera(camera), out, options=ExposuresConfig(), workers=default_workers())
    for message in [*describe_index(found), f"wrote {out}"]:
        console.print(message, highlight=False, soft_wrap=True)


def simulate_run(config: Config) -> None:
    """Simulate what the section `simulate` says, below the output folder."""
    from permil.simulate.simulated import simulate_campaign

    campaign = simulate_campaign(config.output, config.simulate, workers=config.pipeline.workers or default_workers())
    console.print(str(campaign.summary), highlight=False, soft_wrap=True)


def simulate_spots_run(config: Config) -> None:
    """Simulate what the section `simulate_spots` says, below the output folder."""
    from permil.simulate.spots import simulate_spots

    workers = config.pipeline.workers or default_workers()
    console.print(str(simulate_spots(config.simulate_spots, config.output, workers=workers)), highlight=False, soft_wrap=True)
