"""Outliers: bad nodes are found, rough structure is not taken for them, and where both are possible the error says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from beams import lattice_inside, plateau, rms, scan, scan_positions, structured_beam
from hypothesis import given, settings
from hypothesis import strategies as st

from permil.beam import BeamModel, BeamNodes
from permil.beam.fits import model_from_hdus, model_to_hdus
from permil.beam.gaussian_process import GaussianProcess
from permil.beam.likelihood import Variances, ladder_family
from permil.beam.outliers import hypotheses
from permil.beam.parameters import Hull, hole_of, holes_of, observations_of
from permil.products import write_hdus

SPACING_MM = 80.0 / 11.0
DIP_MM = 4.5
AMBIGUOUS = 40


def changed(nodes: BeamNodes, rows: list[int], factor: float) -> BeamNodes:
    signal = nodes.signal.copy()
    signal[rows] *= factor
    return BeamNodes.from_columns(nodes.x_mm, nodes.y_mm, signal)


def ambiguous_scan() -> BeamNodes:
    """Return a scan of rough structure with one node that may be bad or sit in a dip."""
    return changed(scan(structured_beam(41), 12, 41), [AMBIGUOUS], 0.98)


@pytest.fixture(scope="module")
def ambiguous_model() -> BeamModel:
    return BeamModel.from_nodes(ambiguous_scan())


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([64, 65], id="side by side"),
        pytest.param([40, 52, 64], id="three in a row"),
        pytest.param([30, 77, 101], id="three apart"),
        pytest.param([5, 6], id="at the border"),
    ],
)
def test_bad_nodes_do_not_hide_each_other(rows: list[int], seed: int) -> None:
    model = BeamModel.from_nodes(changed(scan(plateau, 12, 7400 + seed), rows, 1.02))
    assert {outlier.row for outlier in model.outliers if outlier.probability > 0.5} == set(rows)
    ux, uy = lattice_inside(39.0, 60)
    x, y = scan_positions(12)
    near = np.min([np.hypot(ux + x[row], uy + y[row]) for row in rows], axis=0) < 1.5 * SPACING_MM
    signal, error = model.predict_signal(ux[near], uy[near])
    assert rms((signal / (5e4 * plateau(ux[near], uy[near])) - 1.0) / (error / signal)) < 1.3


@pytest.mark.parametrize("seeds", [3, pytest.param(6, marks=pytest.mark.full)])
def test_corners_of_a_clean_scan_are_no_outliers(seeds: int) -> None:
    models = [BeamModel.from_nodes(scan(structured_beam(8300 + seed), 12, seed)) for seed in range(seeds)]
    assert sum(outlier.probability > 0.5 for model in models for outlier in model.outliers) == 0


@pytest.mark.parametrize("seeds", [2, pytest.param(8, marks=pytest.mark.full)])
def test_errors_hold_beside_real_structure_that_looks_like_an_outlier(seeds: int) -> None:
    """The beam has a narrow dip at a node of the interior or of the border."""
    pulls = []
    x, y = scan_positions(12)
    for seed in range(seeds):
        rng = np.random.default_rng(9100 + seed)
        row = int(rng.choice([4, 48, 71, 139] if seed % 2 else [40, 54, 77, 101]))
        rough, depth = structured_beam(9100 + seed), rng.uniform(0.014, 0.03)

        def beam(ux: np.ndarray, uy: np.ndarray) -> np.ndarray:
            distance = np.hypot(ux + x[row], uy + y[row])  # noqa: B023  called in this turn of the loop
            return rough(ux, uy) * (1.0 - depth * np.exp(-0.5 * (distance / DIP_MM) ** 2))  # noqa: B023

        model = BeamModel.from_nodes(scan(beam, 12, seed))
        ux, uy = lattice_inside(39.5, 80)
        near = np.hypot(ux + x[row], uy + y[row]) < 1.5 * SPACING_MM
        signal, error = model.predict_signal(ux[near], uy[near])
        pulls.append(rms((signal / (5e4 * beam(ux[near], uy[near])) - 1.0) / (error / signal)))
    assert max(pulls) < 1.3


def test_an_ambiguous_node_is_listed_with_its_probability(ambiguous_model: BeamModel) -> None:
    (outlier,) = ambiguous_model.outliers
    assert outlier.row == AMBIGUOUS
    assert 0.01 < outlier.probability < 0.99
    assert f"{AMBIGUOUS} ({outlier.deviation:+.2%}, probability {outlier.probability:.2g})" in ambiguous_model.describe()


def test_the_error_at_an_ambiguous_node_holds_both_cases(ambiguous_model: BeamModel) -> None:
    nodes = ambiguous_scan()
    without = BeamModel.from_nodes(nodes[np.arange(len(nodes)) != AMBIGUOUS])
    place = nodes.ux[AMBIGUOUS], nodes.uy[AMBIGUOUS]
    difference = np.log(nodes.signal[AMBIGUOUS] / without.predict_signal(*place)[0])
    probability = ambiguous_model.outliers[0].probability
    signal, error = ambiguous_model.predict_signal(*place)
    assert error / signal > 0.8 * np.sqrt(probability * (1.0 - probability)) * abs(difference)
    assert error / signal < abs(difference)


def test_models_with_an_ambiguous_node_are_read_as_written(tmp_path: Path, ambiguous_model: BeamModel) -> None:
    write_hdus(tmp_path / "beam.fits", model_to_hdus(ambiguous_model))
    again = model_from_hdus(tmp_path / "beam.fits")
    ux, uy = lattice_inside(38.0, 20)
    for first, second in zip(ambiguous_model.evaluate(ux, uy), again.evaluate(ux, uy), strict=True):
        assert first.tobytes() == second.tobytes()
    assert again.outliers == ambiguous_model.outliers


@settings(max_examples=50)
@given(probability=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=3))
def test_choices_of_outliers_have_the_probability_of_each_node(probability: list[float]) -> None:
    given_probability = np.array([0.0, *probability])
    extra = np.array([0.0, *np.arange(1.0, len(probability) + 1.0)])
    choices = list(hypotheses(extra, given_probability))
    assert sum(weight for weight, _ in choices) == pytest.approx(1.0)
    found = sum(weight * (chosen > 0.0) for weight, chosen in choices)
    # Choices that are left out have less than 1 % each.
    np.testing.assert_allclose(found, given_probability, atol=0.01 * 2 ** len(probability))
    assert all(np.all((chosen == 0.0) | (chosen == extra)) for _, chosen in choices)


def test_left_out_holes_are_what_a_fit_without_them_predicts() -> None:
    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(-40.0, 40.0, 11), np.linspace(-40.0, 40.0, 5), indexing="ij"))
    rng = np.random.default_rng(3)
    signal = structured_beam(3)(-x, -y) * (1.0 + 3e-4 * rng.standard_normal(x.size))
    nodes = BeamNodes.from_columns(x, y, signal).canonical()
    hull = Hull.of(nodes.u)
    family = ladder_family((0.0, 0.0), float(np.sqrt(hull.area)), 8.0)
    variances = Variances(np.linspace(1e-5, 3e-5, len(family.kernels)), 1e-7, 0.0)

    def process_of(part: BeamNodes, hole: float) -> GaussianProcess:
        return GaussianProcess(observations_of(part, np.zeros(len(part)), None), family, variances, part.u, hole)

    hole = hole_of(nodes, hull)
    groups = holes_of(nodes.u, hole)
    left_out = process_of(nodes, hole).leave_hole_out
    for index in (0, 13, 27, 54):
        assert groups[index][0] == index
        assert groups[index].size == (2 if index in (0, 54) else 3)
        others = np.setdiff1d(np.arange(len(nodes)), groups[index])
        mean, variance = process_of(nodes[others], 0.0).mean_and_variance(nodes.u[index : index + 1])
        assert left_out.deviation[index] == pytest.approx(np.log(nodes.signal[index]) - mean[0], abs=1e-8)
        assert left_out.variance[index] == pytest.approx(variance[0] + 1e-7, rel=1e-4)


@pytest.mark.parametrize("count", [5, 12, 24])
def test_on_a_square_grid_single_nodes_are_left_out(count: int) -> None:
    nodes = scan(plateau, count, 1)
    keep = np.arange(len(nodes)) != len(nodes) // 2
    for part in (nodes, nodes[keep]) if count > 5 else (nodes,):
        assert holes_of(part.u, hole_of(part, Hull.of(part.u))) == []
