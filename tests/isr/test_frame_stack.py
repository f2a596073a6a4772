"""Stacks against truth, against a brute-force implementation, and against what statistics expect."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from permil.errors import InputError, PhotodiodeError
from permil.isr import FrameStack, frame_light
from permil.isr.stack import light_steps
from permil.products import MaskPlane

READ_NOISE = 6.0
NOISE = np.full(16, READ_NOISE**2)
NOT_MASKED = 0


def draw(rng, signal, shape):
    return (rng.poisson(signal, shape) + rng.normal(0, READ_NOISE, shape)).astype(np.float32)


def stack_of(detector, frames, *, masks=None, light=None, threshold=5.0, poisson=True, noise=NOISE):
    frame_stack = FrameStack(detector, threshold=threshold, poisson=poisson)
    light = np.ones(len(frames)) if light is None else light
    for index, frame in enumerate(frames):
        mask = np.zeros(detector.shape, dtype=np.int16) if masks is None else masks[index]
        frame_stack.add(frame.astype(np.float32), mask, noise, light=light[index])
    return frame_stack.result()


def brute_force(frames, present, light, noise_variance, threshold):
    """Average a stack of pixels (frames first) by testing every measurement against the mean of the others."""
    q = light / light[0]
    present = present.copy()
    allowed = present.sum(axis=0) // 2
    while True:
        weight = np.where(present, q[:, np.newaxis], 0)
        signal = np.where(present, frames, 0)
        others = weight.sum(axis=0) - weight
        count = present.sum(axis=0) - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = (signal.sum(axis=0) - signal) / others
            spread = np.maximum(mean, 0) * (1 / q[:, np.newaxis] + 1 / others)
            spread += noise_variance * (1 / q[:, np.newaxis] ** 2 + count / others**2)
            sigma = np.where(present & (count > 0), np.abs(frames / q[:, np.newaxis] - mean) / np.sqrt(spread), 0)
        worst = sigma.argmax(axis=0)
        hit = (sigma.max(axis=0) > threshold) & (allowed > 0)
        if not hit.any():
            break
        present[worst[hit], np.flatnonzero(hit)] = False
        allowed -= hit
    weight = np.where(present, q[:, np.newaxis], 0).sum(axis=0)
    signal = np.where(present, frames, 0).sum(axis=0)
    kept = present.sum(axis=0)
    mean = signal / weight * q.mean()
    variance = (q.mean() / weight) ** 2 * (np.maximum(signal, 0) + kept * noise_variance)
    return mean, variance, kept


@pytest.mark.parametrize("n_frames", [1, 2, 3, 4, 5, 6, 9])
def test_streaming_agrees_with_brute_force(detector, n_frames):
    rng = np.random.default_rng(n_frames)
    light = rng.uniform(0.7, 1.4, n_frames)
    scene = rng.uniform(300, 30000, detector.shape)
    frames = np.stack([draw(rng, scene * each / light[0], detector.shape) for each in light]).astype(np.float32)
    # One outlier of either sign in a pixel of 50, a second one now and then: 3 extremes at most are kept apart.
    hits = rng.uniform(size=frames.shape) < 0.02 / n_frames
    frames += np.where(hits, rng.choice([-200, 500, 3000, 40000], size=frames.shape), 0).astype(np.float32)
    masks = np.where(rng.uniform(size=frames.shape) < 0.01, MaskPlane.SAT, 0).astype(np.int16)
    masks[0][masks.all(axis=0)] = 0
    stack = stack_of(detector, frames, masks=masks, light=light)
    present = masks.reshape(n_frames, -1) == 0
    flat = frames.reshape(n_frames, -1).astype(float)
    mean, variance, kept = brute_force(flat, present, light, READ_NOISE**2, 5.0)
    # Only extremes are tested: of frames with different light, one between them can deviate by more sigma. That is rare.
    same = stack.kept.ravel() == kept
    assert np.count_nonzero(~same) <= 3
    np.testing.assert_array_equal(stack.rejected.ravel()[same], (present.sum(axis=0) - kept)[same])
    np.testing.assert_allclose(stack.image.ravel()[same], mean[same], rtol=2e-6)
    np.testing.assert_allclose(stack.variance.ravel()[same], variance[same], rtol=1e-5)
    assert n_frames == 1 or stack.n_rejected > 500
    assert stack.n_left_out == np.count_nonzero(masks)


@pytest.mark.parametrize("n_frames", [5, 25])
@pytest.mark.parametrize("signal", [40.0, 50000.0])
def test_mean_is_unbiased_and_variance_true(detector, n_frames, signal):
    rng = np.random.default_rng(7)
    stack = stack_of(detector, [draw(rng, signal, detector.shape) for _ in range(n_frames)])
    error = np.sqrt((signal + READ_NOISE**2) / n_frames)
    residual = (stack.image - signal).astype(float)
    assert abs(residual.mean()) < 0.02 * error
    assert np.mean(residual**2 / ((signal + READ_NOISE**2) / n_frames)) == pytest.approx(1, abs=0.02)
    # The variance plane comes from the signal itself; at 40 electrons that correlates with the residual.
    assert np.mean(residual**2 / stack.variance) == pytest.approx(1, abs=0.02 if signal > 1000 else 0.03)
    assert np.nanmean(stack.chi_square) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("n_frames", [5, 25])
def test_cosmic_rays_cost_less_than_one_percent(detector, n_frames):
    rng = np.random.default_rng(8)
    signal = 50000.0
    clean = [draw(rng, signal, detector.shape) for _ in range(n_frames)]
    dirty = []
    for frame in clean:
        hit = rng.uniform(size=detector.shape) < 1e-3
        # Charge per pixel of a track: between 100 and 30000 electrons, evenly in its logarithm.
        charge = np.exp(rng.uniform(np.log(100), np.log(30000), detector.shape))
        dirty.append(frame + np.where(hit, charge, 0).astype(np.float32))
    ideal = np.sqrt((signal + READ_NOISE**2) / n_frames)
    stack = stack_of(detector, dirty)
    assert np.sqrt(np.mean((stack.image - signal) ** 2)) < 1.01 * ideal
    plain = np.mean(dirty, axis=0, dtype=float)
    assert np.sqrt(np.mean((plain - signal) ** 2)) > 1.04 * ideal
    assert abs(np.mean(stack.image - signal)) < 0.02 * ideal


@pytest.mark.parametrize(("n_frames", "threshold"), [(2, 4.0), (5, 4.0), (25, 4.0), (25, 5.0)])
def test_false_rejections_are_as_rare_as_the_normal_law_says(detector, n_frames, threshold):
    rng = np.random.default_rng(9)
    stack = stack_of(detector, [draw(rng, 20000.0, detector.shape) for _ in range(n_frames)], threshold=threshold)
    # Two measurements have one difference; else each is compared with the mean of the others.
    trials = stack.image.size * (1 if n_frames == 2 else n_frames)
    expected = trials * 2 * norm.sf(threshold)
    assert stack.n_rejected == pytest.approx(expected, abs=4 * np.sqrt(expected) + 2)


def test_clipping_by_the_scatter_of_five_frames_could_not_do_this(detector):
    frames = np.full((5, *detector.shape), 1000.0, dtype=np.float32)
    frames[2, 10, 10] += 1e5
    pixel = frames[:, 10, 10]
    assert (pixel.max() - pixel.mean()) / pixel.std(ddof=1) < 1.79
    stack = stack_of(detector, frames)
    assert stack.image[10, 10] == 1000
    assert stack.rejected[10, 10] == 1
    assert stack.mask[10, 10] == MaskPlane.REJECTED
    assert stack.n_rejected == 1


@pytest.mark.parametrize(
    ("samples", "mean", "kept", "planes"),
    [
        ([1000, 9000], 1000, 1, MaskPlane.REJECTED),
        ([1000, 1020], 1010, 2, NOT_MASKED),
        ([1000, 9000, 1020], 1010, 2, MaskPlane.REJECTED),
        ([1000, 5, 1020], 1010, 2, MaskPlane.REJECTED),
        ([1000, 9000, 1020, 8000], 1010, 2, MaskPlane.REJECTED),
        ([1000, 9000, 1020, 8000, 1010], 1010, 3, MaskPlane.REJECTED),
        ([1000, 9000, 1020, 5, 1010], 1010, 3, MaskPlane.REJECTED),
        ([1000, 9000, 1020, 5, 7000, 1010, 1010], 1010, 4, MaskPlane.REJECTED),
    ],
)
def test_few_frames_reject_what_statistics_allow(detector, samples, mean, kept, planes):
    stack = stack_of(detector, [np.full(detector.shape, sample) for sample in samples])
    assert stack.image[3, 3] == mean
    assert stack.kept[3, 3] == kept
    assert stack.mask[3, 3] == planes


def test_what_cannot_be_resolved_is_suspect(detector):
    for samples in ([1000, 3000, 9000], [1000, 2000] * 5):
        stack = stack_of(detector, [np.full(detector.shape, sample) for sample in samples])
        assert stack.mask[3, 3] & MaskPlane.SUSPECT
    rng = np.random.default_rng(10)
    quiet = stack_of(detector, [draw(rng, 5000.0, detector.shape) for _ in range(8)])
    assert np.count_nonzero(quiet.mask & MaskPlane.SUSPECT) <= 3


def test_frames_of_different_light_are_weighted_by_it(detector):
    rng = np.random.default_rng(11)
    light = np.array([0.2, 1.0, 3.0, 0.6])
    frames = [draw(rng, 10000 * each, detector.shape) for each in light]
    stack = stack_of(detector, frames, light=light)
    # Maximum likelihood for Poisson noise: all electrons over all light.
    expected = np.sum(frames, axis=0, dtype=float) / light.sum() * light.mean()
    np.testing.assert_allclose(stack.image[stack.rejected == 0], expected[stack.rejected == 0], rtol=1e-6)
    truth = 10000 * light.mean()
    assert np.mean((stack.image - truth) ** 2 / stack.variance) == pytest.approx(1, abs=0.02)
    assert stack.n_rejected <= 3


def test_the_unit_of_the_light_does_not_matter(detector):
    rng = np.random.default_rng(12)
    light = np.array([1.0, 1.1, 0.9])
    frames = [draw(rng, 10000 * each, detector.shape) for each in light]
    first, second = stack_of(detector, frames, light=light), stack_of(detector, frames, light=light * 7e4)
    np.testing.assert_allclose(first.image, second.image, rtol=1e-6)


def test_masked_measurements_are_left_out_one_by_one(detector):
    frames = [np.full(detector.shape, 1000.0 + 10 * index) for index in range(5)]
    masks = [np.zeros(detector.shape, dtype=np.int16) for _ in range(5)]
    masks[4][0, 0] = MaskPlane.SAT
    for mask in masks:
        mask[0, 1] = MaskPlane.SAT
        mask[0, 2] = MaskPlane.BAD
    masks[0][0, 3] = MaskPlane.NO_DATA
    for mask in masks[1:4]:
        mask[0, 4] = MaskPlane.SAT
    frames[3][0, 5] = np.nan
    stack = stack_of(detector, frames, masks=masks)
    assert stack.image[0, 0] == 1015
    assert stack.mask[0, 0] == MaskPlane.SUSPECT
    assert np.isnan(stack.image[0, 1])
    assert np.isnan(stack.variance[0, 1])
    assert stack.mask[0, 1] == MaskPlane.SAT | MaskPlane.NO_DATA
    assert stack.image[0, 2] == 1020
    assert stack.mask[0, 2] == MaskPlane.BAD
    assert stack.image[0, 3] == 1025
    assert stack.mask[0, 3] == 0
    assert stack.mask[0, 4] == MaskPlane.SAT
    assert stack.kept[0, 5] == 4
    assert stack.n_left_out == 1 + 5 + 1 + 3 + 1


def test_superbias_variance_is_added_once(detector):
    frame_stack = FrameStack(detector)
    for _ in range(4):
        frame_stack.add(
            np.full(detector.shape, 900, dtype=np.float32), np.zeros(detector.shape, dtype=np.int16), NOISE, light=1.0
        )
    superbias_variance = np.full(detector.shape, 2.5, dtype=np.float32)
    stack = frame_stack.result(superbias_variance=superbias_variance)
    np.testing.assert_allclose(stack.variance, (900 + 36) / 4 + 2.5)


def test_noise_differs_by_amplifier(detector, gain_map):
    noise = np.linspace(10, 400, 16)
    sigma = np.sqrt(gain_map(detector, noise))
    rng = np.random.default_rng(13)
    frames = [rng.normal(0, sigma) for _ in range(6)]
    stack = stack_of(detector, frames, poisson=False, noise=noise)
    np.testing.assert_allclose(stack.variance[stack.rejected == 0], gain_map(detector, noise)[stack.rejected == 0] / 6)
    assert stack.chi_square == pytest.approx(np.ones(16), abs=0.05)


def test_memory_does_not_grow_with_the_number_of_frames(detector, lsstcam):
    frame_stack = FrameStack(detector)
    before = frame_stack.nbytes
    frame, mask = np.full(detector.shape, 100, dtype=np.float32), np.zeros(detector.shape, dtype=np.int16)
    for _ in range(40):
        frame_stack.add(frame, mask, NOISE, light=1.0)
    assert frame_stack.nbytes == before
    held = [entry for entry in vars(frame_stack).values() if isinstance(entry, np.ndarray)]
    assert sum(entry.nbytes for entry in held) < 1000
    full_size = lsstcam["R22_S11"]
    assert before / frame.size * full_size.nx * full_size.ny < 700 * 2**20


@pytest.mark.parametrize("light", [0.0, -1.0, np.nan, np.inf])
def test_impossible_light_is_an_error(detector, light):
    frame_stack = FrameStack(detector)
    with pytest.raises(PhotodiodeError, match="light"):
        frame_stack.add(np.zeros(detector.shape, dtype=np.float32), np.zeros(detector.shape, dtype=np.int16), NOISE, light=light)


def test_an_empty_stack_and_a_frame_of_another_size_are_errors(detector):
    with pytest.raises(InputError, match="no exposure"):
        FrameStack(detector).result()
    with pytest.raises(ValueError, match="shape"):
        FrameStack(detector).add(np.zeros((2, 2), dtype=np.float32), np.zeros((2, 2), dtype=np.int16), NOISE, light=1.0)


@pytest.mark.parametrize("shape", [(500, 512), (4000, 4072), (4004, 4096), (2000, 4072)])
def test_few_rows_are_sampled_and_many_pixels(shape):
    row_step, column_step = light_steps(shape)
    sampled = -(-shape[0] // row_step) * -(-shape[1] // column_step)
    assert sampled >= 2e5
    assert sampled < 5e5
    # Rows must be decoded: of a large frame not more than one of ten.
    assert row_step >= 10 or shape[0] * shape[1] < 5e6


def test_light_of_a_frame_is_free_of_pattern_and_masked_pixels(detector):
    rng = np.random.default_rng(14)
    scene = rng.uniform(10000, 50000, detector.shape)
    mask = np.zeros(detector.shape, dtype=np.int16)
    first = draw(rng, scene, detector.shape)
    second = draw(rng, 1.1 * scene, detector.shape)
    second[:50] = 1e6
    first[:50] = 0
    mask[:50] = MaskPlane.SAT
    assert frame_light(second, mask) / frame_light(first, mask) == pytest.approx(1.1, rel=2e-3)
    flat_first, flat_second = (draw(rng, level, detector.shape) for level in (50000.0, 50500.0))
    clear = np.zeros(detector.shape, dtype=np.int16)
    assert frame_light(flat_second, clear) / frame_light(flat_first, clear) == pytest.approx(1.01, rel=5e-5)
    assert np.isnan(frame_light(first, np.full(detector.shape, MaskPlane.BAD, dtype=np.int16)))


@pytest.mark.full
def test_full_size_frames_have_the_right_scatter(lsstcam):
    full_size = lsstcam["R22_S11"]
    rng = np.random.default_rng(15)
    frame = (50000 + 224 * rng.standard_normal(full_size.shape, dtype=np.float32)).astype(np.float32)
    mask = np.zeros(full_size.shape, dtype=np.int16)
    frame_stack = FrameStack(full_size)
    for index in range(6):
        frame_stack.add(np.roll(frame, index * 1000), mask, NOISE, light=1.0)
    assert np.mean(frame_stack.result().chi_square) == pytest.approx(1, abs=0.01)
