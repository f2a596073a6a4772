"""The stage `report`, from the products of a run to its pages and the table of results; and trends of many runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from permil.config.base import is_uri
from permil.context import Run
from permil.engine import Task
from permil.errors import OutputError
from permil.products import Description, check_output
from permil.progress import StageReport, do_tasks
from permil.stages import StageFunctions


def make_report(run: Run) -> StageReport:
    """Write the pages of a run and ``summary.ecsv``; pages that are current are skipped, and those that it no longer has are removed.

    Raises
    ------
    OutputError
        If a package that pages need is not installed, or a page cannot be written.
    InputError
        If there is nothing to report on, or a product is damaged.
    """
    require_packages()
    # These modules need the packages.
    from permil.report.index import index_task
    from permil.report.kit.pages import read_run, remove_stale_pages
    from permil.report.registry import PAGE_KINDS

    products = read_run(run.config, run.camera, run.folder)
    index, tasks = index_task(products, PAGE_KINDS), []
    for kind in PAGE_KINDS:
        pages = kind.pages(products) if run.config.report.detector_pages else []
        remove_stale_pages(run.folder, kind, pages)
        tasks += [page.task(kind.description) for page in pages]
    report = StageReport("report", messages=[f"open {run.folder.report}"])
    report.count(do_tasks([*tasks, index]))
    return report


_SECONDS_OF_INDEX, _SECONDS_OF_PAGE, _SECONDS_OF_PAGE_PIXEL = 2.0, 0.15, 1.5e-7
_SIZE_OF_PAGE = 1.5e5


def _tasks(run: Run, earlier: Sequence[Task]) -> list[Task]:
    """Declare placeholders of the index page and the pages of flats, which are known when their products exist."""
    flats = [task for task in earlier if task.key[0] == "flat"] if run.config.report.detector_pages else []
    pages = []
    for flat in flats:
        detector = run.camera[flat.key[2]]
        seconds = _SECONDS_OF_PAGE + _SECONDS_OF_PAGE_PIXEL * detector.nx * detector.ny
        pages.append(Task(("page", *flat.key[1:]), "pages", lambda _: None, needs=(flat,), seconds=seconds, size=_SIZE_OF_PAGE))
    index = Task(("report",), "index page", lambda _: None, needs=tuple(earlier), seconds=_SECONDS_OF_INDEX, is_serial=True)
    return [*pages, index]


STAGE = StageFunctions(make_report, tasks=_tasks)


def require_packages(*others: str) -> None:
    """Raise an error unless the packages that pages need are installed.

    Parameters
    ----------
    *others
        Further packages of the extra ``report`` that are needed.

    Raises
    ------
    OutputError
        If one is missing.
    """
    missing = [name for name in ("matplotlib", "jinja2", *others) if importlib.util.find_spec(name) is None]
    if missing:
        raise OutputError(
            f"the report needs {' and '.join(missing)}, not installed here",
            remedy="install the extra `report` (pip install 'permil[report]'), or run the stages without the report",
            missing=missing,
        )


def follow_runs(runs: Sequence[Path], database: str | Path, page: Path) -> Description:
    """Add runs to a database, write the page of all its runs, and return the added runs and the deviating results.

    Parameters
    ----------
    runs
        Folders of runs.
    database
        SQLite file, or ``postgresql://USER@HOST/NAME``.
    page
        Page to write (HTML).

    Raises
    ------
    InputError
        If a run has no summary, or the database cannot be used.
    OutputError
        If the page cannot be written, or a package that it needs is not installed.
    """
    require_packages("sqlalchemy")
    # These modules need the packages.
    from permil.report.kit.pages import write_html
    from permil.report.trend import make_trend_page, name_of_result
    from permil.trend import add_runs, database_name, find_outliers, read_history, read_summary

    shown = database_name(database)
    check_output(page, inputs=[Path(shown)])
    summaries = [read_summary(root) for root in runs]
    states = add_runs(database, summaries) if summaries else []
    history = read_history(database)
    outliers = find_outliers(history.results)
    write_html(page, make_trend_page(history, outliers, shown if is_uri(shown) else Path(shown).name))
    lines = [f"{summary.folder}: {state}" for summary, state in zip(summaries, states, strict=True)]
    lines.append(f"{len(history.runs)} runs, {len(history.results)} results in {shown}; page {page}")
    lines += [
        f"  run {history.runs[entry.result.run].name}: {name_of_result(entry.result)} deviates by {entry.pull:+.1f} sigma"
        for entry in outliers
    ] or ["  no result deviates from those of the other runs"]
    facts = {
        "database": shown,
        "page": page,
        "runs": len(history.runs),
        "states": {str(summary.folder): state for summary, state in zip(summaries, states, strict=True)},
        "outliers": [
            {
                "run": history.runs[entry.result.run].name,
                "metric": entry.result.metric,
                "detector": entry.result.detector,
                "amp": entry.result.amp,
                "led": entry.result.led,
                "value": entry.result.value,
                "error": entry.result.error,
                "others": entry.others,
                "others_error": entry.others_error,
                "pull": entry.pull,
                "p_value": entry.p_value,
            }
            for entry in outliers
        ],
    }
    return Description("\n".join(lines), facts)
