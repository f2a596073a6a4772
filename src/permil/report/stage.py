"""The stage `report`: from the products of a run to its pages and the table of results."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from permil.context import Run
from permil.engine import Task
from permil.errors import OutputError
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
    from permil.report.index.page import index_task, request_index
    from permil.report.kit.pages import remove_stale_pages
    from permil.report.kit.run import read_run
    from permil.report.registry import PAGE_KINDS

    products = read_run(run.config, run.camera, run.folder)
    index, tasks = index_task(request_index(products, PAGE_KINDS)), []
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
    """Declare what stands for the index page and the pages of flats, which are known when their products are there."""
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
