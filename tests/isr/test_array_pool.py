"""Memory that is used again."""

import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from permil.arrays import ArrayPool

SHAPE = (300, 70)


def place(array):
    return array.ctypes.data


def test_memory_of_an_array_that_is_gone_serves_the_next_one():
    pool = ArrayPool()
    first = pool.empty(SHAPE, np.float32)
    where = place(first)
    del first
    # Of another kind, of the same size.
    assert place(pool.empty(SHAPE, np.int32)) == where


@pytest.mark.parametrize(
    "part",
    [lambda whole: whole[2:5], lambda whole: whole.T, lambda whole: whole.view(np.int32), lambda whole: whole.ravel()[::7]],
)
def test_memory_is_kept_as_long_as_a_part_of_an_array_is(part):
    pool = ArrayPool()
    whole = pool.empty(SHAPE, np.float32)
    where, kept = place(whole), part(whole)
    del whole
    gc.collect()
    others = [pool.empty(SHAPE, np.float32) for _ in range(3)]
    assert where not in map(place, others)
    del kept
    assert place(pool.empty(SHAPE, np.float32)) == where


def test_arrays_outlive_their_rooms():
    pool = ArrayPool()
    array = pool.empty(SHAPE, np.float32)
    array[:] = np.arange(SHAPE[1])
    del pool
    gc.collect()
    np.testing.assert_array_equal(array, np.broadcast_to(np.arange(SHAPE[1], dtype=np.float32), SHAPE))


@given(st.lists(st.tuples(st.sampled_from([np.uint8, np.int16, np.float32]), st.integers(1, 3), st.booleans()), max_size=30))
def test_no_two_arrays_share_memory(steps):
    pool, alive = ArrayPool(), []
    for number, (kind, n_rows, forget) in enumerate(steps):
        array = pool.empty((n_rows, 4), kind)
        assert array.shape == (n_rows, 4)
        assert array.dtype == kind
        assert array.flags.c_contiguous
        assert array.flags.writeable
        array.fill(number)
        alive.append((array, number))
        del array
        if forget:
            del alive[0]
        for each, content in alive:
            assert (each == content).all()
