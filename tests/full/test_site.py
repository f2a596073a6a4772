"""The documentation site builds without a warning."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.full
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("myst_nb", reason="the extra docs is not installed")
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("generated", "api"))
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        str(tmp_path / "docs"),
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    for page in (
        "index",
        "get-started",
        "gallery",
        "reference/api",
        "reference/configuration",
        "development/inside",
        "theory/joint",
        "search",
    ):
        assert (tmp_path / "site" / f"{page}.html").is_file(), page
    assert "data:image" not in (tmp_path / "site" / "gallery.html").read_text(encoding="utf-8")
    assert len(list((tmp_path / "site" / "_images").glob("*.png"))) > 20
