"""What the stages of a run cost, as a table: tasks, time, bytes read, memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from astropy.table import Table

from permil.engine.session import BatchRecord, Session
from permil.engine.usage import bytes_read, forget_peak, peak_memory

WHOLE_STAGE = "all"
"""Step of the row that stands for a stage with all its steps."""
_GIGABYTE = 1e9
_MEBIBYTE = 2**20


@dataclass(frozen=True)
class StepCost:
    """One row of the table.

    Attributes
    ----------
    step
        Kind of task; `WHOLE_STAGE` for the stage, with what the main process did itself.
    workers
        Processes that did tasks.
    seconds
        Time that passed.
    task_seconds
        Sum over the tasks of the time that each took.
    cpu_seconds
        Processor time of all processes.
    gigabytes_read
        Bytes that all processes asked files for, from disk or page cache, in units of 1e9.
    gigabytes_per_second
        The same over the time that passed.
    peak_memory_mib
        The most memory that one process held, in MiB.
    restarted
        Tasks that ran again because their worker died.
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
    "seconds": "s", "task_seconds": "s", "cpu_seconds": "s", "gigabytes_read": "Gbyte", "gigabytes_per_second": "Gbyte / s",
    "peak_memory_mib": "Mibyte",
}  # fmt: skip
_DIGITS = {
    "seconds": 3,
    "task_seconds": 3,
    "cpu_seconds": 3,
    "gigabytes_read": 4,
    "gigabytes_per_second": 4,
    "peak_memory_mib": 1,
}


@dataclass
class StageMeter:
    """Costs of one stage, and the batches that it did, there when its context is left."""

    costs: list[StepCost] = field(default_factory=list)
    records: list[BatchRecord] = field(default_factory=list)


@contextmanager
def metered_stage(name: str, opened: Session) -> Iterator[StageMeter]:
    """Measure what a stage costs."""
    meter = StageMeter()
    opened.take_records()
    forget_peak()
    begin, cpu, read = time.perf_counter(), time.process_time(), bytes_read()
    yield meter
    seconds, cpu, read = time.perf_counter() - begin, time.process_time() - cpu, bytes_read() - read
    records = opened.take_records()
    meter.records += records
    meter.costs += _stage_costs(name, records, seconds=seconds, own_cpu=cpu, own_read=read, own_peak=peak_memory())


def _stage_costs(
    name: str, records: list[BatchRecord], *, seconds: float, own_cpu: float, own_read: int, own_peak: int
) -> list[StepCost]:
    steps = [
        _cost(name, each.description, [each], each.seconds, each.cpu_seconds, each.bytes_read, each.peak_bytes)
        for each in records
    ]
    # Calls of this process are in its own counters already.
    all_cpu = own_cpu + sum(record.cpu_seconds - record.own_cpu_seconds for record in records)
    all_read = own_read + sum(record.bytes_read - record.own_bytes_read for record in records)
    peak = max([own_peak, *(record.peak_bytes for record in records)])
    return [_cost(name, WHOLE_STAGE, records, seconds, all_cpu, all_read, peak), *steps]


def _cost(
    stage: str, step: str, records: list[BatchRecord], seconds: float, cpu_seconds: float, read: int, peak: int
) -> StepCost:
    return StepCost(
        stage=stage,
        step=step,
        tasks=sum(record.tasks for record in records),
        workers=len(set().union(*(record.workers for record in records))),
        seconds=seconds,
        task_seconds=sum(record.task_seconds for record in records),
        cpu_seconds=cpu_seconds,
        gigabytes_read=read / _GIGABYTE,
        gigabytes_per_second=read / _GIGABYTE / max(seconds, 1e-9),
        peak_memory_mib=peak / _MEBIBYTE,
        restarted=sum(record.restarted for record in records),
    )


def performance_table(costs: Iterable[StepCost], *, order: Sequence[str], before: Table | None = None) -> Table:
    """Return the table of a run.

    Parameters
    ----------
    costs
        Of the stages of this run.
    order
        Names of all stages.
    before
        The table of an earlier run; of a stage that is not in this one, or had nothing to do, what it cost then is kept.
    """
    rows = [asdict(cost) for cost in costs]
    worked = {row["stage"] for row in rows if row["step"] == WHOLE_STAGE and row["tasks"]}
    kept = [] if before is None else [_plain(before, row) for row in before if str(row["stage"]) not in worked]
    known = {row["stage"] for row in kept}
    rows = [*kept, *(row for row in rows if row["stage"] not in known)]
    table = Table(rows=sorted(rows, key=lambda row: order.index(row["stage"])))
    for name, digits in _DIGITS.items():
        table[name] = table[name].astype(float).round(digits)
        table[name].unit = _UNITS[name]
    return table


def _plain(table: Table, row: Table.Row) -> dict[str, Any]:
    return {name: row[name].item() if hasattr(row[name], "item") else row[name] for name in table.colnames}
