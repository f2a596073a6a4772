"""The stages of a run, in the order of their dependencies, and the messages of each to the user.

Each stage declares its tasks and does those that are not up to date, so that a run that was killed goes on where it was. One run at a
time works in a folder; the workers of its tasks (processes of this machine, a Dask cluster, jobs of a batch system) are chosen here.
"""

from __future__ import annotations

import platform
import time

import yaml
from astropy.table import Table

from permil import __version__
from permil.config import Config
from permil.context import Run, with_measured_tables
from permil.engine import Executor, make_executor, session
from permil.engine.locks import locked_folder
from permil.engine.performance import StepCost, metered_stage, performance_table
from permil.products import atomic_output, make_folder, read_table, remove_partial_files, write_table
from permil.progress import StageReport, default_workers, describe_warnings, say, show_message, show_report
from permil.stages import STAGES


def run_pipeline(config: Config, *, stages: tuple[str, ...] | None = None) -> list[StageReport]:
    """Run the requested stages in order, each as far as it is not up to date.

    Parameters
    ----------
    stages
        Names in `permil.stages.STAGES`; when None, those that the data ask for. What a stage that is asked for alone needs must be up to
        date.

    Raises
    ------
    PermilError
        Whatever a user has to mend.
    """
    run = Run.from_config(with_measured_tables(config))
    with locked_folder(run.folder.root, run.folder.state, shared=False, show=show_message):
        remove_partial_files(run.folder.root)
        _write_configuration(run)
        try:
            return _do_stages(run, _executor(run), stages)
        finally:
            # Workers that were killed in the middle of a write leave what they had begun.
            remove_partial_files(run.folder.root)


def _executor(run: Run) -> Executor:
    make_folder(run.folder.root)
    return make_executor(run.config.pipeline, workers=run.workers, folder=run.folder.root.absolute(), show=show_message)


def _do_stages(run: Run, executor: Executor, stages: tuple[str, ...] | None) -> list[StageReport]:
    reports: list[StageReport] = []
    costs: list[StepCost] = []
    warned: set[str] = set()
    before = read_table(run.folder.performance) if run.folder.performance.is_file() else None
    with session(executor) as opened:
        for name, stage in STAGES.items():
            if name not in stages if stages is not None else not stage.functions.is_wanted(run):
                continue
            begin = time.perf_counter()
            with metered_stage(name, opened) as meter:
                found = stage.functions.run(run)
            found.seconds = time.perf_counter() - begin
            # Later stages that read the same files repeat the warnings of earlier ones.
            found.messages += describe_warnings(meter.records, but=warned)
            costs += meter.costs
            show_report(found)
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


def simulate_run(config: Config) -> None:
    """Simulate the campaign of the section `simulate` below the output folder."""
    from permil.simulate.simulated import simulate_campaign

    campaign = simulate_campaign(config.output, config.simulate, workers=config.pipeline.workers or default_workers())
    say(str(campaign.summary))


def simulate_spots_run(config: Config) -> None:
    """Simulate the campaign of the section `simulate_spots` below the output folder."""
    from permil.simulate.spots import simulate_spots

    workers = config.pipeline.workers or default_workers()
    say(str(simulate_spots(config.simulate_spots, config.output, workers=workers)))
