"""What the measurement says of difficult spots and of bad input."""

from __future__ import annotations

import bench_images as images
import numpy as np
import pytest
from pydantic import ValidationError

from permil.camera import load_camera
from permil.config.spots import MeasureConfig
from permil.errors import SpotError
from permil.products import MaskPlane
from permil.simulate.spots import SpotBench, draw_exposure
from permil.spots.catalog import SpotCatalog, SpotFlag
from permil.spots.measure import measure_spots


@pytest.fixture(scope="module")
def bench() -> SpotBench:
    return images.fixed_bench(exposures=1)


@pytest.fixture(scope="module")
def image(bench: SpotBench) -> np.ndarray:
    return draw_exposure(bench, bench.exposures()[0])


def nearest(catalog: SpotCatalog, x: float, y: float) -> int:
    return int(np.argmin(np.hypot(catalog.x - x, catalog.y - y)))


def bright_spot(bench: SpotBench) -> tuple[float, float]:
    """Return the place of a bright spot far from all borders of amplifiers."""
    light = bench.spot_light(bench.exposures()[0])
    away = (np.abs(light.x - 511.5) > 40) & (np.abs(light.y - 511.5) > 40)
    spot = int(np.argmax(np.where(away, light.flux, 0)))
    return float(light.x[spot]), float(light.y[spot])


def test_undisturbed_spots_have_flags_only_at_borders(bench: SpotBench, image: np.ndarray) -> None:
    catalog = images.measure(bench, image).catalog
    at_x, at_y = np.abs(catalog.x - 511.5) < 12, np.abs(catalog.y - 511.5) < 12
    assert np.array_equal((catalog.flags & SpotFlag.AMP_BOUNDARY) != 0, at_x | at_y)
    assert np.array_equal((catalog.flags & SpotFlag.MIDLINE) != 0, at_y)
    assert not (catalog.flags & ~int(SpotFlag.AMP_BOUNDARY | SpotFlag.MIDLINE)).any()


@pytest.mark.parametrize(
    ("plane", "flag"),
    [
        (MaskPlane.BAD, SpotFlag.MASKED),
        (MaskPlane.NO_DATA, SpotFlag.MASKED),
        (MaskPlane.SAT, SpotFlag.SATURATED),
        (MaskPlane.EDGE, SpotFlag.EDGE),
        (MaskPlane.MIDLINE, SpotFlag.MIDLINE),
    ],
)
def test_planes_of_the_mask_become_flags_of_the_spots_that_they_touch(
    bench: SpotBench, image: np.ndarray, plane: MaskPlane, flag: SpotFlag
) -> None:
    x, y = bright_spot(bench)
    mask = np.zeros(image.shape, dtype=np.int16)
    mask[round(y) - 3, round(x) + 9] = plane
    catalog = images.measure(bench, image, mask=mask).catalog
    flagged = np.flatnonzero(catalog.flags & ~int(SpotFlag.AMP_BOUNDARY) & int(flag))
    without = images.measure(bench, image).catalog
    at_border = np.flatnonzero(without.flags & ~int(SpotFlag.AMP_BOUNDARY) & int(flag))
    assert set(flagged) - set(at_border) == {nearest(catalog, x, y)}


def test_neighbours_within_two_apertures_blend(bench: SpotBench, image: np.ndarray) -> None:
    x, y = bright_spot(bench)
    column, row = round(x), round(y)
    doubled = image.copy()
    doubled[row - 10 : row + 11, column + 8 : column + 29] += 0.3 * image[row - 10 : row + 11, column - 10 : column + 11]
    catalog = images.measure(bench, doubled).catalog
    blended = (catalog.flags & SpotFlag.BLEND) != 0
    assert blended.sum() == 2
    assert np.hypot(catalog.x - x, catalog.y - y)[blended].max() < 22


def test_spots_at_the_edge_are_flagged_and_do_not_break_anything(bench: SpotBench) -> None:
    moved = bench.exposures()[0]
    shifted = type(moved)(moved.number, moved.commanded, moved.projector, (moved.centre[0] + 60.0, moved.centre[1]), moved.lamp)
    catalog = images.measure(bench, draw_exposure(bench, shifted)).catalog
    leaves = catalog.x > 1023.5 - 12
    assert leaves.any()
    assert ((catalog.flags[leaves] & SpotFlag.EDGE) != 0).all()


def test_saturated_spots_are_flagged() -> None:
    bench = images.fixed_bench(exposures=1, electrons=8e6)
    well = bench.detector.amplifiers[0].saturation
    image = np.minimum(draw_exposure(bench, bench.exposures()[0]), well)
    mask = np.where(image >= well, int(MaskPlane.SAT), 0).astype(np.int16)
    catalog = images.measure(bench, image, mask=mask).catalog
    light = bench.spot_light(bench.exposures()[0])
    for spot in np.flatnonzero(light.flux > 5e6):
        assert catalog.flags[nearest(catalog, light.x[spot], light.y[spot])] & SpotFlag.SATURATED


def test_segment_without_data_leaves_the_others_alone(bench: SpotBench, image: np.ndarray) -> None:
    dead = image.copy()
    dead[:512, :512] = np.nan
    mask = np.where(np.isnan(dead), int(MaskPlane.NO_DATA), 0).astype(np.int16)
    whole, partly = images.measure(bench, image).catalog, images.measure(bench, dead, mask=mask).catalog
    far = np.flatnonzero((whole.x > 620) & (whole.y > 620))
    for row in far:
        other = nearest(partly, whole.x[row], whole.y[row])
        assert abs(partly.xx[other] - whole.xx[row]) < 0.1 * whole.xx_err[row]
    assert not ((partly.x < 490) & (partly.y < 490)).any()


def test_image_without_spots_gives_an_empty_catalog(bench: SpotBench) -> None:
    noise = np.random.default_rng(5).normal(100, 10, bench.detector.shape).astype(np.float32)
    measurement = images.measure(bench, noise)
    assert len(measurement.catalog) == 0
    assert np.isnan(measurement.growth.fraction).all()
    blank = images.measure(bench, np.zeros(bench.detector.shape, dtype=np.float32))
    assert len(blank.catalog) == 0


def test_arrays_of_another_detector_are_an_error(bench: SpotBench, image: np.ndarray) -> None:
    other = load_camera("lsstcam")["R02_S02"]
    with pytest.raises(SpotError, match=r"image has shape \(1024, 1024\), detector R02_S02"):
        measure_spots(image, image, np.zeros(image.shape, dtype=np.int16), other)
    with pytest.raises(SpotError, match="the mask has shape"):
        measure_spots(image, image, np.zeros((3, 3), dtype=np.int16), bench.detector)


def test_image_without_usable_pixels_is_an_error(bench: SpotBench, image: np.ndarray) -> None:
    with pytest.raises(SpotError, match="no usable pixels"):
        images.measure(bench, image, mask=np.full(image.shape, int(MaskPlane.NO_DATA), dtype=np.int16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radii": (5.0, 3.0)}, "must be positive and increase"),
        ({"radii": ()}, "at least 1 item"),
        ({"flux_radius": 11.0}, "flux_radius 11 is not one of the aperture radii"),
        ({"reference_radius": 26.0}, "reference_radius 26 is not one"),
    ],
)
def test_options_that_contradict_each_other_are_an_error(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MeasureConfig(**options)
