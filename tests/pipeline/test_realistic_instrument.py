"""Rows of `benchmarks/study_instrument.py`: raw files of an instrument that behaves like a real one, errors against the truth."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from scipy import stats

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.full
@pytest.mark.parametrize("row", ["b", "c", "d", "j", "e", "e-one", "f", "g"])
def test_levels_and_gradients_have_true_errors(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    study = importlib.import_module("study_instrument")
    figures = [study.study_seed(tmp_path / str(seed), row, seed) for seed in (61_020, 61_021)]
    for one in figures:
        assert one.converged, one.problem
        assert one.left_out == 0
        assert 0.97 < one.signals_chi_square < 1.03
        assert 0.97 < one.pixels_chi_square < 1.03
    total, freedom = sum(one.chi_square for one in figures), sum(one.freedom for one in figures)
    assert stats.chi2.sf(total, freedom) > 1e-2, total
