"""The built distributions: complete, and usable outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "permil"


def _run(*command: object, cwd: Path) -> str:
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=True).stdout  # noqa: S603


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    _run(sys.executable, "-c", f"from scikit_build_core.build import build_sdist; build_sdist({str(folder)!r})", cwd=ROOT)
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel that is built from the source distribution, as pip does."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = next(folder.glob("permil-*"))
    _run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder)
    return next(folder.glob("*.whl"))


def _data_files() -> set[str]:
    suffixes = (".html", ".css", ".js", ".yaml", ".pyi", ".typed", ".py")
    return {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*") if path.suffix in suffixes or path.name == "py.typed"}


def test_sdist_is_complete(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CITATION.cff", "CMakeLists.txt", "pyproject.toml"} <= names
    assert {f"src/permil/{name}" for name in _data_files()} <= names
    assert {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.[ch]pp")} <= names


def test_wheel_is_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert {f"permil/{name}" for name in _data_files()} <= names
    assert not [name for name in names if name.endswith((".cpp", ".hpp", ".pyc"))]
    assert any(name.startswith("permil/_kernels.") for name in names)
    assert "License-Expression: BSD-3-Clause" in metadata
    assert "Classifier: Typing :: Typed" in metadata


def test_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    packages = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # The libraries of this environment, but not the checkout, which only its own .pth file adds.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    place = _run(python, "-c", "import permil; print(permil.__file__)", cwd=tmp_path).strip()
    assert place.startswith(str(packages))
    permil = tmp_path / "env" / "bin" / "permil"
    assert _run(permil, "--version", cwd=tmp_path).startswith("permil 0.")
    _run(permil, "demo", "demo", cwd=tmp_path)
    assert "kind                flat" in _run(permil, "show", "demo/flat/red/R22_S11.fits", cwd=tmp_path)
    assert (tmp_path / "demo" / "report" / "index.html").stat().st_size > 1000
