"""Installations and homes that cannot be written to: compiled functions are kept in a private temporary folder."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from permil import environment


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the package be read-only, the home a place that cannot be made, and temporary files go below the test's folder."""
    monkeypatch.setattr(environment, "_is_package_writable", lambda: False)
    monkeypatch.setitem(sys.modules, "numba.core.config", SimpleNamespace(CACHE_DIR=""))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, value in (("HOME", "/proc/nowhere"), ("XDG_CACHE_HOME", ""), ("XDG_CONFIG_HOME", "")):
        monkeypatch.setenv(name, value)
    for name in (environment.NUMBA_CACHE, environment.MATPLOTLIB_CACHE):
        monkeypatch.setenv(name, "")
    environment.private_folder.cache_clear()
    yield
    environment.private_folder.cache_clear()


def _chosen() -> tuple[str, str]:
    environment.prepare_numba()
    environment.prepare_matplotlib()
    return os.environ[environment.NUMBA_CACHE], os.environ[environment.MATPLOTLIB_CACHE]


def test_private_folder_takes_the_place(tmp_path: Path) -> None:
    folder = tmp_path / f"permil-{os.geteuid()}"
    assert _chosen() == (str(folder / "numba"), str(folder / "matplotlib"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # Numba that is loaded already looks there, too.
    assert str(folder / "numba") == sys.modules["numba.core.config"].CACHE_DIR


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
def test_home_that_can_be_written_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "home"))
    environment.prepare_numba()
    assert os.environ[environment.NUMBA_CACHE] == ""


def test_named_folder_is_kept_if_it_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (environment.NUMBA_CACHE, environment.MATPLOTLIB_CACHE):
        monkeypatch.setenv(name, str(tmp_path / "mine"))
    assert _chosen() == (str(tmp_path / "mine"),) * 2
    for name in (environment.NUMBA_CACHE, environment.MATPLOTLIB_CACHE):
        monkeypatch.setenv(name, "/proc/nowhere")
    assert all(path.startswith(str(tmp_path)) for path in _chosen())


@pytest.mark.parametrize("kind", ["open to others", "link", "file"])
def test_folder_of_somebody_else_is_not_used(tmp_path: Path, kind: str) -> None:
    name = tmp_path / f"permil-{os.geteuid()}"
    if kind == "open to others":
        name.mkdir()
        name.chmod(0o777)
    elif kind == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        name.symlink_to("theirs")
    else:
        name.write_text("")
    folder = environment.private_folder()
    assert folder is not None
    assert folder != name
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_no_place_at_all_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core.dispatcher import Dispatcher

    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    monkeypatch.setattr(Dispatcher, "enable_caching", Dispatcher.enable_caching)
    assert _chosen() == ("", "")

    from numba import njit

    @njit(cache=True)
    def double(x: float) -> float:
        return 2 * x

    assert double.py_func(2.0) == 4.0
    assert double.stats.cache_path is None


def test_importing_the_package_chooses_the_place(tmp_path: Path) -> None:
    source = "import os; os.access = lambda *_args: False; import permil; print(os.environ['NUMBA_CACHE_DIR'])"
    run = subprocess.run(  # noqa: S603
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    assert Path(run.stdout.strip()).is_relative_to(tmp_path)
