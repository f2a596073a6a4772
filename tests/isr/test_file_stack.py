"""Stacks of files have the bits of stacks of reduced exposures, whatever is in the files and however they are coded."""

from __future__ import annotations

import gzip
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from permil.config.isr import IsrConfig
from permil.errors import RawFormatError
from permil.exposures import RawFile
from permil.exposures.coded_rows import RowBuffer
from permil.isr import FrameStack, LinearityCurve, OverscanOptions, Superbias, frame_light
from permil.isr.file_stack import stack_files
from permil.isr.probe import probe_file
from permil.isr.reduce import reduce_raw_file
from permil.isr.stage import stack_group
from permil.products import MaskPlane

SAME_BITS = ("image", "variance", "mask", "kept", "rejected", "light", "noise_variance")


def write(path, detector, segments, *, coding="rice", kind=np.int32):
    primary = fits.PrimaryHDU()
    primary.header["RAFTBAY"], primary.header["CCDSLOT"] = detector.raft, detector.slot
    hdus = [primary]
    for amplifier in detector.amplifiers:
        pixels = segments[amplifier.name].astype(kind)
        options = {"rice": {}, "gzip tiles": {"compression_type": "GZIP_1"}, "squares": {"tile_shape": (7, 50)}}.get(coding)
        hdu = fits.ImageHDU(pixels) if options is None else fits.CompImageHDU(pixels, **{"compression_type": "RICE_1", **options})
        hdu.header["EXTNAME"] = amplifier.extname
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(path)
    if coding == "gzip":
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    return path


def exposures(detector, make_raw, *, number=5, hits=1e-3):
    rng = np.random.default_rng(number)
    scene = rng.uniform(20000, 40000, detector.shape)
    for light in rng.uniform(0.8, 1.2, number):
        adu = light * rng.poisson(scene).astype(float)
        hit = rng.uniform(size=adu.shape) < hits
        adu[hit] += rng.uniform(500, 150000, np.count_nonzero(hit))
        yield make_raw(detector, adu, rng)


def both_ways(paths, camera, calibration, *, threads=1, poisson=True):
    """Return the stack of files and that of the exposures reduced one by one, at the same light."""
    with ExitStack() as opened:
        files = [opened.enter_context(RawFile(path, camera)) for path in paths]
        probed = [probe_file(file, calibration, temperature=None, buffer=RowBuffer()) for file in files]
        light = [file.median for file in probed]
        streamed = stack_files(probed, calibration, light=light, threshold=5.0, poisson=poisson, threads=threads)
        frames = FrameStack(calibration.detector, poisson=poisson)
        reduced = [reduce_raw_file(file, calibration)[0] for file in files]
    for image, amount in zip(reduced, light, strict=True):
        frames.add(image.image, image.mask, image.noise_variance, light=amount)
    return streamed, frames.result(), reduced, light


def assert_same(streamed, whole):
    for name in SAME_BITS:
        np.testing.assert_array_equal(getattr(streamed.stack, name), getattr(whole, name), err_msg=name)
    # Its rows are summed in the order of readout.
    np.testing.assert_allclose(streamed.stack.chi_square, whole.chi_square, rtol=1e-12)


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
def test_same_bits_as_reduced_exposures_one_by_one(detector, bin8, calibration, make_raw, tmp_path, threads):
    paths = [write(tmp_path / f"{i}.fits", detector, each) for i, each in enumerate(exposures(detector, make_raw))]
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
def test_every_kind_of_sensor(name, bin8, make_raw, calibration, tmp_path):
    sensor = bin8[name]
    count = len(sensor.amplifiers)
    own = replace(
        calibration,
        detector=sensor,
        gains=replace(calibration.gains, gain=calibration.gains.gain[:count], gain_err=calibration.gains.gain_err[:count]),
        static_mask=np.zeros(sensor.shape, dtype=np.int16),
        saturation=np.full(count, 1e5),
    )
    paths = [write(tmp_path / f"{i}.fits", sensor, each) for i, each in enumerate(exposures(sensor, make_raw, number=4))]
    assert_same(*both_ways(paths, bin8, full_calibration(own, np.random.default_rng(2)))[:2])


@pytest.mark.parametrize("coding", ["plain", "gzip", "gzip tiles", "squares"])
def test_every_coding(detector, bin8, calibration, make_raw, tmp_path, coding):
    paths = [write(tmp_path / f"{i}.fits", detector, each, coding=coding) for i, each in enumerate(exposures(detector, make_raw))]
    assert_same(*both_ways(paths, bin8, calibration)[:2])


@pytest.mark.parametrize("coding", ["rice", "plain"])
def test_unsigned_16_bits(detector, bin8, calibration, make_raw, tmp_path, coding):
    frames = [{name: np.clip(raw, 0, 65535) for name, raw in each.items()} for each in exposures(detector, make_raw)]
    paths = [write(tmp_path / f"{i}.fits", detector, each, coding=coding, kind=np.uint16) for i, each in enumerate(frames)]
    assert_same(*both_ways(paths, bin8, replace(calibration, saturation_adu=65535.0))[:2])


@pytest.mark.parametrize("method", ["row_mean", "smoothed", "constant"])
def test_every_method_of_the_overscan(detector, bin8, calibration, make_raw, tmp_path, method):
    paths = [write(tmp_path / f"{i}.fits", detector, each) for i, each in enumerate(exposures(detector, make_raw, number=3))]
    assert_same(*both_ways(paths, bin8, replace(calibration, overscan=OverscanOptions(method)))[:2])


def test_crosstalk(detector, bin8, calibration, make_raw, tmp_path):
    rng = np.random.default_rng(4)
    matrix = rng.normal(0, 5e-4, (16, 16))
    np.fill_diagonal(matrix, 0)
    paths = [write(tmp_path / f"{i}.fits", detector, each) for i, each in enumerate(exposures(detector, make_raw, number=3))]
    assert_same(*both_ways(paths, bin8, full_calibration(calibration, rng, crosstalk=matrix), threads=2)[:2])


@pytest.mark.parametrize("grow", [0, 1, 3])
def test_saturation_grows_across_segments(detector, bin8, calibration, make_raw, tmp_path, grow):
    frames = list(exposures(detector, make_raw, number=4, hits=0))
    amplifier = detector.amplifier("C12")
    # Corners and edges of a segment, one of them at the mid-line.
    for row, column in ((0, 0), (amplifier.ny - 1, amplifier.nx - 1), (50, 0), (60, amplifier.nx - 1), (amplifier.ny - 1, 20)):
        frames[1]["C12"][row, amplifier.prescan + column] = 200_000
    paths = [write(tmp_path / f"{i}.fits", detector, each) for i, each in enumerate(frames)]
    streamed, whole, reduced, _ = both_ways(paths, bin8, replace(calibration, saturation_grow=grow))
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


def test_bias_frames(detector, bin8, calibration, make_raw, tmp_path):
    rng = np.random.default_rng(6)
    frames = [make_raw(detector, np.full(detector.shape, 50.0), rng) for _ in range(4)]
    paths = [write(tmp_path / f"{i}.fits", detector, each) for i, each in enumerate(frames)]
    assert_same(*both_ways(paths, bin8, calibration, poisson=False)[:2])


def test_a_damaged_row_is_an_error_that_names_the_file(detector, bin8, calibration, make_raw, tmp_path):
    paths = [write(tmp_path / f"{i}.fits", detector, each) for i, each in enumerate(exposures(detector, make_raw, number=3))]
    with fits.open(paths[1], disable_image_compression=True) as hdus:
        table = hdus[5].fileinfo()["datLoc"]
        heap = table + hdus[5].header["NAXIS1"] * hdus[5].header["NAXIS2"]
    content = bytearray(paths[1].read_bytes())
    # Descriptor of row 101: length and place in the heap.
    length, offset = np.frombuffer(content[table + 808 : table + 816], dtype=">i4").tolist()
    content[heap + offset + 4 : heap + offset + length] = b"\xff" * (length - 4)
    paths[1].write_bytes(content)
    with pytest.raises(RawFormatError, match="cannot be decompressed") as caught:
        both_ways(paths, bin8, calibration)
    assert str(paths[1]) in str(caught.value)
    # A stack of exposures goes on without the file.
    result = stack_group(paths, [1.0, 1.0, 1.0], bin8, calibration, IsrConfig(photodiode="none"))
    assert result.used == (paths[0], paths[2])
    assert [entry.path for entry in result.left_out] == [paths[1]]
    expected = stack_group([paths[0], paths[2]], [1.0, 1.0], bin8, calibration, IsrConfig(photodiode="none"))
    np.testing.assert_array_equal(result.stack.image, expected.stack.image)


@pytest.mark.full
def test_full_size_stacks_have_the_same_bits(lsstcam, make_raw, calibration, tmp_path):
    sensor = lsstcam["R22_S11"]
    own = replace(calibration, detector=sensor, static_mask=np.zeros(sensor.shape, dtype=np.int16))
    paths = [write(tmp_path / f"{i}.fits", sensor, each) for i, each in enumerate(exposures(sensor, make_raw, number=4))]
    assert_same(*both_ways(paths, lsstcam, full_calibration(own, np.random.default_rng(7)), threads=2)[:2])
