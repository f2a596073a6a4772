"""Matrices whose unknowns form groups, against dense algebra."""

from __future__ import annotations

import numpy as np
import pytest
from joint_bench import Boards, precision_of, simulate

from permil.flat.joint.gains import Coefficient, board_terms
from permil.flat.joint.grouped import GroupedFactor, GroupedMatrix, PriorTerms
from permil.flat.joint.newton import Curvature
from permil.flat.joint.normal import normal_equations
from permil.flat.joint.solve import solve_joint

SIZE = 40
CANDIDATES = np.arange(12, 32)
REST = np.r_[0:12, 32:SIZE]


def posed(seed, *, held=300.0):
    """A matrix with five groups of four unknowns, a prior in parts, and their sum."""
    rng = np.random.default_rng(seed)
    matrix = np.zeros((SIZE, SIZE))
    for members in CANDIDATES.reshape(5, 4):
        coupled = np.r_[members, rng.choice(REST, 7, replace=False)]
        rows = rng.standard_normal((9, coupled.size))
        matrix[np.ix_(coupled, coupled)] += rows.T @ rows
    rows = rng.standard_normal((30, REST.size))
    matrix[np.ix_(REST, REST)] += rows.T @ rows
    diagonal, sums = np.zeros(SIZE), np.zeros((SIZE, 2))
    diagonal[12:32], diagonal[36:] = rng.uniform(1, 2, 20), 0.5
    sums[12:28:2, 0] = sums[13:28:2, 1] = held
    block = np.cov(rng.standard_normal((6, 30)))
    total = matrix + np.diag(diagonal) + sums @ sums.T
    total[2:8, 2:8] += block
    return matrix, PriorTerms(diagonal, [(2, block)], sums), total


def grouped(matrix):
    return GroupedMatrix.of(np.triu(matrix), CANDIDATES)


def test_groups_are_what_the_matrix_couples():
    matrix, prior, total = posed(1)
    found = grouped(matrix)
    assert [list(group.members) for group in found.groups] == CANDIDATES.reshape(5, 4).tolist()
    vector = np.random.default_rng(0).standard_normal(SIZE)
    np.testing.assert_allclose(found.times(vector), matrix @ vector, atol=1e-12)
    np.testing.assert_allclose(found.times(vector) + prior.times(vector), total @ vector, rtol=1e-9)
    np.testing.assert_allclose(found.diagonal + prior.whole_diagonal, np.diag(total))
    matrix[12, 20] = matrix[20, 12] = 0.1
    assert sorted(len(group.members) for group in grouped(matrix).groups) == [4, 4, 4, 8]


@pytest.mark.parametrize("held", [0.0, 300.0])
def test_the_factor_is_that_of_the_whole_matrix(held):
    matrix, prior, total = posed(2, held=held)
    factor, expected = grouped(matrix).factor(prior), np.linalg.inv(total)
    unit = np.eye(SIZE)
    np.testing.assert_allclose(factor.solve(unit), expected, atol=1e-9)
    root = factor.whiten(unit)
    np.testing.assert_allclose(root.T @ root, expected, atol=1e-9)
    np.testing.assert_allclose(factor.unwhiten(unit), root.T, atol=1e-12)
    np.testing.assert_allclose(factor.solve(unit[3]), expected[3], atol=1e-9)
    for unknowns in (np.arange(SIZE), np.array([1, 5, 13, 14, 19, 33]), np.array([0, 39]), np.array([12, 13, 31])):
        np.testing.assert_allclose(factor.covariance(unknowns), expected[np.ix_(unknowns, unknowns)], atol=1e-9)
    change = 0.3 * np.eye(6)
    total[2:8, 2:8] += change
    np.testing.assert_allclose(factor.plus(2, change).solve(unit), np.linalg.inv(total), atol=1e-9)
    np.testing.assert_allclose(GroupedFactor.of(total).solve(unit), np.linalg.inv(total), atol=1e-9)


@pytest.mark.parametrize("last", [range(2, 8), range(28, 32), range(12, 28), range(32, 40)])
@pytest.mark.parametrize("overwrite", [False, True])
def test_eliminating_all_others_leaves_what_is_known_of_some(last, overwrite):
    matrix, prior, total = posed(3)
    last, right = np.array(last), np.random.default_rng(0).standard_normal((SIZE, 2))
    others = np.setdiff1d(np.arange(SIZE), last)
    follow = np.linalg.solve(total[np.ix_(others, others)], np.hstack([matrix[np.ix_(others, last)], right[others]])).T
    found, left = grouped(matrix).without_others(prior, right, last, overwrite=overwrite)
    expected = matrix[np.ix_(last, last)] - matrix[np.ix_(last, others)] @ follow[: len(last)].T
    np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_allclose(left, right[last] - matrix[np.ix_(last, others)] @ follow[len(last) :].T, atol=1e-9)


def test_an_unknown_without_information_is_not_determined():
    matrix, prior, _ = posed(4)
    matrix[0], matrix[:, 0] = 0.0, 0.0
    with pytest.raises(np.linalg.LinAlgError):
        grouped(matrix).factor(prior)


@pytest.mark.parametrize("whole", [False, True])
def test_position_errors_and_gains_of_a_board_form_a_group_where_exposures_read_few_detectors(whole):
    campaign = simulate(
        np.random.default_rng(5), columns=3, rows=2, pixels=6, pixel_mm=3.0, images=1, whole=whole, boards=Boards()
    )
    terms = board_terms(campaign.exposures.time, campaign.boards, Coefficient(6.5e-4))
    solution = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=8.0, boards=terms, with_weather=False)
    assert sum(len(group.members) > 8 for group in solution.factor.groups) == (1 if whole else 6)
    equations = normal_equations(
        solution.model,
        campaign.detectors,
        solution.vector,
        threshold=solution.threshold,
        exposure_weights=solution.exposure_weights,
    )
    curvature = Curvature(equations, solution.prior)
    curvature.factorise(solution.prior)
    assert len(curvature.factor.groups) == len(solution.factor.groups)
    expected = np.linalg.inv(precision_of(solution, campaign.detectors))
    errors = np.sqrt(np.diag(expected))
    covariance = curvature.factor.covariance(np.arange(solution.model.size))
    np.testing.assert_allclose(covariance / np.outer(errors, errors), expected / np.outer(errors, errors), atol=1e-5)
