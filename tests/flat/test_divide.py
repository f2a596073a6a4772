"""The solver `divide` against drawn data with known response."""

from __future__ import annotations

import numpy as np
import pytest

from permil.camera import Camera
from permil.errors import FlatError
from permil.excess_scatter import variance_of_root
from permil.flat.combine import PointingCombination
from permil.flat.composite import composite_median, response_histogram
from permil.flat.divide import PointingWeights, divide_by_beam
from permil.flat.metrics import PREDICTION, flat_metrics
from permil.flat.pointings import LitImage
from permil.flat.shared_errors import Plane
from permil.products import MaskPlane

SHAPE = (80, 96)


def _pointing(rng: np.random.Generator, truth: np.ndarray, *, electrons: float, slope: float, beam_error: float = 1e-4):
    beam = 1 - slope * np.linspace(0, 1, SHAPE[1])[None, :] * np.ones(SHAPE)
    expected = electrons * truth * beam
    signal = rng.normal(expected, np.sqrt(expected)).astype(np.float32)
    return LitImage(
        signal,
        expected.astype(np.float32),
        np.zeros(SHAPE, dtype=np.int32),
        beam.astype(np.float32),
        np.full(SHAPE, beam_error, dtype=np.float32),
        scale=electrons,
        scale_error=0.0,
    )


def _add(combination: PointingCombination, lit: LitImage) -> PointingWeights:
    weights = PointingWeights.of(lit)
    combination.add(lit, weights)
    return weights


def test_combination_is_unbiased_with_true_errors() -> None:
    rng = np.random.default_rng(1)
    truth = 1 + 0.01 * rng.standard_normal(SHAPE)
    combination = PointingCombination(SHAPE)
    for electrons, slope in [(2e5, 0.0), (5e4, 0.3), (4e5, 0.1), (1e5, -0.2)]:
        _add(combination, _pointing(rng, truth, electrons=electrons, slope=slope))
    flat = combination.result()
    pulls = (flat.response - truth) / np.sqrt(flat.variance)
    n = pulls.size
    assert abs(pulls.mean()) < 4 / np.sqrt(n)
    assert abs(np.mean(pulls**2) - 1) < 4 * np.sqrt(2 / n)


def test_combined_variance_is_near_the_best_possible() -> None:
    rng = np.random.default_rng(2)
    levels = [2e5, 5e4, 4e5]
    combination = PointingCombination(SHAPE)
    for electrons in levels:
        _add(combination, _pointing(rng, np.ones(SHAPE), electrons=electrons, slope=0.0, beam_error=0.0))
    best = 1 / sum(levels)
    assert np.median(combination.result().variance) == pytest.approx(best, rel=0.01)


def test_badly_known_beam_counts_less() -> None:
    rng = np.random.default_rng(3)
    combination = PointingCombination(SHAPE)
    _add(combination, _pointing(rng, np.ones(SHAPE), electrons=1e6, slope=0.0, beam_error=0.0))
    _add(combination, _pointing(rng, np.full(SHAPE, 1.1), electrons=1e6, slope=0.0, beam_error=0.1))
    assert np.median(combination.result().response) == pytest.approx(1, abs=2e-3)


def test_pixels_without_data_stay_without() -> None:
    rng = np.random.default_rng(4)
    first = _pointing(rng, np.ones(SHAPE), electrons=1e5, slope=0.0)
    first.mask[0, 0] = int(MaskPlane.SAT)
    first.mask[1, 1] = int(MaskPlane.EDGE)
    second = _pointing(rng, np.ones(SHAPE), electrons=1e5, slope=0.0)
    second.mask[0, :] = int(MaskPlane.BAD)
    combination = PointingCombination(SHAPE)
    _add(combination, first)
    _add(combination, second)
    flat = combination.result()
    assert np.isnan(flat.response[0, 0])
    assert flat.mask[0, 0] & int(MaskPlane.NO_DATA)
    assert flat.count[0, 1] == 1
    assert flat.mask[0, 1] == 0
    assert flat.mask[1, 1] == int(MaskPlane.EDGE)


def test_outside_the_beam_is_no_data() -> None:
    beam = np.ones(SHAPE, np.float32)
    beam[:, :10] = np.nan
    hundred = np.full(SHAPE, 100, np.float32)
    error = np.where(np.isnan(beam), np.nan, 1e-3).astype(np.float32)
    lit = LitImage(hundred, hundred, np.zeros(SHAPE, np.int32), beam, error, scale=100.0, scale_error=0.0)
    combination = PointingCombination(SHAPE)
    _add(combination, lit)
    combined = combination.result()
    assert np.array_equal((combined.mask & int(MaskPlane.NO_DATA)) != 0, np.isnan(beam))
    assert np.array_equal(combined.count, (~np.isnan(beam)).astype(int))
    flat = divide_by_beam(lit)
    assert np.all(flat.mask[:, :10] & int(MaskPlane.NO_DATA))
    assert np.all(flat.mask[:, 10:] == 0)


def test_no_light_at_all_is_an_error() -> None:
    with pytest.raises(FlatError, match="no pointing has light"):
        PointingCombination(SHAPE).result()


@pytest.mark.parametrize("photodiode", [0.0, -1.0, np.nan])
def test_stack_without_photodiode_is_an_error(photodiode: float) -> None:
    ones = np.ones(SHAPE, np.float32)
    lit = LitImage(ones, ones, np.zeros(SHAPE, np.int32), ones, ones, scale=photodiode, scale_error=0.0)
    with pytest.raises(FlatError, match="photodiode"):
        _add(PointingCombination(SHAPE), lit)
    with pytest.raises(FlatError, match="photodiode"):
        divide_by_beam(lit)


def test_composite_median_is_that_of_all_pixels_together() -> None:
    rng = np.random.default_rng(6)
    detectors = [rng.normal(level, 0.01, 40001) for level in (0.9, 1.0, 1.07)]
    good = [rng.uniform(size=40001) > 0.1 for _ in detectors]
    median = composite_median(response_histogram(response, keep) for response, keep in zip(detectors, good, strict=True))
    together = np.median(np.concatenate([response[keep] for response, keep in zip(detectors, good, strict=True)]))
    assert median == pytest.approx(together, rel=5e-5)


def test_composite_of_nothing_is_an_error() -> None:
    with pytest.raises(FlatError, match="at least one"):
        composite_median([])
    with pytest.raises(FlatError, match="no good pixel"):
        response_histogram(np.ones(5), np.zeros(5, bool))


def test_scatter_is_that_of_the_pointings() -> None:
    rng = np.random.default_rng(7)
    combination = PointingCombination(SHAPE)
    pointings = [_pointing(rng, np.ones(SHAPE), electrons=1e5, slope=slope) for slope in (0.0, 0.2, 0.4, -0.1)]
    weights = [_add(combination, pointing).at(pointing) for pointing in pointings]
    responses = np.array([pointing.signal / (pointing.scale * pointing.beam.astype(float)) for pointing in pointings])
    mean = np.average(responses, axis=0, weights=weights)
    scatter = np.sqrt(np.average((responses - mean) ** 2, axis=0, weights=weights))
    flat = combination.result()
    np.testing.assert_allclose(flat.response, mean, rtol=1e-6)
    # Responses are of single precision.
    np.testing.assert_allclose(flat.scatter, scatter, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("excess", [0.0, 0.5e-3, 4e-3])
def test_scatter_beyond_noise_is_found(bin8: Camera, excess: float) -> None:
    """Each pointing is off by a pattern of its own, of which no error speaks."""
    detector, rng = bin8["R22_S11"], np.random.default_rng(71)
    rows, columns = np.mgrid[: detector.ny, : detector.nx]
    combination = PointingCombination(detector.shape)
    sums, levels = np.zeros(3), np.array([2e5, 1e5, 3e5, 5e4, 2e5])
    for number, electrons in enumerate(levels):
        pattern = np.sqrt(2) * excess * np.sin(2 * np.pi * (rows + (number + 1) * columns) / 60)
        beam = 1 - 0.2 * number * columns / detector.nx
        expected = electrons * beam * (1 + pattern)
        planes = [
            np.asarray(plane, dtype=np.float32) for plane in (rng.normal(expected, np.sqrt(expected)), expected, beam, 0 * beam)
        ]
        lit = LitImage(*planes[:2], np.zeros(detector.shape, np.int32), *planes[2:], scale=electrons, scale_error=0.0)
        _add(combination, lit)
        weight = electrons * beam
        sums += [np.mean(weight * pattern**2), np.mean(weight * pattern), np.mean(weight)]
    flat = combination.result()
    everything = np.ones(detector.shape, dtype=bool)
    plane = Plane(1.0, 0.0, 0.0, np.zeros((3, 3)))
    row = flat_metrics(flat, everything, detector=detector, led="red", plane=plane, steps=None)[0]
    predicted = np.sqrt(np.mean(flat.predicted_scatter.astype(float) ** 2))
    assert row["scatter_noise"] == pytest.approx(predicted, rel=1e-3)
    assert np.mean(flat.scatter.astype(float) ** 2) - predicted**2 == pytest.approx(
        # Weighted patterns of five phases hardly have a mean of their own.
        sums[0] / sums[2] * (1 - (levels**2).sum() / levels.sum() ** 2), abs=0.15 * excess**2 + 2e-8
    )  # fmt: skip
    found, error = variance_of_root(row["scatter_excess"], row["scatter_excess_err"])
    assert abs(found - excess**2 * 0.75) < 3 * error + 0.15 * excess**2
    # One per cent of the predicted variance.
    assert error == pytest.approx(PREDICTION * predicted**2, rel=0.5)


def test_one_pointing_says_nothing_of_scatter(bin8: Camera) -> None:
    detector = bin8["R22_S11"]
    ones = np.ones(detector.shape, np.float32)
    combination = PointingCombination(detector.shape)
    _add(combination, LitImage(ones, 1e-6 * ones, np.zeros(ones.shape, np.int32), ones, 0 * ones, scale=1.0, scale_error=0.0))
    plane = Plane(1.0, 0.0, 0.0, np.zeros((3, 3)))
    rows = flat_metrics(combination.result(), ones > 0, detector=detector, led="red", plane=plane, steps=None)
    assert all(np.isnan(row["scatter_excess"]) and np.isnan(row["scatter_excess_err"]) for row in rows)


def test_hot_and_dead_pixels_are_flagged_and_good_ones_are_not() -> None:
    rng = np.random.default_rng(8)
    truth = 1 + 0.005 * rng.standard_normal(SHAPE)
    truth[3, :] = 0.6
    truth[10, 10] = 0.05
    combination = PointingCombination(SHAPE)
    for slope in (0.0, 0.3, 0.5, -0.3, 0.6):
        pointing = _pointing(rng, truth, electrons=1e5, slope=slope)
        # A hot pixel adds the same charge to every exposure: less of it where the beam is bright.
        pointing.signal[20, 80] += 0.1 * pointing.scale
        _add(combination, pointing)
    flat = combination.result()
    suspect = np.argwhere(flat.mask & int(MaskPlane.SUSPECT))
    assert suspect.tolist() == [[20, 80]]
    assert np.argwhere(flat.mask & int(MaskPlane.BAD)).tolist() == [[10, 10]]


def test_a_wrong_beam_does_not_flag_whole_regions() -> None:
    rng = np.random.default_rng(9)
    combination = PointingCombination(SHAPE)
    wrong = 0.01 * np.cos(np.arange(SHAPE[1]) / 25)
    for number in range(5):
        pointing = _pointing(rng, np.ones(SHAPE), electrons=1e6, slope=0.0)
        pointing.signal[:] *= 1 + wrong * (-1) ** number
        _add(combination, pointing)
    assert np.mean((combination.result().mask & int(MaskPlane.SUSPECT)) != 0) < 1e-3
