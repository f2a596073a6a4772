"""Stacks of files are those of reduced exposures, whatever is in the files and however they are coded."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from raw_frames import exposures, write
from stack_reference import stack_frames

from permil._kernels.isr import add_rows, probe_rows
from permil.engine.threads import allow_threads
from permil.errors import RawFormatError
from permil.exposures import RawFile
from permil.isr import LinearityCurve, OverscanOptions, Superbias, frame_light
from permil.isr.exposure_group import stack_group
from permil.isr.reduce import reduce_raw_file
from permil.isr.streamed_stack import probe_file, stack_files
from permil.products import MaskPlane

SAME_BITS = ("image", "variance", "mask", "kept", "rejected", "light", "noise_variance", "chi_square")


def streamed_stack(files, calibration, *, threads=1, poisson=True, threshold=5.0):
    """Return the stack of open files, and the light of each."""
    probed = [probe_file(file, calibration, temperature=None) for file in files]
    light = [file.median for file in probed]
    with allow_threads(threads):
        return stack_files(probed, calibration, light=light, threshold=threshold, poisson=poisson), light


@contextmanager
def open_files(paths, camera):
    with ExitStack() as opened:
        yield [opened.enter_context(RawFile(path, camera)) for path in paths]


def both_ways(paths, camera, calibration, *, threads=1, poisson=True, threshold=5.0):
    """Return the stack of files and that of the exposures reduced one by one, at the same light."""
    with open_files(paths, camera) as files:
        streamed, light = streamed_stack(files, calibration, threads=threads, poisson=poisson, threshold=threshold)
        reduced = [reduce_raw_file(file, calibration)[0] for file in files]
    return streamed, stack_frames(reduced, light, threshold=threshold, poisson=poisson), reduced, light


def assert_same(streamed, whole):
    """Compare a stack with the reference: counts and masks are the same, sums in single precision agree to rounding."""
    stack = streamed.stack
    for name in ("mask", "kept", "rejected", "light", "noise_variance"):
        np.testing.assert_array_equal(getattr(stack, name), getattr(whole, name), err_msg=name)
    np.testing.assert_allclose(stack.image, whole.image, rtol=2e-6, atol=1e-4)
    np.testing.assert_allclose(stack.variance, whole.variance, rtol=1e-5)
    np.testing.assert_allclose(stack.chi_square, whole.chi_square, rtol=1e-5)


def assert_same_bits(first, second):
    for name in SAME_BITS:
        np.testing.assert_array_equal(getattr(first.stack, name), getattr(second.stack, name), err_msg=name)
    for name in ("read_noise", "read_noise_err", "overscan_level"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


def of_sensor(calibration, sensor):
    """Return the plain calibration of another sensor."""
    count = len(sensor.amplifiers)
    return replace(
        calibration,
        detector=sensor,
        gains=replace(calibration.gains, gain=calibration.gains.gain[:count], gain_err=calibration.gains.gain_err[:count]),
        static_mask=np.zeros(sensor.shape, dtype=np.int16),
        saturation=np.full(count, 1e5),
    )


def full_calibration(calibration, rng, **changes):
    shape = calibration.detector.shape
    count = len(calibration.detector.amplifiers)
    mask = np.zeros(shape, dtype=np.int16)
    mask[rng.integers(0, shape[0], 200), rng.integers(0, shape[1], 200)] = MaskPlane.BAD
    mask[:3] |= MaskPlane.EDGE
    knots = np.linspace(0, 130000, 8)
    options = {
        "superbias": Superbias(rng.normal(0, 4, shape).astype(np.float32), np.ones(shape, dtype=np.float32)),
        "static_mask": mask,
        "linearity": tuple(
            LinearityCurve.quadratic(1e-8 * index) if index % 2 else LinearityCurve.through(knots, knots * (1 + 1e-7 * knots))
            for index in range(count)
        ),
    }
    return replace(calibration, **{**options, **changes})


@pytest.mark.parametrize("threads", [1, 2])
def test_a_stack_is_that_of_reduced_exposures(detector, bin8, calibration, stored, threads):
    paths = stored(detector)
    full = full_calibration(calibration, np.random.default_rng(1))
    streamed, whole, reduced, light = both_ways(paths, bin8, full, threads=threads)
    assert_same(streamed, whole)
    # Many pixels are saturated, and their neighbours are so in the stack, too.
    assert np.count_nonzero(np.any([image.mask & MaskPlane.SAT for image in reduced], axis=0)) > 1000
    np.testing.assert_array_equal(streamed.read_noise, [image.read_noise for image in reduced])
    np.testing.assert_array_equal(streamed.read_noise_err, [image.read_noise_err for image in reduced])
    np.testing.assert_array_equal(streamed.overscan_level, [image.overscan_level for image in reduced])
    expected = [frame_light(image.image, image.mask) for image in reduced]
    np.testing.assert_allclose(light, expected, rtol=2e-4)


@pytest.mark.parametrize("name", ["R02_S02", "R00_SW0", "R44_SG1"])
def test_every_kind_of_sensor(name, bin8, calibration, stored):
    sensor = bin8[name]
    own = of_sensor(calibration, sensor)
    paths = stored(sensor, 3)
    assert_same(*both_ways(paths, bin8, full_calibration(own, np.random.default_rng(2)))[:2])


@pytest.mark.parametrize("coding", ["plain", "gzip", "gzip tiles", "squares"])
def test_every_coding(detector, bin8, calibration, stored, coding):
    paths = stored(detector, 3, coding=coding)
    assert_same(*both_ways(paths, bin8, calibration)[:2])


@pytest.mark.parametrize("coding", ["rice", "plain"])
def test_unsigned_16_bits(detector, bin8, calibration, make_raw, tmp_path, coding):
    frames = [{name: np.clip(raw, 0, 65535) for name, raw in each.items()} for each in exposures(detector, make_raw, number=3)]
    paths = [write(tmp_path / f"{i}.fits", detector, each, coding=coding, kind=np.uint16) for i, each in enumerate(frames)]
    assert_same(*both_ways(paths, bin8, replace(calibration, saturation_adu=65535.0))[:2])


@pytest.mark.parametrize("method", ["row_mean", "smoothed", "constant"])
def test_every_method_of_the_overscan(detector, bin8, calibration, stored, method):
    paths = stored(detector, 3)
    assert_same(*both_ways(paths, bin8, replace(calibration, overscan=OverscanOptions(method)))[:2])


def crosstalk(rng, count=16):
    matrix = rng.normal(0, 5e-4, (count, count))
    np.fill_diagonal(matrix, 0)
    return matrix


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("method", ["row_median", "row_mean", "smoothed", "constant"])
def test_crosstalk_with_every_method_of_the_overscan(detector, bin8, calibration, stored, method, threads):
    rng = np.random.default_rng(4)
    paths = stored(detector, 4)
    full = full_calibration(calibration, rng, crosstalk=crosstalk(rng), overscan=OverscanOptions(method), saturation_grow=2)
    streamed, whole, reduced, light = both_ways(paths, bin8, full, threads=threads)
    assert_same(streamed, whole)
    assert np.count_nonzero(np.any([image.mask & MaskPlane.SAT for image in reduced], axis=0)) > 1000
    np.testing.assert_array_equal(streamed.read_noise, [image.read_noise for image in reduced])
    np.testing.assert_array_equal(streamed.read_noise_err, [image.read_noise_err for image in reduced])
    np.testing.assert_allclose(streamed.overscan_level, [image.overscan_level for image in reduced], rtol=1e-14)
    np.testing.assert_allclose(light, [frame_light(image.image, image.mask) for image in reduced], rtol=2e-4)


def test_the_light_of_a_file_is_corrected_for_crosstalk(detector, bin8, calibration, make_raw, tmp_path):
    path = write(tmp_path / "0.fits", detector, next(exposures(detector, make_raw, hits=0)))
    # Every segment sees one percent of its neighbour.
    full = replace(calibration, crosstalk=0.01 * np.roll(np.eye(16), 1, axis=1))
    with RawFile(path, bin8) as file:
        with_it, without = (probe_file(file, own, temperature=None) for own in (full, calibration))
    assert with_it.median == pytest.approx(without.median / 1.01, rel=1e-3)


@pytest.mark.parametrize("method", ["row_median", "row_mean"])
@pytest.mark.parametrize("with_crosstalk", [False, True])
def test_each_row_is_decoded_once(detector, bin8, calibration, stored, monkeypatch, method, with_crosstalk):
    number = 3
    paths = stored(detector, number, hits=0)
    rng = np.random.default_rng(5)
    full = replace(calibration, overscan=OverscanOptions(method), crosstalk=crosstalk(rng) if with_crosstalk else None)
    added, looked_at = [], []

    def add(coded, rows, first, group, *arguments):
        added.extend((int(amplifier), int(row)) for amplifier in group.amplifiers for row in rows)
        assert coded.starts.shape[0] == number
        return add_rows(coded, rows, first, group, *arguments)

    def probe(coded, rows, group, *arguments):
        looked_at.extend((int(amplifier), int(row)) for amplifier in group.amplifiers for row in rows)
        return probe_rows(coded, rows, group, *arguments)

    def whole(*_):
        raise AssertionError("a whole segment was decoded")

    monkeypatch.setattr("permil.isr.streamed_stack.kernels.add_rows", add)
    monkeypatch.setattr("permil.isr.streamed_stack.kernels.probe_rows", probe)
    monkeypatch.setattr("permil.isr.streamed_stack.light_steps", lambda _: (32, 2))
    monkeypatch.setattr(RawFile, "segment", whole)
    stack_group(paths, [1.0] * number, bin8, full, normalise=False)
    assert sorted(added) == [(index, row) for index, each in enumerate(detector.amplifiers) for row in range(each.ny)]
    # A sample of rows, the same of all segments.
    rows = {row for _, row in looked_at}
    assert len(looked_at) == number * len(rows) * len(detector.amplifiers)
    assert 64 <= len(rows) <= detector.amplifiers[0].ny / 2


def test_the_noise_of_a_sample_of_rows_is_that_of_all(detector, bin8, calibration, stored):
    path = stored(detector)[0]
    for method in ("row_median", "row_mean"):
        own = replace(calibration, overscan=OverscanOptions(method))
        with RawFile(path, bin8) as file:
            probed = probe_file(file, own, temperature=None)
            reduced = reduce_raw_file(file, own)[0]
        np.testing.assert_allclose(probed.noise_variance, reduced.noise_variance, rtol=0.12)


@pytest.fixture(scope="module")
def dark_files(detector, make_raw, tmp_path_factory):
    """Return files of four exposures without light."""
    rng, folder = np.random.default_rng(8), tmp_path_factory.mktemp("dark")
    frames = (make_raw(detector, np.full(detector.shape, 50.0), rng) for _ in range(4))
    return [write(folder / f"{i}.fits", detector, each, coding="plain") for i, each in enumerate(frames)]


@pytest.mark.parametrize("part", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("poisson", [True, False])
def test_what_a_sample_of_rows_says_of_the_noise_changes_nothing(
    detector, bin8, calibration, stored, dark_files, monkeypatch, part, poisson
):
    # The noise is nothing, in half of the amplifiers more than it is, and much more: then all rows are summed again.
    rng = np.random.default_rng(8)
    paths = stored(detector) if poisson else dark_files
    full = full_calibration(calibration, rng, crosstalk=crosstalk(rng))
    with open_files(paths, bin8) as files:
        usual, _ = streamed_stack(files, full, poisson=poisson)
    calls = []
    monkeypatch.setattr("permil.isr.streamed_stack._SURE_PART", part)
    monkeypatch.setattr("permil.isr.streamed_stack.kernels.add_rows", lambda *arguments: calls.append(1) or add_rows(*arguments))
    streamed, whole, _, _ = both_ways(paths, bin8, full, poisson=poisson)
    assert_same(streamed, whole)
    assert_same_bits(streamed, usual)
    pieces = -(-detector.amplifiers[0].ny // 64)
    assert len(calls) >= (2 if part > 0 else 1) * pieces


@pytest.mark.parametrize("number", [1, 2, 3])
def test_few_files(detector, bin8, calibration, stored, number):
    rng = np.random.default_rng(9)
    paths = stored(detector, number)
    assert_same(*both_ways(paths, bin8, full_calibration(calibration, rng, crosstalk=crosstalk(rng)))[:2])


@pytest.fixture(scope="module")
def odd_files(detector, make_raw, tmp_path_factory):
    """Return files of five exposures with saturated pixels, dead segments and a pixel beyond the known part of linearity curves."""
    frames, folder = list(exposures(detector, make_raw, number=5, hits=0)), tmp_path_factory.mktemp("odd")
    # Rows that are alike in all frames, in the first ones, or in none.
    frames[2]["C03"][40, 100] = frames[4]["C03"][41, 7] = frames[0]["C03"][42, 8] = 200_000
    frames[3]["C05"][:] = frames[0]["C07"][:] = 25000
    # Beyond what the curve is known for, but not saturated.
    frames[1]["C10"][30, 50] += 25_000
    return [write(folder / f"{i}.fits", detector, each) for i, each in enumerate(frames)]


@pytest.mark.parametrize("with_crosstalk", [False, True])
@pytest.mark.parametrize("curve", ["straight", "quadratic", "knots"])
def test_nothing_is_rejected(detector, bin8, calibration, odd_files, with_crosstalk, curve):
    rng = np.random.default_rng(12)
    full = full_calibration(calibration, rng, crosstalk=crosstalk(rng) if with_crosstalk else None)
    mask, bias = full.static_mask.copy(), full.superbias.image.copy()
    mask[70, 33], bias[90, 44] = MaskPlane.NO_DATA, np.nan
    knots = np.linspace(0, 70_000, 8)
    curves = {
        "straight": LinearityCurve.quadratic(0.0),
        "quadratic": LinearityCurve.quadratic(1e-8),
        "knots": LinearityCurve.through(knots, knots * (1 + 1e-7 * knots)),
    }
    linearity = tuple(curves[curve] for _ in detector.amplifiers)
    full = replace(full, static_mask=mask, superbias=replace(full.superbias, image=bias), linearity=linearity, saturation_grow=1)
    streamed, whole, reduced, _ = both_ways(odd_files, bin8, full, threshold=np.inf)
    assert_same(streamed, whole)
    assert streamed.stack.n_rejected == 0
    number = sum(np.isfinite(image.image) & (image.mask & (MaskPlane.SAT | MaskPlane.NO_DATA) == 0) for image in reduced)
    np.testing.assert_array_equal(streamed.stack.kept, number)
    assert set(np.unique(number)) == {0, 4, 5}
    assert number[90, 44] == number[70, 33] == 0


def test_threads_do_not_change_a_bit(detector, bin8, calibration, stored):
    rng = np.random.default_rng(10)
    paths = stored(detector)
    full = full_calibration(calibration, rng, crosstalk=crosstalk(rng), overscan=OverscanOptions("row_mean"))
    with open_files(paths, bin8) as files:
        first, second = (streamed_stack(files, full, threads=threads)[0] for threads in (1, 3))
    assert_same_bits(first, second)


@pytest.fixture(scope="module")
def saturated_files(detector, make_raw, tmp_path_factory):
    """Return files of four exposures, the second with saturated pixels at corners and edges of a segment, one at the mid-line."""
    frames, folder = list(exposures(detector, make_raw, number=4, hits=0)), tmp_path_factory.mktemp("saturated")
    amplifier = detector.amplifier("C12")
    for row, column in ((0, 0), (amplifier.ny - 1, amplifier.nx - 1), (50, 0), (60, amplifier.nx - 1), (amplifier.ny - 1, 20)):
        frames[1]["C12"][row, amplifier.prescan + column] = 200_000
    return [write(folder / f"{i}.fits", detector, each, coding="plain") for i, each in enumerate(frames)]


@pytest.mark.parametrize("grow", [0, 1, 3])
def test_saturation_grows_across_segments(detector, bin8, calibration, saturated_files, grow):
    amplifier = detector.amplifier("C12")
    streamed, whole, reduced, _ = both_ways(saturated_files, bin8, replace(calibration, saturation_grow=grow))
    assert_same(streamed, whole)
    flagged = (reduced[1].mask & MaskPlane.SAT) != 0
    assert (streamed.stack.kept[flagged] == 3).all()
    inside = np.zeros(detector.shape, dtype=bool)
    inside[amplifier.slices] = True
    assert (flagged & ~inside).any() == (grow > 0)


def test_a_dead_channel_has_no_data(detector, bin8, calibration, make_raw, tmp_path):
    frames = list(exposures(detector, make_raw, number=3))
    frames[1]["C05"][:] = 25000
    frames[2]["C06"][:] = 25000
    frames[2]["C06"][:, 30:] += 1
    paths = [write(tmp_path / f"{i}.fits", detector, each) for i, each in enumerate(frames)]
    streamed, whole, _, _ = both_ways(paths, bin8, calibration)
    assert_same(streamed, whole)
    part = detector.amplifier("C05").slices
    assert (streamed.stack.kept[part] + streamed.stack.rejected[part] <= 2).all()


def test_bias_frames(bin8, calibration, dark_files):
    assert_same(*both_ways(dark_files, bin8, calibration, poisson=False)[:2])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("with_crosstalk", [False, True])
def test_a_damaged_row_is_an_error_that_names_the_file(
    detector, bin8, calibration, stored, tmp_path, monkeypatch, with_crosstalk, threads
):
    if with_crosstalk:
        rng = np.random.default_rng(11)
        calibration = full_calibration(calibration, rng, crosstalk=crosstalk(rng))
    # The damaged row is not in the sample of rows that the light is taken from.
    monkeypatch.setattr("permil.isr.streamed_stack.light_steps", lambda _: (32, 2))
    paths = stored(detector, 3)
    paths[1] = Path(shutil.copy(paths[1], tmp_path / "damaged.fits"))
    with fits.open(paths[1], disable_image_compression=True) as hdus:
        table = hdus[5].fileinfo()["datLoc"]
        heap = table + hdus[5].header["NAXIS1"] * hdus[5].header["NAXIS2"]
    content = bytearray(paths[1].read_bytes())
    # Descriptor of row 101: length and place in the heap.
    length, offset = np.frombuffer(content[table + 808 : table + 816], dtype=">i4").tolist()
    content[heap + offset + 4 : heap + offset + length] = b"\xff" * (length - 4)
    paths[1].write_bytes(content)
    extname = detector.amplifiers[4].extname
    with pytest.raises(RawFormatError, match=f"{extname} cannot be decompressed") as caught:
        both_ways(paths, bin8, calibration, threads=threads)
    assert str(paths[1]) in str(caught.value)
    # A stack of exposures goes on without the file.
    with allow_threads(threads):
        result = stack_group(paths, [1.0, 1.0, 1.0], bin8, calibration, normalise=False)
    assert result.used == (paths[0], paths[2])
    assert [entry.path for entry in result.left_out] == [paths[1]]
    expected = stack_group([paths[0], paths[2]], [1.0, 1.0], bin8, calibration, normalise=False)
    np.testing.assert_array_equal(result.stack.image, expected.stack.image)


@pytest.mark.full
@pytest.mark.parametrize("with_crosstalk", [False, True])
def test_full_size_stacks_are_those_of_reduced_exposures(lsstcam, make_raw, calibration, tmp_path, with_crosstalk):
    sensor, rng = lsstcam["R22_S11"], np.random.default_rng(7)
    own = replace(
        calibration,
        detector=sensor,
        static_mask=np.zeros(sensor.shape, dtype=np.int16),
        crosstalk=crosstalk(rng) if with_crosstalk else None,
    )
    paths = [write(tmp_path / f"{i}.fits", sensor, each) for i, each in enumerate(exposures(sensor, make_raw, number=4))]
    streamed, whole, reduced, light = both_ways(paths, lsstcam, full_calibration(own, rng), threads=2)
    assert_same(streamed, whole)
    expected = [frame_light(image.image, image.mask) for image in reduced]
    # Two samples of pixels: in a scene that differs by 20 % from pixel to pixel each ratio of medians scatters by 1.3e-4.
    np.testing.assert_allclose(np.array(light) / light[0], np.array(expected) / expected[0], rtol=8e-4)
