"""The stage `report`: from the products of a run to its pages and the table of results."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from permil.camera import Camera
from permil.config import Config
from permil.errors import OutputError
from permil.products import RunFolder
from permil.progress import parallel_map


def make_report(config: Config, camera: Camera, folder: RunFolder, *, workers: int) -> Path:
    """Write the pages of a run and ``summary.ecsv``; pages that are current are skipped.

    Parameters
    ----------
    config
        Configuration of the run; the section ``report`` holds the specifications.
    camera
        Camera of the run.
    folder
        Folder of the run; the pages name missing products.
    workers
        Number of processes.

    Returns
    -------
    Path
        The index page.

    Raises
    ------
    OutputError
        If a package that pages need is not installed, or a page cannot be written.
    InputError
        If there is nothing to report on, or a product is damaged.
    """
    _require_packages()
    # These modules need the packages.
    from permil.report.index.page import request_index, write_index
    from permil.report.kit.pages import is_current_page, remove_stale_pages, write_page
    from permil.report.kit.run import read_run
    from permil.report.registry import PAGE_KINDS

    run = read_run(config, camera, folder)
    index = request_index(run, PAGE_KINDS)
    for kind in PAGE_KINDS:
        pages = kind.pages(run) if config.report.detector_pages else []
        waiting = [page for page in pages if not is_current_page(page)]
        parallel_map(write_page, waiting, workers=workers, description=kind.description)
        remove_stale_pages(folder, kind, pages)
    write_index(index, workers=workers)
    return folder.report


def _require_packages() -> None:
    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise OutputError(
            f"the report needs {' and '.join(missing)}, not installed here",
            remedy="install the extra `report` (pip install 'permil[report]'), or run the stages without the report",
            missing=missing,
        )
