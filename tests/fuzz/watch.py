"""Processes that read damaged files, watched: one that hangs or dies is noticed with the number of its file, and replaced."""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from .reading import Bench, Verdict

LONGEST_WAIT = 60.0
"""Seconds without a word after which a process hangs; a busy machine is slow."""
_LONGEST_START = 900.0
_ROOM = 2 * 2**30


def examine_all(numbers: range, seed: int, *, only_decoding: bool = False) -> Iterator[tuple[int, Verdict]]:
    """Examine files by number and yield what became of each.

    Parameters
    ----------
    seed
        Of the damage.
    only_decoding
        See `Bench`; kernels are compiled anew, with checks of bounds.
    """
    waiting = list(numbers)
    while waiting:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        environment = {"NUMBA_BOUNDSCHECK": "1"} if only_decoding else {}
        with tempfile.TemporaryDirectory() as folder:
            if only_decoding:
                environment["NUMBA_CACHE_DIR"] = str(Path(folder, "cache"))
            process = _start(theirs, Path(folder), waiting, seed, only_decoding, environment)
            theirs.close()
            try:
                yield from _answers(ours, process, waiting)
            finally:
                process.kill()
                process.join()
                ours.close()


def _start(
    pipe: Connection, folder: Path, numbers: list[int], seed: int, only_decoding: bool, environment: dict[str, str]
) -> multiprocessing.process.BaseProcess:
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        process = multiprocessing.get_context("spawn").Process(
            target=_examine, args=(pipe, folder, list(numbers), seed, only_decoding), daemon=True
        )
        process.start()
        return process
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


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


def _examine(pipe: Connection, folder: Path, numbers: list[int], seed: int, only_decoding: bool) -> None:
    bench = Bench(folder, only_decoding=only_decoding)
    bench.examine(-1 % 2**31, seed)
    # What is believed of a size in a damaged file asks for more than this.
    virtual = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + _ROOM, resource.RLIM_INFINITY))
    pipe.send(None)
    for number in numbers:
        pipe.send(bench.examine(number, seed))
