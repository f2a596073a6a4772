"""Seeds and the fast normal generator."""

from __future__ import annotations

import numpy as np
from scipy import stats

from permil.simulate.randoms import fill_normal, generator, normal_state


def test_normals_are_normal_in_the_middle_and_in_the_tails():
    sample = np.empty(4_000_000)
    fill_normal(normal_state(5, "test"), sample)
    assert stats.kstest(sample, "norm").pvalue > 1e-3
    # Tail counts are Poisson; the ziggurat's last layer begins at 3.654.
    for threshold in (3.0, 3.654, 4.2):
        expected = 2 * stats.norm.sf(threshold) * sample.size
        assert abs(np.count_nonzero(np.abs(sample) > threshold) - expected) < 4 * expected**0.5
    assert abs(np.mean(sample[:-1] * sample[1:])) < 4 / sample.size**0.5


def test_seeds_depend_on_seed_and_names_only():
    first = normal_state(1, "pixels", "R22_S11", 3)
    generator(1, "something else").normal(size=100)
    assert np.array_equal(first, normal_state(1, "pixels", "R22_S11", 3))
    for other in (
        normal_state(2, "pixels", "R22_S11", 3),
        normal_state(1, "pixels", "R22_S12", 3),
        normal_state(1, "pixels", "R22_S11", 4),
    ):
        assert not np.array_equal(first, other)
