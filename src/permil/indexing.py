"""The stage `index`: exposures in folders and Butler repositories, and the estimate of the run."""

from __future__ import annotations

from pathlib import Path

from permil.camera import load_camera
from permil.config.exposures import ExposuresConfig
from permil.context import Run
from permil.exposures.files import describe_index, index_run, make_index
from permil.products import check_output
from permil.progress import StageReport, default_workers, say, show_message
from permil.stages import StageFunctions
from permil.tasks import estimate


def index(run: Run) -> StageReport:
    """Write the index of a run; report the exposures found and the estimate of the run."""
    query, found, lines = run.config.exposures.butler, None, list[str]()
    if query.repo:
        from permil.butler.raws import find_raws, local_files

        selection = find_raws(query, run.camera)
        lines = selection.describe()
        found = local_files(selection, run.folder.fetched_raws, show=show_message)
    report = index_run(run.config, run.camera, run.folder, workers=run.workers, found=found)
    report.messages = [*lines, *report.messages]
    report.messages.append(estimate(run))
    return report


STAGE = StageFunctions(index, is_wanted=lambda run: run.has_exposures)


def index_folders(roots: list[Path], *, camera: str, out: Path) -> None:
    """Write the index of some folders, without a run."""
    check_output(out)
    found = make_index(roots, load_camera(camera), out, options=ExposuresConfig(), workers=default_workers())
    for message in [*describe_index(found), f"wrote {out}"]:
        say(message)
