"""The sentence: what dividing by a flat does to star fluxes."""

from __future__ import annotations

import numpy as np
import pytest

from permil.compare.hypotheses.results import FluxChange, verdict
from permil.errors import CompareError
from permil.rounding import rounded_like

PER_MIL = 1e-3


def change(before, after, error, noise=2.0):
    """Return a change between scatters in per mil, with an error of the variance in per mil squared."""
    squares = np.array([before**2 + noise**2, noise**2, after**2 - before**2, error]) * PER_MIL**2
    return FluxChange(*(float(square) for square in squares))


@pytest.mark.parametrize(
    ("before", "after", "error", "outcome"),
    [
        (3.0, 1.0, 0.5, "lowers"),
        (1.0, 3.0, 0.5, "raises"),
        (2.0, 2.0, 0.05, "does not affect"),
        (2.0, 2.05, 0.01, "does not affect"),
        (2.0, 2.4, 2.0, "cannot tell"),
        (2.0, 2.0, 2.0, "cannot tell"),
    ],
)
def test_outcomes(before, after, error, outcome):
    found = verdict(change(before, after, error), where="in the bulk of R22_S11")
    assert found.outcome == outcome
    assert found.before == pytest.approx(before * PER_MIL)
    assert found.after == pytest.approx(after * PER_MIL)
    assert "in the bulk of R22_S11" in str(found)
    if outcome != "cannot tell":
        assert outcome in found.sentence
    assert f"{rounded_like(before, 1e3 * found.change_error)} per mil" in found.sentence


def test_error_of_the_change_is_that_of_roots():
    rng = np.random.default_rng(1)
    squares = 9.0 - 4.0 + 0.3 * rng.standard_normal(20000)
    found = verdict(change(3.0, np.sqrt(5.0), 0.3))
    # The variance before is common to both.
    assert found.change_error == pytest.approx(np.std(np.sqrt(squares) - 3.0) * PER_MIL, rel=0.25)
    assert found.significance == pytest.approx(-4.0 / 0.3)


def test_scatter_that_noise_explains_gives_no_roots_of_negative_numbers():
    found = verdict(FluxChange(before=3.9e-6, noise=4.0e-6, change=-0.5e-6, error=0.1e-6))
    assert found.after == 0
    assert found.outcome == "lowers"


def test_figures_that_are_not_known():
    with pytest.raises(CompareError, match="unknown"):
        verdict(FluxChange(1e-6, 1e-6, 0.0, float("nan")))
