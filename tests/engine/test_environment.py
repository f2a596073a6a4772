"""Homes that cannot be written to: matplotlib caches its fonts in a private temporary folder."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from permil import plotting


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the home be a place that cannot be made, and temporary files go below the test's folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, value in (("HOME", "/proc/nowhere"), ("XDG_CACHE_HOME", ""), ("XDG_CONFIG_HOME", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(plotting.MATPLOTLIB_CACHE, "")
    plotting.private_folder.cache_clear()
    yield
    plotting.private_folder.cache_clear()


def _chosen() -> str:
    plotting.prepare_matplotlib()
    return os.environ[plotting.MATPLOTLIB_CACHE]


def test_private_folder_takes_the_place(tmp_path: Path) -> None:
    folder = tmp_path / f"permil-{os.geteuid()}"
    assert _chosen() == str(folder / "matplotlib")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_home_that_can_be_written_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert _chosen() == ""


def test_named_folder_is_kept_if_it_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plotting.MATPLOTLIB_CACHE, str(tmp_path / "mine"))
    assert _chosen() == str(tmp_path / "mine")
    monkeypatch.setenv(plotting.MATPLOTLIB_CACHE, "/proc/nowhere")
    assert _chosen().startswith(str(tmp_path))


@pytest.mark.parametrize("kind", ["open to others", "link", "file"])
def test_folder_of_another_user_is_not_used(tmp_path: Path, kind: str) -> None:
    name = tmp_path / f"permil-{os.geteuid()}"
    if kind == "open to others":
        name.mkdir()
        name.chmod(0o777)
    elif kind == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        name.symlink_to("theirs")
    else:
        name.write_text("")
    folder = plotting.private_folder()
    assert folder is not None
    assert folder != name
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_no_place_at_all_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    assert _chosen() == ""


def test_a_package_that_cannot_be_written_to_works_without_a_home(tmp_path: Path) -> None:
    source = "import os; os.access = lambda *_args: False; import permil.flat.stage; print('ready')"
    run = subprocess.run(  # noqa: S603
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    assert run.stdout.strip() == "ready"
    assert not list(tmp_path.iterdir())
