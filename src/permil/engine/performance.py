"""Table of the costs of the stages of a run: tasks, time, bytes read, memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from astropy.table import Table

from permil.engine.call import Measure, bytes_read, forget_peak, peak_memory
from permil.engine.session import CallCosts, Session

WHOLE_STAGE = "all"
"""Step name of the row for a whole stage."""
_GIGABYTE = 1e9
_MEBIBYTE = 2**20


@dataclass(frozen=True)
class StepCost:
    """One row of the table.

    Attributes
    ----------
    step
        Kind of task; `WHOLE_STAGE` for the stage, including the main process.
    workers
        Number of processes that ran tasks.
    seconds
        Elapsed time.
    task_seconds
        Sum of the elapsed times of the tasks.
    cpu_seconds
        Processor time of all processes.
    gigabytes_read
        Bytes read by all processes, from disk or page cache, in units of 1e9.
    gigabytes_per_second
        The same divided by the elapsed time.
    peak_memory_mib
        Peak memory of a process, in MiB.
    restarted
        Number of tasks that ran again because their worker died.
    """

    stage: str
    step: str
    tasks: int
    workers: int
    seconds: float
    task_seconds: float
    cpu_seconds: float
    gigabytes_read: float
    gigabytes_per_second: float
    peak_memory_mib: float
    restarted: int


_UNITS = {
    "seconds": ("s", 3), "task_seconds": ("s", 3), "cpu_seconds": ("s", 3), "gigabytes_read": ("Gbyte", 4),
    "gigabytes_per_second": ("Gbyte / s", 4), "peak_memory_mib": ("Mibyte", 1),
}  # fmt: skip
"""Units of the columns, and number of decimals."""


@dataclass
class StageMeter:
    """Costs of one stage and its groups of calls, filled when its context ends."""

    costs: list[StepCost] = field(default_factory=list)
    records: list[CallCosts] = field(default_factory=list)


@contextmanager
def metered_stage(name: str, opened: Session) -> Iterator[StageMeter]:
    """Measure the costs of a stage."""
    meter = StageMeter()
    opened.take_records()
    forget_peak()
    begin, cpu, read = time.perf_counter(), time.process_time(), bytes_read()
    yield meter
    seconds, cpu, read = time.perf_counter() - begin, time.process_time() - cpu, bytes_read() - read
    meter.records = opened.take_records()
    steps = [
        _cost(name, each.description, each.measures, seconds=each.seconds, restarted=each.restarted) for each in meter.records
    ]
    # The counters of this process include its own calls.
    measures = [measure for record in meter.records for measure in record.measures]
    others = [measure for measure in measures if not measure.is_own]
    whole = replace(
        _cost(name, WHOLE_STAGE, measures, seconds=seconds, restarted=sum(record.restarted for record in meter.records)),
        cpu_seconds=cpu + sum(measure.cpu_seconds for measure in others),
        gigabytes_read=(read + sum(measure.bytes_read for measure in others)) / _GIGABYTE,
        peak_memory_mib=max([peak_memory(), *(measure.peak_bytes for measure in measures)]) / _MEBIBYTE,
    )
    meter.costs = [replace(whole, gigabytes_per_second=whole.gigabytes_read / max(seconds, 1e-9)), *steps]


def _cost(stage: str, step: str, measures: Sequence[Measure], *, seconds: float, restarted: int) -> StepCost:
    read = sum(measure.bytes_read for measure in measures) / _GIGABYTE
    return StepCost(
        stage=stage,
        step=step,
        tasks=len(measures),
        workers=len({(measure.host, measure.process) for measure in measures}),
        seconds=seconds,
        task_seconds=sum(measure.seconds for measure in measures),
        cpu_seconds=sum(measure.cpu_seconds for measure in measures),
        gigabytes_read=read,
        gigabytes_per_second=read / max(seconds, 1e-9),
        peak_memory_mib=max((measure.peak_bytes for measure in measures), default=0) / _MEBIBYTE,
        restarted=restarted,
    )


def performance_table(costs: Iterable[StepCost], *, order: Sequence[str], before: Table | None = None) -> Table:
    """Return the table of a run.

    Parameters
    ----------
    costs
        Costs of the stages of this run.
    order
        Names of all stages.
    before
        Table of an earlier run; its rows are kept for stages that are not in this run or had nothing to do.
    """
    rows = [asdict(cost) for cost in costs]
    worked = {row["stage"] for row in rows if row["step"] == WHOLE_STAGE and row["tasks"]}
    kept = [] if before is None else [_plain(before, row) for row in before if str(row["stage"]) not in worked]
    known = {row["stage"] for row in kept}
    rows = [*kept, *(row for row in rows if row["stage"] not in known)]
    table = Table(rows=sorted(rows, key=lambda row: order.index(row["stage"])))
    for name, (unit, digits) in _UNITS.items():
        table[name] = table[name].astype(float).round(digits)
        table[name].unit = unit
    return table


def _plain(table: Table, row: Table.Row) -> dict[str, Any]:
    return {name: row[name].item() if hasattr(row[name], "item") else row[name] for name in table.colnames}
