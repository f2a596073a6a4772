"""The documentation names files and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FAULTS = (ROOT / "docs" / "development" / "faults.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("row", [line for line in FAULTS.splitlines() if line.startswith("| ") and "tests |" not in line])
def test_table_of_faults_names_what_exists(row: str) -> None:
    _, _, _, modules, tests, _ = row.split(" | " if row.count(" | ") == 5 else "|")
    for module in re.findall(r"`([^`]+)`", modules):
        assert (ROOT / "src" / "permil" / module).exists(), module
    file = Path()
    for name in re.findall(r"`([^`]+)`", tests):
        path, _, function = name.partition("::")
        file = ROOT / "tests" / path if path else file
        assert file.is_file(), name
        assert not function or f"def {function}(" in file.read_text(encoding="utf-8"), name
