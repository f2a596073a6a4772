"""Add runs to a database of results, and write the page of trends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from permil.config.base import is_uri
from permil.products import Description, check_output
from permil.report.stage import require_packages


def follow_runs(runs: Sequence[Path], database: str | Path, page: Path) -> Description:
    """Add runs to a database, write the page of all its runs, and return what was added and which results deviate.

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
    from permil.report.trend.page import make_trend_page, name_of_result
    from permil.trend.database import add_runs, database_name, read_history, read_summary
    from permil.trend.outliers import find_outliers

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
