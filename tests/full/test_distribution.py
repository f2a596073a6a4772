"""The built distributions: complete, and usable outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import time
import venv
import zipfile
from pathlib import Path

import pytest

from documentation_pages import DOCS, blocks

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "permil"
TUTORIALS = sorted(path.stem for path in (DOCS / "tutorials").glob("*.md") if path.stem != "index")
SECONDS = 120
"""Largest processor time of a tutorial with all its workers."""


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


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of programs of an environment with the wheel and the libraries of this one, but not the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    packages = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    # The checkout is added by a .pth file, which is not read there.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    place = _run(python, "-c", "import permil; print(permil.__file__)", cwd=folder).strip()
    assert place.startswith(str(packages))
    return python.parent


def test_wheel_works_outside_the_checkout(environment: Path, tmp_path: Path) -> None:
    permil = environment / "permil"
    assert _run(permil, "--version", cwd=tmp_path).startswith("permil 0.")
    _run(permil, "demo", "demo", cwd=tmp_path)
    assert "kind                flat" in _run(permil, "show", "demo/flat/red/R22_S11.fits", cwd=tmp_path)
    assert (tmp_path / "demo" / "report" / "index.html").stat().st_size > 1000


SAVE_PICTURES = """
import matplotlib.pyplot
for number in matplotlib.pyplot.get_fignums():
    matplotlib.pyplot.figure(number).savefig(pictures / f"{number}.png")
"""


def _processor_seconds(group: int) -> dict[str, float]:
    """Return the processor time of each process of a group, which are workers and their servers."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            found[process.name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def test_there_are_five_tutorials() -> None:
    assert len(TUTORIALS) == 5


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial_runs_from_the_wheel(name: str, environment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each tutorial runs by itself, in an empty folder, and draws pictures."""
    pictures, work = tmp_path / "pictures", tmp_path / "work"
    pictures.mkdir()
    work.mkdir()
    cells = [block.text for block in blocks(DOCS / "tutorials" / f"{name}.md") if block.language == "python"]
    page = tmp_path / "page.py"
    begin = f"import pathlib\npictures = pathlib.Path({str(pictures)!r})\n"
    page.write_text("\n".join([begin, *cells, SAVE_PICTURES]), encoding="utf-8")
    # As in a notebook, workers find no file of a main program that they would run again.
    command = f"exec(compile(open({str(page)!r}).read(), {name!r}, 'exec'))"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    variables = os.environ | threads | {"MPLBACKEND": "agg", "PERMIL_DOCS_WORK": str(work)}
    variables.pop("PYTHONPATH", None)
    with (tmp_path / "messages.txt").open("w+", encoding="utf-8") as messages:
        process = subprocess.Popen(  # noqa: S603
            [environment / "python", "-c", command], cwd=work, env=variables, stdout=messages, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        used: dict[str, float] = {}
        while process.poll() is None:
            used |= _processor_seconds(process.pid)
            time.sleep(0.1)
    seconds = sum(used.values())
    assert process.returncode == 0, (tmp_path / "messages.txt").read_text(encoding="utf-8")
    drawn = sorted(pictures.glob("*.png"))
    assert drawn
    assert all(picture.stat().st_size > 5000 for picture in drawn)
    with capsys.disabled():
        print(f"\n{name}: {seconds:.0f} s of processor time, {len(drawn)} pictures")
    assert seconds < SECONDS
