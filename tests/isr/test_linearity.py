"""Linearity curves against their own inverse and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from permil.errors import CalibrationError
from permil.isr.calibration.linearity import LinearityCurve, linearity_from_table


@given(a1=st.floats(-5e-7, 5e-7), light=st.floats(0, 1.5e5))
def test_the_quadratic_undoes_its_inverse(a1, light):
    measured = 2 * light / (1 + np.sqrt(1 + 4 * a1 * light))
    assert LinearityCurve.quadratic(a1)(measured) == pytest.approx(light, rel=1e-12, abs=1e-9)


def test_noise_below_zero_is_not_bent():
    np.testing.assert_allclose(LinearityCurve.quadratic(1e-6)([-20.0, -1.0]), [-20.0, -1.0])


def test_knots_follow_pchip_and_go_on_straight():
    adu = np.array([0, 1000, 20000, 60000, 120000], dtype=float)
    corrected = adu * (1 + 2e-7 * adu)
    curve = LinearityCurve.through(adu, corrected)
    inside = np.linspace(0, 119999, 500)
    reference = PchipInterpolator(adu, corrected)
    np.testing.assert_allclose(curve(inside), reference(inside), rtol=1e-12)
    assert curve.limit == 120000
    slope = float(reference.derivative()(120000))
    assert curve(130000.0) == pytest.approx(corrected[-1] + 10000 * slope)
    assert curve(-10.0) == pytest.approx(-10 * float(reference.derivative()(0)))


def test_a_curve_without_a_knot_at_zero_starts_there():
    curve = LinearityCurve.through([100.0, 1000.0], [110.0, 1100.0])
    assert curve(0.0) == 0
    assert curve(50.0) == pytest.approx(55.0, rel=1e-3)


@pytest.mark.parametrize(
    ("adu", "corrected"), [([], []), ([-5.0], [0.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])]
)
def test_knots_that_do_not_rise_are_errors(adu, corrected):
    with pytest.raises(CalibrationError, match="increase"):
        LinearityCurve.through(adu, corrected)


def coefficients_table(detector):
    return Table(
        {
            "detector": [detector.name] * 16,
            "segment": [amplifier.name for amplifier in detector.amplifiers],
            "a1": np.arange(16) * 1e-8,
        }
    )


def test_tables_of_coefficients_and_of_knots_are_read(detector):
    curves = linearity_from_table(coefficients_table(detector)[::-1], detector)
    assert [curve(1e4) - 1e4 for curve in curves] == pytest.approx(np.arange(16))
    rows = [
        (detector.name, amplifier.number, adu, adu * factor)
        for amplifier, factor in zip(detector.amplifiers, 1 + 0.01 * np.arange(16), strict=True)
        for adu in (50000.0, 10000.0)
    ]
    knots = Table(rows=rows, names=("detector", "amp", "adu", "corrected_adu"))
    assert [curve(30000.0) / 30000 for curve in linearity_from_table(knots, detector)] == pytest.approx(1 + 0.01 * np.arange(16))


def test_incomplete_tables_are_errors(detector):
    table = coefficients_table(detector)
    with pytest.raises(CalibrationError, match=r"R22_S11.*C00"):
        linearity_from_table(table[:-1], detector)
    with pytest.raises(CalibrationError, match="twice"):
        linearity_from_table(table[[*range(16), 3]], detector)
    table["a1"][0] = np.nan
    with pytest.raises(CalibrationError, match="finite"):
        linearity_from_table(table, detector)
    table.remove_column("a1")
    with pytest.raises(CalibrationError, match="a1"):
        linearity_from_table(table, detector)
    falling = Table(
        rows=[(detector.name, amplifier.name, adu, -adu) for amplifier in detector.amplifiers for adu in (1.0, 2.0)],
        names=("detector", "segment", "adu", "corrected_adu"),
    )
    with pytest.raises(CalibrationError, match="C10"):
        linearity_from_table(falling, detector)
