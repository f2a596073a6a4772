"""Processes that read damaged files, watched: one that hangs or dies is noticed with the number of its file, and replaced."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from permil._kernels import use_level

from .reading import Bench, Verdict

LONGEST_WAIT = 60.0
"""Seconds without a word after which a process hangs; a busy machine is slow."""
_LONGEST_START = 900.0
_ROOM = 2 * 2**30


def examine_all(numbers: range, seed: int, *, checked: bool = False) -> Iterator[tuple[int, Verdict]]:
    """Examine files by number and yield what became of each.

    Parameters
    ----------
    seed
        Of the damage.
    checked
        Whether the checked kernels are used, which test every index.
    """
    waiting = list(numbers)
    while waiting:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        with tempfile.TemporaryDirectory() as folder:
            process = multiprocessing.get_context("spawn").Process(
                target=_examine, args=(theirs, Path(folder), list(waiting), seed, checked), daemon=True
            )
            process.start()
            theirs.close()
            try:
                yield from _answers(ours, process, waiting)
            finally:
                process.kill()
                process.join()
                ours.close()


def _answers(pipe: Connection, process: multiprocessing.process.BaseProcess, waiting: list[int]) -> Iterator[tuple[int, Verdict]]:
    """Yield verdicts as they come; what was examined is taken from the list, also a file at which the process ended."""
    patience = _LONGEST_START
    while waiting:
        number = waiting[0]
        try:
            verdict = pipe.recv() if pipe.poll(patience) else Verdict("", "", "", "", patience, 0, "no answer: hangs")
        except EOFError:
            process.join()
            verdict = Verdict("", "", "", "", 0.0, 0, f"the process died (exit code {process.exitcode})")
        if verdict is None:
            patience = LONGEST_WAIT
            continue
        waiting.pop(0)
        yield number, verdict
        if verdict.fault.startswith(("no answer", "the process died")):
            return


def _examine(pipe: Connection, folder: Path, numbers: list[int], seed: int, checked: bool) -> None:
    if checked:
        use_level("checked")
    bench = Bench(folder)
    bench.examine(-1 % 2**31, seed)
    # What is believed of a size in a damaged file asks for more than this.
    virtual = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + _ROOM, resource.RLIM_INFINITY))
    pipe.send(None)
    for number in numbers:
        pipe.send(bench.examine(number, seed))
