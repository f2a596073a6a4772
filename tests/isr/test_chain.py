"""Every path from counts to electrons against one plain reference, and the kernels of every level against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chain_reference import Reference, reference_of
from numpy.typing import NDArray
from raw_frames import exposures, write
from segments_in_memory import reduce_segments
from test_file_stack import full_calibration, of_sensor
from test_open_exposure import crosstalk

from kernel_levels import LEVELS, kernels_of
from permil import _kernels
from permil.camera import Camera, Detector, ReferenceBox
from permil.camera.frames import take_segment
from permil.engine.threads import allow_threads
from permil.exposures import RawFile
from permil.exposures.segment_rows import read_rows
from permil.isr import Calibration, OverscanOptions
from permil.isr.box import measure_box
from permil.isr.open_exposure import OpenExposure, RowSample, strips_of
from permil.isr.reduce import reduce_raw_file
from permil.isr.streamed_stack import probe_file, stack_files
from permil.products import MaskPlane

Segments = dict[str, NDArray[np.int32]]
LOST = [20, 21, 22]
# Single precision on the way, at up to 1e5 electrons.
TOLERANCE = {"rtol": 4e-7, "atol": 0.02}


def calibrations(plain: Calibration, seed: int) -> dict[str, Calibration]:
    """Return calibrations that use each part of the chain."""
    rng = np.random.default_rng(seed)
    full = full_calibration(plain, rng)
    return {
        "gains only": plain,
        "full": full,
        "crosstalk": replace(full, crosstalk=crosstalk(plain.detector), overscan=OverscanOptions("row_mean")),
        "low saturation": replace(full, saturation_adu=60000.0, saturation_grow=2, crosstalk=crosstalk(plain.detector)),
    }


def assert_is_reference(image: np.ndarray, mask: np.ndarray, reference: Reference) -> None:
    np.testing.assert_array_equal(mask, reference.mask)
    np.testing.assert_allclose(image, reference.image, **TOLERANCE)


@pytest.fixture(scope="module")
def with_lost_rows(make_raw: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Detector], tuple[Segments, Path]]:
    """Return a function that returns an exposure of a detector, some rows of its third segment lost, and the file with it."""
    made: dict[str, tuple[Segments, Path]] = {}

    def get(sensor: Detector) -> tuple[Segments, Path]:
        if sensor.name not in made:
            segments = next(exposures(sensor, make_raw, number=1, hits=2e-3))
            segments[sensor.amplifiers[2].name][LOST] = 0
            made[sensor.name] = segments, write(tmp_path_factory.mktemp("lost") / "a.fits", sensor, segments)
        return made[sensor.name]

    return get


@pytest.fixture(scope="module")
def four_files(detector: Detector, make_raw: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return files of four exposures; one has rows of constant pixels."""
    frames = list(exposures(detector, make_raw, number=4, hits=2e-3))
    frames[1]["C11"][40:42, 30:90] = 26000
    folder = tmp_path_factory.mktemp("four")
    return [write(folder / f"{number}.fits", detector, each) for number, each in enumerate(frames)]


@pytest.mark.parametrize("name", ["R22_S11", "R02_S02", "R00_SW0"])
@pytest.mark.parametrize("kind", ["gains only", "full", "crosstalk", "low saturation"])
def test_all_paths_are_the_reference(
    name: str, kind: str, bin8: Camera, calibration: Calibration, with_lost_rows: Callable[[Detector], tuple[Segments, Path]]
) -> None:
    sensor = bin8[name]
    own = calibrations(of_sensor(calibration, sensor), 31)[kind]
    segments, path = with_lost_rows(sensor)
    without = {sensor.amplifiers[2].name: np.isin(np.arange(sensor.amplifiers[2].ny), LOST)[:, np.newaxis]}
    reference = reference_of(segments, own, lost=without)

    memory = reduce_segments(segments, own)
    assert_is_reference(memory.image, memory.mask, reference)
    with RawFile(path, bin8) as file:
        with allow_threads(2):
            reduced = reduce_raw_file(file, own)[0]
        probed = probe_file(file, own, temperature=None)
        stacked = stack_files([probed], own, light=[1.0], threshold=np.inf).stack
    assert_is_reference(reduced.image, reduced.mask, reference)

    # A stack of one: its mask has the planes of the frame, its image the electrons where something was measured.
    np.testing.assert_array_equal(stacked.mask, reference.mask | np.where(stacked.kept == 0, MaskPlane.NO_DATA, 0))
    measured = (reference.mask & (MaskPlane.SAT | MaskPlane.NO_DATA)) == 0
    np.testing.assert_array_equal(stacked.kept, measured)
    np.testing.assert_allclose(stacked.image[measured], reference.image[measured], **TOLERANCE)

    with OpenExposure(path, bin8, own, RowSample.of(own, 4)) as exposure:
        for strip in strips_of(sensor, rows=50, neighbours=exposure.neighbours):
            image, mask = exposure.read(strip)
            for run, rows in zip(strip.runs, strip.own_rows, strict=True):
                np.testing.assert_array_equal(mask[rows], reference.mask[run])
                np.testing.assert_allclose(image[rows], reference.image[run], **TOLERANCE)

    # A sample of rows does not show the pixels beside saturated ones.
    alone = reference_of(segments, replace(own, saturation_grow=0), lost=without)
    assert probed.median == pytest.approx(float(np.median(alone.image[alone.mask == 0])), rel=1e-4)


@pytest.mark.parametrize("kind", ["gains only", "full", "crosstalk", "low saturation"])
@pytest.mark.parametrize("name", ["C04", "C12"])
def test_a_box_is_the_mean_of_the_reference(
    kind: str, name: str, detector: Any, bin8: Camera, calibration: Calibration, make_raw: Any
) -> None:
    own = replace(calibrations(calibration, 32)[kind], saturation_grow=0)
    segments = next(exposures(detector, make_raw, number=2, hits=1e-3))
    reference = reference_of(segments, own)
    amplifier = detector.amplifier(name)
    signal, mask = take_segment(amplifier, reference.image)[30:50, 15:35], take_segment(amplifier, reference.mask)[30:50, 15:35]
    place = ReferenceBox(detector.name, name, 40, 25, 20)
    found = measure_box(lambda each, rows: segments[each.name][rows], own, place, threshold=np.inf)
    usable = (mask & (MaskPlane.BAD | MaskPlane.SAT)) == 0
    assert found.count == usable.sum()
    assert found.saturated == ((mask & MaskPlane.SAT) != 0).sum()
    assert found.signal == pytest.approx(signal[usable].mean(), rel=1e-7)


@pytest.mark.parametrize("method", ["row_median", "row_mean", "smoothed", "constant"])
def test_levels_are_the_reference(method: Any, detector: Any, calibration: Calibration, make_raw: Any) -> None:
    own = replace(calibration, overscan=OverscanOptions(method))
    segments = next(exposures(detector, make_raw, number=3, hits=0))
    reference = reference_of(segments, own)
    found = reduce_segments(segments, own)
    assert_is_reference(found.image, found.mask, reference)
    expected = [reference.level[amplifier.name].mean() for amplifier in detector.amplifiers]
    np.testing.assert_allclose(found.overscan_level, expected, rtol=1e-12)


@pytest.mark.parametrize("threshold", [5.0, np.inf])
@pytest.mark.parametrize("kind", ["full", "crosstalk", "low saturation"])
def test_all_levels_have_the_same_bits(
    threshold: float, kind: str, detector: Any, bin8: Camera, calibration: Calibration, four_files: list[Path]
) -> None:
    own = calibrations(calibration, 33)[kind]
    found = []
    for level in LEVELS:
        with kernels_of(level):
            files = [RawFile(path, bin8) for path in four_files]
            probed = [probe_file(file, own, temperature=None) for file in files]
            stack = stack_files(probed, own, light=[each.median for each in probed], threshold=threshold).stack
            reduced = reduce_raw_file(files[1], own)[0]
            box = measure_box(
                lambda each, rows, file=files[0]: read_rows(file, each.name, rows),
                own,
                ReferenceBox(detector.name, "C04", 40, 25, 20),
            )
            for file in files:
                file.close()
            arrays = [stack.image, stack.variance, stack.mask, stack.kept, stack.rejected, stack.chi_square, reduced.image]
            found.append([*arrays, reduced.mask, reduced.read_noise, [box.signal, box.error]])
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_kernels_know_the_mask_planes() -> None:
    assert {plane.name: int(plane) for plane in MaskPlane} == _kernels.isr.PLANES


def test_arrays_of_another_size_are_refused(detector: Any, calibration: Calibration, make_raw: Any) -> None:
    segments = next(exposures(detector, make_raw, number=1))
    shifted = replace(calibration, static_mask=np.zeros((detector.ny - 1, detector.nx), dtype=np.int16))
    with pytest.raises(ValueError, match="outside the detector"):
        reduce_segments(segments, shifted)
