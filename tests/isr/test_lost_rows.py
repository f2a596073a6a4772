"""Files of full size with blocks of one value: what they do not hold is masked and named; what is alike for another reason is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from raw_frames import exposures, write
from segments_in_memory import measure_segments, reduce_segments
from test_file_stack import assert_same, both_ways, of_sensor
from test_open_exposure import assert_strips_are_those_of, crosstalk, whole

from permil.camera import ReferenceBox
from permil.camera.frames import take_segment
from permil.config.isr import IsrConfig
from permil.errors import RawFormatError
from permil.isr import OverscanOptions
from permil.isr.bias_exposures import bias_calibration, build_superbias
from permil.isr.calibration.superbias import superbias_notes
from permil.isr.exposure_group import stack_group
from permil.isr.overscan import describe_lost, lost_runs, measure_overscan
from permil.products import MaskPlane, read_image

SENSORS = ("R22_S11", "R02_S02")
SATURATION = 262143.0


def noisy(rng, *, rows=250, width=138, first=10, last=74, light=9000.0, noise=5.0):
    """Return a raw segment with noise everywhere, light on its active pixels."""
    raw = rng.normal(27000.0, noise, (rows, width))
    raw[:, first:last] += rng.poisson(light, (rows, last - first))
    return np.rint(raw).astype(np.int32), first, last


def lost_columns(row, first, last):
    """Return first column, that behind the last, value and fault of what is lost of a row; None for nothing."""
    lost = lost_runs(row[np.newaxis], 1, slice(first, last), SATURATION)
    return tuple(lost[0, 1:]) if len(lost) else None


@pytest.mark.parametrize("value", [0, -1, 0x20202020, 2**31 - 1, 32768, 27000, 40000])
@pytest.mark.parametrize(
    ("begin", "end"), [(60 * 138, 180 * 138), (60 * 138 + 31, 180 * 138 + 7), (5 * 138 + 100, 7 * 138 + 40), (0, 500)]
)
def test_blocks_of_one_value_are_found_wherever_they_begin_and_end(value, begin, end):
    raw, first, last = noisy(np.random.default_rng(begin % 97))
    raw.reshape(-1)[begin:end] = value
    damaged = np.zeros(raw.shape, dtype=bool)
    damaged.reshape(-1)[begin:end] = True
    found = np.zeros((len(raw), last - first), dtype=bool)
    for row, left, right, repeated, is_fault in lost_runs(raw, len(raw), slice(first, last), SATURATION):
        found[row, left:right] = True
        assert (repeated, is_fault) == (value, 1)
    own = damaged[:, first:last]
    assert (found | ~own).all()
    # Where the overscan is damaged a row has no level, so that it is lost as a whole; else no pixel more than is damaged.
    # A part of an overscan that is damaged with its own level does no harm.
    level_lost = damaged[:, last:].sum(axis=1) >= (65 if value == 27000 else 12)
    level_lost |= damaged[:, last - 1]
    np.testing.assert_array_equal(found[~level_lost], own[~level_lost])
    assert found[level_lost].all()


def test_a_block_within_a_row_is_found_but_not_a_plateau_of_saturation():
    raw, first, last = noisy(np.random.default_rng(2), rows=4, width=576, last=519)
    raw[0, 100:228] = 0
    raw[1, 100:228] = 262143
    raw[2, 100:228] = raw[2].max() + 10
    raw[3, 100:228] = 26000
    assert lost_columns(raw[0], first, last) == (90, 218, 0, True)
    assert lost_columns(raw[1], first, last) is None
    # What is clipped below the limit that is known is masked; the file is not at fault.
    assert lost_columns(raw[2], first, last) == (90, 218, raw[2, 100], False)
    assert lost_columns(raw[3], first, last) == (90, 218, 26000, True)


def test_rows_with_noise_or_a_step_at_their_overscan_are_whole():
    rng = np.random.default_rng(3)
    for noise in (4.0, 6.0, 30.0):
        raw, first, last = noisy(rng, rows=20_000, light=0.0, noise=noise)
        assert not len(lost_runs(raw, len(raw), slice(first, last), SATURATION))
    row = np.full(138, 27000, dtype=np.int32)
    row[10:74] = 41000
    assert lost_columns(row, 10, 74) is None
    # Deferred charge of a row without noise.
    row[74:80] += np.array([80, 40, 20, 10, 5, 2], dtype=np.int32)
    assert lost_columns(row, 10, 74) is None
    # A saturated row has an overscan that differs.
    saturated = np.rint(rng.normal(27000, 5, 138)).astype(np.int32)
    saturated[10:74] = 262143
    assert lost_columns(saturated, 10, 74) is None


@pytest.mark.parametrize("method", ["row_median", "row_mean", "smoothed", "constant"])
def test_level_and_noise_are_those_of_the_rows_that_are_there(detector, method):
    amplifier = detector.amplifiers[0]
    rng = np.random.default_rng(4)
    drift = np.linspace(0, 40, amplifier.ny_raw)[:, np.newaxis]
    raw = np.rint(27000 + drift + rng.normal(0, 5, (amplifier.ny_raw, amplifier.nx_raw))).astype(np.int32)
    clean = measure_overscan(raw, amplifier, OverscanOptions(method))
    raw[60:200] = 0
    damaged = measure_overscan(raw, amplifier, OverscanOptions(method))
    rest = np.r_[:40, 220 : amplifier.ny]
    assert np.abs(damaged.level[rest] - clean.level[rest]).max() < (12 if method == "constant" else 1.5)
    assert damaged.read_noise == pytest.approx(clean.read_noise, abs=5 * clean.read_noise_err)
    assert damaged.read_noise_err > clean.read_noise_err
    assert damaged.mean_level == pytest.approx(damaged.level[np.r_[:60, 200 : amplifier.ny]].mean(), abs=1e-9)


def spoiled(detector, make_raw, *, number=5, file=2, value=0):
    """Return exposures, one of which has lost rows of two segments."""
    every = list(exposures(detector, make_raw, number=number, hits=0))
    names = [amplifier.name for amplifier in detector.amplifiers]
    every[file][names[3]][60:180] = value
    every[file][names[3]][180, :30] = value
    every[file][names[8]].reshape(-1)[40 * 138 + 51 : 44 * 138 + 20] = value
    return every


@pytest.mark.parametrize("coding", ["plain", "rice", "squares"])
@pytest.mark.parametrize("name", SENSORS)
def test_a_stack_has_the_bits_of_exposures_reduced_one_by_one(bin8, calibration, make_raw, tmp_path, name, coding):
    sensor = bin8[name]
    own = of_sensor(calibration, sensor)
    if coding == "rice":
        own = replace(own, crosstalk=crosstalk(sensor))
    every = spoiled(sensor, make_raw, number=3)
    paths = [write(tmp_path / f"{i}.fits", sensor, each, coding=coding) for i, each in enumerate(every)]
    streamed, stacked, reduced, _ = both_ways(paths, bin8, own)
    assert_same(streamed, stacked)
    np.testing.assert_array_equal(streamed.overscan_level, [image.overscan_level for image in reduced])
    np.testing.assert_array_equal(streamed.read_noise, [image.read_noise for image in reduced])
    lost = np.isnan(reduced[2].image)
    np.testing.assert_array_equal(lost, (reduced[2].mask & MaskPlane.NO_DATA) != 0)
    assert np.count_nonzero(take_segment(sensor.amplifiers[3], lost)) >= 120 * sensor.amplifiers[3].nx
    assert not lost[sensor.amplifiers[0].slices].any()
    saturated = np.any([image.mask & MaskPlane.SAT for image in reduced], axis=0)
    np.testing.assert_array_equal((stacked.kept + stacked.rejected)[~saturated], np.where(lost, 2, 3)[~saturated])
    assert sorted(file for file, _ in streamed.damage) == [2, 2]
    assert tuple(sentence for _, sentence in streamed.damage) == reduced[2].damage
    assert "rows 60 to 180 of segment" in reduced[2].damage[0]
    assert "repeat one count (0)" in reduced[2].damage[0]
    assert_strips_are_those_of(reduced[2], paths[2], bin8, own)


def test_light_is_compared_in_pixels_that_all_exposures_hold(detector, bin8, calibration, make_raw, tmp_path):
    rng = np.random.default_rng(5)
    # Light that differs between the halves: an exposure without one of them would seem brighter by half.
    scene = np.full(detector.shape, 20000.0)
    scene[detector.ny // 2 :] = 40000.0
    every = [make_raw(detector, rng.poisson(scene).astype(float), rng) for _ in range(4)]
    for amplifier in detector.amplifiers[:8]:
        every[1][amplifier.name][:240] = 0
    paths = [write(tmp_path / f"{i}.fits", detector, each, coding="plain") for i, each in enumerate(every)]
    for method in ("row_median", "smoothed"):
        own = replace(calibration, overscan=OverscanOptions(method))
        stacked = stack_group(paths, [1.0] * 4, bin8, own)
        np.testing.assert_allclose(stacked.stack.light, 1, atol=2e-3)
        ratio = stacked.stack.image / scene
        gain = np.empty(detector.shape)
        for amplifier, each in zip(detector.amplifiers, calibration.gains.gain, strict=True):
            gain[amplifier.slices] = each
        means = [np.nanmean((ratio / gain)[amplifier.slices]) for amplifier in detector.amplifiers]
        np.testing.assert_allclose(means, 1, atol=2e-3)
        assert {entry.path for entry in stacked.damaged} == {paths[1]}
        assert len(stacked.damaged) == 8


@pytest.mark.parametrize("coding", ["plain", "rice"])
@pytest.mark.parametrize("value", [0, 25000])
def test_an_exposure_of_one_value_is_left_out_alone(detector, bin8, calibration, make_raw, tmp_path, coding, value):
    """Its rows are all lost: they must not be masked in the other exposures of the position."""
    every = list(exposures(detector, make_raw, number=3, hits=0))
    for pixels in every[2].values():
        pixels[:] = value
    every[2]["C11"][3, 40:] += 1
    paths = [write(tmp_path / f"{i}.fits", detector, each, coding=coding) for i, each in enumerate(every)]
    stacked = stack_group(paths, [1.0] * 3, bin8, calibration)
    assert [entry.path for entry in stacked.left_out] == [paths[2]]
    assert "none of its pixels can be used" in stacked.left_out[0].reason
    alone = stack_group([path for path in paths if path != paths[2]], [1.0] * 2, bin8, calibration)
    np.testing.assert_array_equal(stacked.image, alone.image)
    assert np.isfinite(stacked.image).mean() > 0.9


def test_rows_that_no_exposure_holds_have_no_data(detector, bin8, calibration, make_raw, tmp_path):
    every = list(exposures(detector, make_raw, number=3, hits=0))
    for each in every:
        each["C12"][60:180] = -1
    paths = [write(tmp_path / f"{i}.fits", detector, each) for i, each in enumerate(every)]
    for threshold in (5.0, np.inf):
        stacked = stack_group(paths, [1.0] * 3, bin8, calibration, threshold=threshold)
        segment = detector.amplifier("C12")
        assert np.isnan(take_segment(segment, stacked.stack.image)[60:180]).all()
        assert (take_segment(segment, stacked.stack.mask)[60:180] & MaskPlane.NO_DATA).all()
        assert np.isfinite(take_segment(segment, stacked.stack.image)[:60]).all()
        assert len(stacked.damaged) == 3


def test_zeros_of_unsigned_files_and_of_coded_rows(detector, bin8, calibration, make_raw, tmp_path):
    segments = next(exposures(detector, make_raw, number=1, hits=0))
    segments = {name: np.minimum(counts, 65535) for name, counts in segments.items()}
    path = write(tmp_path / "unsigned.fits", detector, segments, coding="plain", kind=np.uint16)
    with fits.open(path) as hdus:
        offset = hdus["SEGMENT12"]._data_offset
    content = bytearray(path.read_bytes())
    width = detector.amplifiers[0].nx_raw
    content[offset + 2 * 60 * width : offset + 2 * 180 * width] = bytes(2 * 120 * width)
    path.write_bytes(content)
    reduced = whole(path, bin8, calibration)
    assert reduced.damage == ("rows 60 to 179 of segment Segment12 repeat one count (32768) and are masked; copy the file again",)
    path = write(tmp_path / "rice.fits", detector, segments)
    with fits.open(path, disable_image_compression=True) as hdus:
        table = hdus["SEGMENT12"]
        start, rows = table._data_offset + table.header["NAXIS1"] * table.header["NAXIS2"], table.data
        lengths = [len(row) for row in rows["COMPRESSED_DATA"]]
    content = bytearray(path.read_bytes())
    begin = start + sum(lengths[:60])
    content[begin : begin + sum(lengths[60:180])] = bytes(sum(lengths[60:180]))
    path.write_bytes(content)
    reduced = whole(path, bin8, calibration)
    assert reduced.damage == ("rows 60 to 179 of segment Segment12 repeat one count (0) and are masked; copy the file again",)


def test_a_blank_segment_is_no_fault_of_the_file(detector, bin8, calibration, make_raw, tmp_path):
    segments = next(exposures(detector, make_raw, number=1, hits=0))
    segments["C05"][:] = 0
    path = write(tmp_path / "a.fits", detector, segments)
    reduced = whole(path, bin8, calibration)
    assert reduced.damage == ()
    assert (reduced.mask[detector.amplifier("C05").slices] & MaskPlane.NO_DATA).all()
    stacked = stack_group([path], [1.0], bin8, calibration)
    assert stacked.damaged == ()


def test_crosstalk_of_rows_that_are_not_there_does_not_reach_other_segments(detector, calibration, make_raw):
    own = replace(calibration, crosstalk=crosstalk(detector))
    segments = next(exposures(detector, make_raw, number=1, hits=0))
    clean = reduce_segments(segments, own)
    segments["C03"][60:180] = 0
    damaged = reduce_segments(segments, own)
    kept = np.isfinite(damaged.image)
    # A signal of 30,000 electrons is missing from the correction, not a signal of minus 25,000 added to it.
    assert np.abs(damaged.image - clean.image)[kept].max() < 1.2e-3 * 45000


@pytest.mark.parametrize(("rows", "complains"), [(slice(118, 122), True), (slice(0, 100), False), (slice(140, 145), True)])
def test_a_bunch_of_which_rows_are_missing_is_no_node(detector, calibration, make_raw, rows, complains):
    segments = next(exposures(detector, make_raw, number=1, hits=0))
    box = {"amplifier": "C14", "row": 125, "column": 32, "box": 30}
    place = ReferenceBox(detector.name, "C14", 125, 32, 30)
    inside = rows.stop > place.row - 15 and rows.start < place.row + 15
    clean = measure_segments(segments, calibration, **box)
    segments["C14"][rows] = 0
    if complains and inside:
        with pytest.raises(RawFormatError, match=r"bunch of pixels is incomplete: rows .* of segment Segment14 repeat one count"):
            measure_segments(segments, calibration, **box)
    else:
        assert measure_segments(segments, calibration, **box).signal == clean.signal


def test_a_superbias_leaves_damaged_rows_out_and_names_them(detector, bin8, make_raw, tmp_path):
    rng = np.random.default_rng(6)
    structure = rng.normal(0, 3, detector.shape)
    every = [make_raw(detector, structure, rng) for _ in range(4)]
    every[1]["C11"][100:140] = 0
    paths = [write(tmp_path / f"{i}.fits", detector, each) for i, each in enumerate(every)]
    product = build_superbias(paths, detector, bin8, IsrConfig(), tmp_path / "superbias.fits")
    assert superbias_notes(product) == [
        f"{paths[1]}: rows 100 to 139 of segment Segment11 repeat one count (0) and are masked; copy the file again"
    ]
    image = read_image(product).image
    assert np.abs(image - structure).max() < 6 * 5 / np.sqrt(3)
    # Without any noise or structure a bias cannot be distinguished from damage; it has no data.
    blank = reduce_segments(
        make_raw(detector, np.zeros(detector.shape), rng, noise=0.0), bias_calibration(detector, overscan=OverscanOptions())
    )
    assert np.isnan(blank.image).all()


def test_many_ranges_and_values_are_summed_up(detector):
    runs = np.array([[row, 0, 64, row % 5, 1] for row in range(0, 100, 2)])
    (sentence,) = describe_lost([runs], [detector.amplifiers[0]])
    assert sentence.startswith("rows 0, 2, 4 and 47 more ranges of segment")
    assert "(0, 1, 2, ...)" in sentence
    assert describe_lost([runs * [1, 1, 1, 1, 0]], [detector.amplifiers[0]]) == ()
    (sampled,) = describe_lost([runs[:1]], [detector.amplifiers[0]], rows=slice(3, 100, 8))
    assert sampled.startswith("row about 3 of segment")
