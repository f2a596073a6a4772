"""A fixed number of damaged raw files: no exception but ours, no hang, no pixel that changes without a word, bounded memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from permil import _kernels
from permil._kernels.exposures import overrun

from .files import LAYOUTS
from .reading import ACCEPTED, REFUSED, REPORTED, Bench
from .watch import examine_all


@pytest.mark.parametrize("number", [160, pytest.param(2000, marks=pytest.mark.full)])
def test_damaged_files(number: int) -> None:
    verdicts = dict(examine_all(range(number), seed=20260101))
    faults = {which: (each.layout, each.damage, each.fault) for which, each in verdicts.items() if each.fault}
    assert not faults
    assert len(verdicts) == number
    # The generator does what it should: every layout, and files of all fates.
    assert {each.layout for each in verdicts.values()} == set(LAYOUTS)
    fates = Counter(each.outcome for each in verdicts.values())
    assert min(fates[outcome] for outcome in (ACCEPTED, REPORTED, REFUSED)) > number // 40


def test_an_index_outside_its_row_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a decoder that reads one word too many."""
    words = np.zeros(4, dtype=np.uint32)
    with pytest.raises(ValueError, match="only the checked kernels"):
        overrun(words)
    bench = Bench(tmp_path)
    numbers = range(20)
    _kernels.use_level("checked")
    try:
        assert not any(bench.examine(number, seed=3).fault for number in numbers)
        monkeypatch.setattr("permil.exposures.tiles.kernels.decode_image", lambda *_: overrun(words))
        faults = [bench.examine(number, seed=3).fault for number in numbers]
    finally:
        _kernels.use_level(_kernels.levels()[-1])
    assert "reads out of bounds: a kernel uses an index outside its row" in faults
