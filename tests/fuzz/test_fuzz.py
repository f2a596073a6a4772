"""A fixed number of damaged raw files: no exception but ours, no hang, no pixel that changes without a word, bounded memory."""

from __future__ import annotations

from collections import Counter

from .files import LAYOUTS
from .reading import ACCEPTED, REFUSED, REPORTED
from .watch import examine_all

NUMBER = 600


def test_damaged_files() -> None:
    verdicts = dict(examine_all(range(NUMBER), seed=20260101))
    faults = {number: (each.layout, each.damage, each.fault) for number, each in verdicts.items() if each.fault}
    assert not faults
    assert len(verdicts) == NUMBER
    # The generator does what it should: every layout, and files of all fates.
    assert {each.layout for each in verdicts.values()} == set(LAYOUTS)
    fates = Counter(each.outcome for each in verdicts.values())
    assert min(fates[outcome] for outcome in (ACCEPTED, REPORTED, REFUSED)) > NUMBER // 40
