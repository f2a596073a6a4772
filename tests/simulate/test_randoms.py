"""Seeds and the fast normal generator."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from permil._kernels.simulate import fill_normal
from permil.simulate.randoms import generator, normal_state


def test_normals_are_normal_in_the_middle_and_in_the_tails():
    sample = np.empty(4_000_000)
    fill_normal(normal_state(5, "test"), sample)
    assert stats.kstest(sample, "norm").pvalue > 1e-3
    # Tail counts are Poisson; the ziggurat's last layer begins at 3.654.
    for threshold in (3.0, 3.654, 4.2):
        expected = 2 * stats.norm.sf(threshold) * sample.size
        assert abs(np.count_nonzero(np.abs(sample) > threshold) - expected) < 4 * expected**0.5
    assert abs(np.mean(sample[:-1] * sample[1:])) < 4 / sample.size**0.5


def plain_normals(state: list[int], count: int) -> list[float]:
    """Return normals by the published recipes, word by word, in plain Python."""
    word64 = 2**64 - 1

    def rotated(word: int, bits: int) -> int:
        return (word << bits | word >> (64 - bits)) & word64

    def next_word() -> int:
        result = (rotated((state[0] + state[3]) & word64, 23) + state[0]) & word64
        shifted = state[1] << 17 & word64
        state[2] ^= state[0]
        state[3] ^= state[1]
        state[1] ^= state[2]
        state[0] ^= state[3]
        state[2] ^= shifted
        state[3] = rotated(state[3], 45)
        return result

    def uniform() -> float:
        return ((next_word() >> 11) + 0.5) * 2.0**-53

    # Doornik (2005): 256 layers of one area, that of the lowest with the tail beyond 3.654.
    tail = 3.6541528853610088
    area = tail * math.exp(-0.5 * tail**2) + math.sqrt(math.pi / 2) * math.erfc(tail / math.sqrt(2))
    edges = [area / math.exp(-0.5 * tail**2), tail]
    while len(edges) < 256:
        edges.append(math.sqrt(-2 * math.log(area / edges[-1] + math.exp(-0.5 * edges[-1] ** 2))))
    edges.append(0.0)
    normals = []
    while len(normals) < count:
        word = next_word()
        layer, signed = word & 255, word - (word >> 63 << 64)
        value = (signed >> 9) * 2.0**-54 * edges[layer]
        if abs(value) >= edges[layer + 1]:
            if layer == 0:
                while True:
                    beyond = -math.log(uniform()) / tail
                    if -2 * math.log(uniform()) > beyond**2:
                        break
                value = math.copysign(tail + beyond, value)
            else:
                low, high = (math.exp(-0.5 * edge**2) for edge in edges[layer : layer + 2])
                if low + uniform() * (high - low) >= math.exp(-0.5 * value**2):
                    continue
        normals.append(value)
    return normals


def test_normals_are_those_of_the_published_recipes():
    state = normal_state(6, "recipes")
    # Some 2000 of these fall outside of the rectangle of their layer, some 40 into the tail.
    expected = plain_normals([int(word) for word in state], 150_000)
    sample = np.empty(len(expected))
    fill_normal(state, sample)
    np.testing.assert_allclose(sample, expected, rtol=1e-14)


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
