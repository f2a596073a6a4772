"""Figures do not depend on the user's settings of matplotlib, and do not change them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

import permil
from permil.plotting import own_settings
from permil.report.kit.figures import png, styled, svg

SETTINGS = {
    "text.usetex": True,
    "font.size": 40.0,
    "axes.facecolor": "black",
    "lines.marker": "o",
    "figure.dpi": 33.0,
    "savefig.transparent": True,
    "axes.grid": True,
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
    "xtick.bottom": False,
    "agg.path.chunksize": 7,
}


@styled
def _figure() -> Figure:
    figure = Figure(figsize=(2.0, 1.5))
    axes = figure.subplots()
    axes.plot(np.sin(np.arange(300.0)), label="sine")
    axes.set_title("$10^{-3}$ per mil")
    axes.legend()
    return figure


def test_pictures_are_the_same_whatever_the_settings() -> None:
    plain = png(_figure()), svg(_figure())
    with mpl.rc_context(SETTINGS):
        assert (png(_figure()), svg(_figure())) == plain
        assert {key: mpl.rcParams[key] for key in SETTINGS} == SETTINGS
    with mpl.rc_context(SETTINGS), own_settings({"font.size": 5.0}):
        assert (mpl.rcParams["font.size"], mpl.rcParams["text.usetex"]) == (5.0, False)


def _python(code: str, folder: Path, **environment: str) -> str:
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("MPL", "MATPLOTLIB"))}
    run = subprocess.run(  # noqa: S603
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=variables | environment,
        cwd=folder,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


DRAW = """
from permil.plotting import own_settings
import os, matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
with own_settings():
    FigureCanvasAgg(Figure()).draw()
"""


@pytest.mark.parametrize(
    ("content", "environment"),
    [
        (b"", {"MPLBACKEND": "module://a_notebook.that_is_elsewhere"}),
        (b"", {"MPLBACKEND": "nonsense"}),
        (b"# Gr\xf6\xdfe\nfont.size: 3\n", {}),
        (b"", {"MPLCONFIGDIR": "/proc/nowhere"}),
    ],
)
def test_settings_that_keep_matplotlib_from_loading(tmp_path: Path, content: bytes, environment: dict[str, str]) -> None:
    (tmp_path / "matplotlibrc").write_bytes(content)
    code = DRAW + "print(os.getcwd(), os.environ.get('MPLBACKEND', ''), os.environ.get('MATPLOTLIBRC', ''))"
    found = _python(code, tmp_path, **environment, TMPDIR=str(tmp_path))
    assert found == f"{tmp_path} {environment.get('MPLBACKEND', '')}".strip()


def test_settings_that_work_stay_the_users(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 17\nlines.linewidth: 9\n")
    code = DRAW + "print(mpl.get_backend(), mpl.rcParams['font.size'], mpl.rcParams['lines.linewidth'])"
    assert _python(code, tmp_path, MPLBACKEND="svg") == "svg 17.0 9.0"
    # The package alone loads nothing of it.
    assert _python("import sys, permil.config; print('matplotlib' in sys.modules)", tmp_path) == "False"


def _imports(function: ast.AST, package: str) -> list[int]:
    """Return the lines in which a function imports a package."""
    lines = []
    for node in ast.walk(function):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{package}."):
            lines.append(node.lineno)
        if isinstance(node, ast.Import) and any(f"{alias.name}.".startswith(f"{package}.") for alias in node.names):
            lines.append(node.lineno)
    return lines


def test_functions_load_matplotlib_after_the_settings_that_could_prevent_it() -> None:
    """Modules of `permil.report` do so through their package; axes that are given have loaded it."""
    seen = 0
    for path in sorted(Path(permil.__file__).parent.rglob("*.py")):
        if "report" in path.parts or path.stem == "plotting":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or any(
                ast.unparse(argument.annotation) == "Axes" for argument in node.args.args if argument.annotation
            ):
                continue
            loaded = _imports(node, "matplotlib")
            seen += bool(loaded)
            assert not loaded or min(_imports(node, "permil.plotting"), default=10**6) < min(loaded), f"{path}: {node.name}"
    assert seen >= 3
