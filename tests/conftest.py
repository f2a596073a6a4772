"""Fixtures shared by all tests."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

# Threads of numerical libraries in several test processes wait for each other; this must stand before they are loaded.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import pytest
from hypothesis import settings

from permil.camera import Camera, load_camera
from pictures import without_pictures

# A busy machine is no reason to fail.
settings.register_profile("permil", deadline=None)
settings.load_profile("permil")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real measurements beside the checkout; skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real measurements (shared/data beside the checkout) is not here")
    return folder


@pytest.fixture(scope="session")
def shared_reference(shared_data: Path) -> Path:
    """Return the folder of reference facts beside the checkout; skip where it is absent."""
    return shared_data.parent / "reference"


@pytest.fixture(scope="session")
def fill_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return a function that fills a folder in the first test process that asks for it and returns its path in all of them."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def fill(name: str, function: Callable[[Path], object]) -> Path:
        folder, filled = root / name, root / f"{name}.filled"
        with (root / f"{name}.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if not filled.exists():
                # Another process may have failed in the middle.
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                function(folder)
                filled.touch()
        return folder

    return fill


@pytest.fixture
def no_pictures() -> Iterator[None]:
    """Leave the pictures of pages empty: figures are made, but not rendered."""
    with without_pictures():
        yield


@pytest.fixture(scope="session")
def lsstcam() -> Camera:
    """Return the full-size camera."""
    return load_camera("lsstcam")


@pytest.fixture(scope="session")
def bin8() -> Camera:
    """Return the binned camera."""
    return load_camera("lsstcam-bin8")
