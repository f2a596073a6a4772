"""Stacks against truth, and against what statistics expect."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from segments_in_memory import stack_segments

from permil.camera.frames import take_segment
from permil.isr import Gains, OverscanOptions, frame_light
from permil.isr.bias_exposures import bias_calibration
from permil.isr.stack import light_steps
from permil.products import MaskPlane

READ_NOISE = 6.0
NOISE = np.full(16, READ_NOISE**2)
NOT_MASKED = 0
GAIN, LEVEL, SATURATED = 1 / 64, 1_000_000, 2**30
"""Counts are so fine that frames of electrons keep their values."""


def draw(rng, signal, shape):
    return (rng.poisson(signal, shape) + rng.normal(0, READ_NOISE, shape)).astype(np.float32)


def segments_of(detector, frame, saturated, noise):
    """Return raw segments of a frame in electrons; their overscan has the noise, and exactly the level."""
    segments, rng = {}, np.random.default_rng(0)
    for amplifier, variance in zip(detector.amplifiers, noise, strict=True):
        raw = np.rint(rng.normal(0, np.sqrt(variance) / GAIN, (amplifier.ny_raw, amplifier.nx_raw)))
        raw[1 : amplifier.ny : 2] = -raw[: amplifier.ny : 2]
        active = np.rint(take_segment(amplifier, frame).astype(float) / GAIN)
        # A run of one value would be taken for lost data.
        raw[amplifier.data_slices] = active + rng.integers(-2, 3, active.shape)
        raw[amplifier.data_slices][take_segment(amplifier, saturated)] = SATURATED - LEVEL
        segments[amplifier.name] = (LEVEL + raw).astype(np.int32)
    return segments


@pytest.fixture
def stack_of(detector, bin8, tmp_path):
    """Return the function that writes frames in electrons as raw files and stacks them."""
    calibration = bias_calibration(detector, overscan=OverscanOptions("constant"))
    plain = {"gains": Gains(np.full(16, GAIN), np.zeros(16), "test"), "saturation_adu": float(SATURATED), "saturation_grow": 0}

    def stack(frames, *, masks=None, static=None, light=None, threshold=5.0, poisson=True, noise=NOISE):
        masks = np.zeros((len(frames), *detector.shape), dtype=bool) if masks is None else np.asarray(masks) != 0
        own = replace(calibration, **plain, **({} if static is None else {"static_mask": static}))
        segments = [segments_of(detector, frame, mask, noise) for frame, mask in zip(frames, masks, strict=True)]
        light = np.ones(len(frames)) if light is None else light
        return stack_segments(segments, bin8, own, tmp_path, light=light, threshold=threshold, poisson=poisson)

    return stack


@pytest.mark.parametrize(
    ("n_frames", "signal"), [(5, 40.0), (5, 50000.0), (25, 50000.0), pytest.param(25, 40.0, marks=pytest.mark.full)]
)
def test_mean_is_unbiased_and_variance_true(detector, n_frames, signal, stack_of):
    rng = np.random.default_rng(7)
    stack = stack_of([draw(rng, signal, detector.shape) for _ in range(n_frames)])
    error = np.sqrt((signal + READ_NOISE**2) / n_frames)
    residual = (stack.image - signal).astype(float)
    assert abs(residual.mean()) < 0.02 * error
    assert np.mean(residual**2 / ((signal + READ_NOISE**2) / n_frames)) == pytest.approx(1, abs=0.02)
    # The variance plane comes from the signal itself; at 40 electrons that correlates with the residual.
    assert np.mean(residual**2 / stack.variance) == pytest.approx(1, abs=0.02 if signal > 1000 else 0.03)
    assert np.nanmean(stack.chi_square) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("n_frames", [5, 25])
def test_cosmic_rays_cost_less_than_one_percent(detector, n_frames, stack_of):
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
    stack = stack_of(dirty)
    assert np.sqrt(np.mean((stack.image - signal) ** 2)) < 1.01 * ideal
    plain = np.mean(dirty, axis=0, dtype=float)
    assert np.sqrt(np.mean((plain - signal) ** 2)) > 1.04 * ideal
    assert abs(np.mean(stack.image - signal)) < 0.02 * ideal


@pytest.mark.parametrize(
    ("n_frames", "threshold"), [(2, 4.0), (5, 4.0), pytest.param(25, 4.0, marks=pytest.mark.full), (25, 5.0)]
)
def test_false_rejections_are_as_rare_as_the_normal_law_says(detector, n_frames, threshold, stack_of):
    rng = np.random.default_rng(9)
    stack = stack_of([draw(rng, 20000.0, detector.shape) for _ in range(n_frames)], threshold=threshold)
    # Two measurements have one difference; else each is compared with the mean of the others.
    trials = stack.image.size * (1 if n_frames == 2 else n_frames)
    expected = trials * 2 * norm.sf(threshold)
    assert stack.n_rejected == pytest.approx(expected, abs=4 * np.sqrt(expected) + 2)


def test_clipping_by_the_scatter_of_five_frames_could_not_do_this(detector, stack_of):
    frames = np.full((5, *detector.shape), 1000.0, dtype=np.float32)
    frames[2, 10, 10] += 1e5
    pixel = frames[:, 10, 10]
    assert (pixel.max() - pixel.mean()) / pixel.std(ddof=1) < 1.79
    stack = stack_of(frames)
    assert stack.image[10, 10] == pytest.approx(1000, abs=0.1)
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
def test_few_frames_reject_what_statistics_allow(detector, samples, mean, kept, planes, stack_of):
    stack = stack_of([np.full(detector.shape, sample) for sample in samples])
    assert stack.image[3, 3] == pytest.approx(mean, abs=0.1)
    assert stack.kept[3, 3] == kept
    assert stack.mask[3, 3] == planes


def test_what_cannot_be_resolved_is_suspect(detector, stack_of):
    for samples in ([1000, 3000, 9000], [1000, 2000] * 5):
        stack = stack_of([np.full(detector.shape, sample) for sample in samples])
        assert stack.mask[3, 3] & MaskPlane.SUSPECT
    rng = np.random.default_rng(10)
    quiet = stack_of([draw(rng, 5000.0, detector.shape) for _ in range(8)])
    assert np.count_nonzero(quiet.mask & MaskPlane.SUSPECT) <= 3


def test_frames_of_different_light_are_weighted_by_it(detector, stack_of):
    rng = np.random.default_rng(11)
    light = np.array([0.2, 1.0, 3.0, 0.6])
    frames = [draw(rng, 10000 * each, detector.shape) for each in light]
    stack = stack_of(frames, light=light)
    # Maximum likelihood for Poisson noise: all electrons over all light.
    expected = np.sum(frames, axis=0, dtype=float) / light.sum() * light.mean()
    np.testing.assert_allclose(stack.image[stack.rejected == 0], expected[stack.rejected == 0], atol=0.1)
    truth = 10000 * light.mean()
    assert np.mean((stack.image - truth) ** 2 / stack.variance) == pytest.approx(1, abs=0.02)
    assert stack.n_rejected <= 3


def test_the_unit_of_the_light_does_not_matter(detector, stack_of):
    rng = np.random.default_rng(12)
    light = np.array([1.0, 1.1, 0.9])
    frames = [draw(rng, 10000 * each, detector.shape) for each in light]
    first, second = stack_of(frames, light=light), stack_of(frames, light=light * 7e4)
    np.testing.assert_allclose(first.image, second.image, rtol=1e-6)


def test_saturated_measurements_are_left_out_one_by_one(detector, stack_of):
    frames = [np.full(detector.shape, 1000.0 + 10 * index) for index in range(5)]
    masks = np.zeros((5, *detector.shape), dtype=bool)
    masks[4, 0, 0] = masks[:, 0, 1] = masks[0, 0, 3] = masks[1:4, 0, 4] = True
    static = np.zeros(detector.shape, dtype=np.int16)
    static[0, 2] = MaskPlane.BAD
    stack = stack_of(frames, masks=masks, static=static)
    assert stack.image[0, [0, 2, 3]] == pytest.approx([1015, 1020, 1025], abs=0.1)
    assert np.isnan(stack.image[0, 1])
    assert np.isnan(stack.variance[0, 1])
    assert stack.mask[0, :5].tolist() == [
        MaskPlane.SUSPECT,
        MaskPlane.SAT | MaskPlane.NO_DATA,
        MaskPlane.BAD,
        MaskPlane.SUSPECT,
        MaskPlane.SAT,
    ]
    assert stack.kept.sum() == 5 * stack.kept.size - (1 + 5 + 1 + 3)


def test_noise_differs_by_amplifier(detector, gain_map, stack_of):
    noise = np.linspace(10, 400, 16)
    sigma = np.sqrt(gain_map(detector, noise))
    rng = np.random.default_rng(13)
    frames = [rng.normal(0, sigma) for _ in range(6)]
    stack = stack_of(frames, poisson=False, noise=noise)
    np.testing.assert_allclose(stack.variance[stack.rejected == 0], gain_map(detector, noise)[stack.rejected == 0] / 6, rtol=0.05)
    assert stack.chi_square == pytest.approx(np.ones(16), abs=0.05)


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
