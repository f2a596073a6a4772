"""Tridiagonal forms give the same quadratic forms and determinants as the matrices themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from permil.flat.joint.factor import Tridiagonal


@given(size=st.integers(2, 40), rank=st.integers(0, 40), seed=st.integers(0, 2**16), variance=st.floats(0.0, 1e5))
def test_products_and_determinants_are_those_of_the_matrix(size, rank, seed, variance):
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((size, rank))
    columns = rng.standard_normal((size, 3))
    whole = np.eye(size) + variance * half @ half.T
    matrix = Tridiagonal(half @ half.T)
    products, log_determinant = matrix.products(matrix.turned(columns), variance)
    assert products == pytest.approx(columns.T @ np.linalg.solve(whole, columns), rel=1e-6, abs=1e-6)
    assert log_determinant == pytest.approx(np.linalg.slogdet(whole)[1], rel=1e-9, abs=1e-9)


def test_turned_columns_keep_their_products():
    rng = np.random.default_rng(1)
    half, columns = rng.standard_normal((30, 30)), rng.standard_normal((30, 4))
    turned = Tridiagonal(half @ half.T).turned(columns)
    assert turned.T @ turned == pytest.approx(columns.T @ columns)
