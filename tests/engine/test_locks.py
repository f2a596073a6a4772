"""Locks of a run's folder."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from permil.engine.locks import locked_folder, locked_task
from permil.errors import OutputError


def _folder(root: Path, *, shared: bool):
    return locked_folder(root, root / ".state", shared=shared, show=print)


def test_single_tasks_share_a_folder_that_a_run_has_alone(tmp_path: Path) -> None:
    with _folder(tmp_path, shared=True), _folder(tmp_path, shared=True), pytest.raises(OutputError, match="another run"):
        _folder(tmp_path, shared=False).__enter__()
    with _folder(tmp_path, shared=False), pytest.raises(OutputError, match="another run"):
        _folder(tmp_path, shared=True).__enter__()
    with _folder(tmp_path, shared=False):
        pass


def test_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError, match="cannot be written to"):
        _folder(blocked, shared=False).__enter__()


def test_without_locks_the_work_goes_on_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    messages: list[str] = []
    with (
        locked_folder(tmp_path, tmp_path / ".state", shared=False, show=messages.append),
        locked_task(tmp_path, tmp_path, "task"),
    ):
        assert "file locking is not supported" in messages[0]


def _hold(root: Path, seconds: float, begun: object) -> None:
    with locked_task(root, root, "flat_red"):
        begun.set()
        time.sleep(seconds)


def test_a_task_waits_for_its_twin_only(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    twin = context.Process(target=_hold, args=(tmp_path, 1.0, begun))
    twin.start()
    assert begun.wait(20)
    begin = time.monotonic()
    with locked_task(tmp_path, tmp_path, "flat_blue"):
        other = time.monotonic() - begin
    with locked_task(tmp_path, tmp_path, "flat_red"):
        same = time.monotonic() - begin
    twin.join()
    assert other < 0.4
    assert same > 0.5
