"""Interleaved timing of the same work done by two programs in one process: medians, ratio, peak memory."""

from __future__ import annotations

import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

REPEATS = 5

# One thread for both sides: the machines are small, and threads that wait for each other time nothing. Libraries that are loaded after
# this look at the environment.
threadpool_limits(1)
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))


@dataclass(frozen=True)
class Row:
    """One comparison: seconds of both (medians), their ratio, peak memory of both in MiB."""

    work: str
    ours: str
    peer: str
    our_seconds: float
    peer_seconds: float
    our_peak: float
    peer_peak: float

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.peer_seconds / self.our_seconds


def compare(
    work: str, ours: tuple[str, Callable[[], object]], peer: tuple[str, Callable[[], object]], *, repeats: int = REPEATS
) -> Row:
    """Run both once for warming up, then in turn; memory is measured in a run of its own, since tracing slows."""
    ours[1]()
    peer[1]()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for times, (_, function) in zip(seconds, (ours, peer), strict=True):
            begin = time.perf_counter()
            function()
            times.append(time.perf_counter() - begin)
    peaks = []
    for _, function in (ours, peer):
        tracemalloc.start()
        function()
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    return Row(work, ours[0], peer[0], statistics.median(seconds[0]), statistics.median(seconds[1]), peaks[0], peaks[1])


def print_rows(rows: list[Row]) -> None:
    """Print comparisons as a table."""
    publish(
        "Ours beside a named peer: same work, same process, medians",
        ("work", "ours", "peer", "ours s", "peer s", "ratio", "ours MiB", "peer MiB"),
        [
            (
                row.work,
                row.ours,
                row.peer,
                f"{row.our_seconds:.4f}",
                f"{row.peer_seconds:.4f}",
                f"{row.ratio:.1f}",
                f"{row.our_peak:.0f}",
                f"{row.peer_peak:.0f}",
            )
            for row in rows
        ],
        text_columns=3,
    )


@dataclass(frozen=True)
class Published:
    """A table of results and, below it, what is to be known of it."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    text_columns: int
    remark: str

    def markdown(self) -> str:
        """Return the table for a page of the documentation."""
        rules = ["---" if number < self.text_columns else "---:" for number in range(len(self.headings))]
        lines = [f"| {' | '.join(line)} |" for line in (self.headings, rules, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, *(["", self.remark] if self.remark else []), ""])


PUBLISHED: list[Published] = []
"""All tables of this process, in the order in which they were made."""


def publish(
    title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]], *, text_columns: int = 1, remark: str = ""
) -> None:
    """Print a table and keep it for the documentation."""
    PUBLISHED.append(Published(title, headings, rows, text_columns, remark))
    table = Table(title=title, caption=remark or None, caption_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < text_columns else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)
