"""Signals on super-pixels: means over always the same pixels, with the expected variance, whatever hits single pixels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from astropy.table import Table
from scipy import special
from scipy.ndimage import spline_filter

from permil.beam.model import SplineTable
from permil.camera import Camera
from permil.camera.frames import detector_to_ccs
from permil.errors import FlatError, InputError
from permil.exposures.exposure import Exposure, exposures_to_table
from permil.flat.joint.light import JointLight
from permil.flat.signals import StoredDetectors, SuperPixelSignals, read_signals, write_signals
from permil.flat.steps.exposures import exposure_list, unique_exposures
from permil.flat.superpixel import average_exposure, block_sums, flattened, make_layout, median_image
from permil.products import MaskPlane

BLOCK = 8
READ_NOISE, LEVEL_NOISE = 6.0, 2.0


class Stand:
    """A detector with a pattern, bad pixels and a sloping beam."""

    def __init__(self, camera: Camera, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.detector = camera["R22_S11"]
        shape = self.detector.shape
        self.good = self.rng.random(shape) > 0.02
        self.good[:2], self.good[-2:], self.good[:, :2], self.good[:, -2:] = False, False, False, False
        self.response = 1 + 0.02 * self.rng.standard_normal(shape)

    def mean(self, slope: float, level: float = 2e4) -> np.ndarray:
        """Return the light of an exposure."""
        x = np.linspace(-1, 1, self.detector.nx)
        return level * (1 + slope * x)[None, :] * self.response

    def expose(self, mean: np.ndarray) -> np.ndarray:
        """Return one noisy exposure."""
        noisy = mean + np.sqrt(mean + READ_NOISE**2) * self.rng.standard_normal(mean.shape)
        for amplifier in self.detector.amplifiers:
            noisy[amplifier.slices] += LEVEL_NOISE * self.rng.standard_normal((noisy[amplifier.slices].shape[0], 1))
        return noisy.astype(np.float32)

    def layout(self):
        """Lay super-pixels over the detector."""
        images = [self.expose(self.mean(0.05)) for _ in range(5)]
        images[0][50, 50:60] += 3e4
        return make_layout([flattened(image, self.good, BLOCK) for image in images], self.good, self.detector, block=BLOCK)

    def average(self, image, layout, usable=None):
        """Average an exposure."""
        count = len(self.detector.amplifiers)
        return average_exposure(
            image,
            np.where(self.good if usable is None else usable, 0, int(MaskPlane.SAT)).astype(np.int16),
            layout,
            noise_variance=np.full(count, READ_NOISE**2),
            level_variance=np.full(count, LEVEL_NOISE**2),
            threshold=5.0,
        )

    def block_means(self, image, layout):
        """Return plain means over the good pixels of each block."""
        rows = [image[r * BLOCK : (r + 1) * BLOCK, c * BLOCK : (c + 1) * BLOCK] for r, c in zip(layout.row, layout.column)]  # noqa: B905
        masks = [self.good[r * BLOCK : (r + 1) * BLOCK, c * BLOCK : (c + 1) * BLOCK] for r, c in zip(layout.row, layout.column)]  # noqa: B905
        return np.array([part[mask].mean() for part, mask in zip(rows, masks, strict=True)])


@pytest.fixture
def stand(bin8: Camera) -> Stand:
    return Stand(bin8, 3)


def test_mean_and_variance_are_those_of_the_noise(stand: Stand) -> None:
    layout = stand.layout()
    mean = stand.mean(-0.1)
    truth = stand.block_means(mean, layout)
    pulls = []
    for _ in range(3):
        signal, variance, _ = stand.average(stand.expose(mean), layout)
        pulls.append((signal - truth) / np.sqrt(variance))
    pulls = np.array(pulls)
    assert np.mean(pulls) == pytest.approx(0, abs=5 / np.sqrt(pulls.size))
    assert np.mean(pulls**2) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("step", [2, 3])
def test_a_sample_of_rows_has_mean_place_and_variance_of_its_own_pixels(stand: Stand, step: int) -> None:
    half = np.arange(step // 2, stand.detector.ny // 2, step)
    rows = np.concatenate([half, stand.detector.ny - 1 - half[::-1]])
    images = [stand.expose(stand.mean(0.05)) for _ in range(5)]
    good = stand.good[rows]
    parts = [flattened(image[rows], good, BLOCK, block_rows=rows // BLOCK) for image in images]
    layout = make_layout(parts, good, stand.detector, block=BLOCK, rows=rows)
    assert layout.shape == stand.layout().shape
    assert len(layout.row) > 0.97 * len(stand.layout().row)
    sampled = np.zeros(stand.good.shape, dtype=bool)
    sampled[rows] = good
    stand.good = sampled
    y, x = np.mgrid[: stand.detector.ny, : stand.detector.nx].astype(float)
    places = detector_to_ccs(stand.detector, stand.block_means(x, layout), stand.block_means(y, layout))
    np.testing.assert_allclose((layout.x_mm, layout.y_mm), places, atol=1e-9)
    mean = stand.mean(-0.1)
    truth = stand.block_means(mean, layout)
    pulls = []
    for _ in range(3):
        exposed = stand.expose(mean)
        signal, variance, _ = stand.average(exposed[rows], layout, good)
        pulls.append((signal - truth) / np.sqrt(variance))
    assert np.mean(pulls) == pytest.approx(0, abs=5 / np.sqrt(np.size(pulls)))
    assert np.mean(np.square(pulls)) == pytest.approx(1, abs=0.06)


def test_sums_over_blocks_of_a_sample_of_rows() -> None:
    rng = np.random.default_rng(1)
    image, good, rows = rng.normal(size=(40, 30)), rng.random((40, 30)) > 0.1, np.array([1, 3, 8, 9, 20, 39])
    found = block_sums(image[rows], 7, good=good[rows], block_rows=rows // 7)
    alone = np.zeros_like(image)
    alone[rows] = np.where(good, image, 0)[rows]
    np.testing.assert_allclose(found, block_sums(alone, 7), atol=1e-12)


def test_cosmic_rays_and_saturated_pixels_do_not_move_a_signal(stand: Stand) -> None:
    layout = stand.layout()
    clean = stand.expose(stand.mean(0.08))
    hit, usable = clean.copy(), stand.good.copy()
    places = stand.rng.integers(10, 490, (400, 2))
    hit[places[:, 0], places[:, 1]] += stand.rng.uniform(1500, 4e4, 400).astype(np.float32)
    saturated = stand.rng.integers(10, 490, (100, 2))
    usable[saturated[:, 0], saturated[:, 1]] = False
    before, variance, _ = stand.average(clean, layout)
    after, _, rejected = stand.average(hit, layout, usable)
    assert rejected > 350
    both = np.isfinite(before) & np.isfinite(after)
    assert both.mean() > 0.99
    moved = (after - before)[both] / np.sqrt(variance[both])
    # Leaving out k of 64 pixels moves a mean by sqrt(k / 64) of its error.
    assert np.abs(moved).max() < 1.0


def test_a_super_pixel_that_loses_too_many_pixels_has_no_signal(stand: Stand) -> None:
    layout = stand.layout()
    usable = stand.good.copy()
    usable[80:88, 80:88][:3] = False
    signal, variance, _ = stand.average(stand.expose(stand.mean(0.0)), layout, usable)
    lost = (layout.row == 10) & (layout.column == 10)
    assert np.isnan(signal[lost]).all()
    assert np.isnan(variance[lost]).all()
    assert np.isfinite(signal[~lost]).all()


def test_masked_pixels_move_the_place_of_a_super_pixel(stand: Stand) -> None:
    stand.good[:] = True
    stand.good[40:48, 40:44] = False
    layout = stand.layout()
    at = (layout.row == 5) & (layout.column == 5)
    x, y = detector_to_ccs(stand.detector, 45.5, 43.5)
    assert layout.x_mm[at][0] == pytest.approx(float(x))
    assert layout.y_mm[at][0] == pytest.approx(float(y))
    assert layout.count[at] == 32


def test_nothing_good_is_refused(stand: Stand) -> None:
    stand.good[:] = False
    with pytest.raises(FlatError, match="no super-pixel"), np.errstate(invalid="ignore"):
        make_layout([stand.expose(stand.mean(0.0))], stand.good, stand.detector, block=BLOCK)


def test_median_image_is_numpys() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 4, 5):
        images = rng.standard_normal((count, 20, 30)).astype(np.float32)
        images[rng.random(images.shape) < 0.2] = np.nan
        images[:, 0, 0] = np.nan
        expected = np.full((20, 30), np.nan)
        some = np.isfinite(images).any(axis=0)
        expected[some] = np.nanmedian(images[:, some].astype(np.float64), axis=0)
        np.testing.assert_allclose(median_image(list(images)), expected, rtol=1e-6)


def signals_of(stand: Stand) -> SuperPixelSignals:
    layout = stand.layout()
    levels = (2e4, 3e3, 1.0)
    found = [stand.average(stand.expose(stand.mean(0.5, level)), layout)[:2] for level in levels]
    return SuperPixelSignals.of(
        "R22_S11",
        layout,
        ["a", "b", "dark"],
        signal=np.array([entry[0] for entry in found], dtype=np.float32),
        variance=np.array([entry[1] for entry in found], dtype=np.float32),
        left_out=(("/raw/x.fits", "cut short"),),
    )


def test_signals_survive_their_file(stand: Stand, tmp_path) -> None:
    signals = signals_of(stand)
    path = tmp_path / "R22_S11.fits"
    write_signals(path, signals, fingerprint="abc", led="red")
    again = read_signals(path)
    for name in ("obsid", "signal", "variance", "row", "column", "x_mm", "y_mm"):
        np.testing.assert_array_equal(getattr(again, name), getattr(signals, name))
    assert (again.shape, again.block, again.left_out) == (signals.shape, BLOCK, signals.left_out)
    detectors = StoredDetectors([path, path], {"b": 0, "a": 4}, 2500.0)
    assert [list(detector.exposures) for detector in detectors] == [[4, 0], [4, 0]]
    dim = detectors[1].log_signal[1]
    # Half of the detector has less than 2500 electrons in the dim exposure.
    assert np.isfinite(dim).mean() == pytest.approx(0.667, abs=0.03)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError):
        read_signals(path)


def test_footprint_reaches_edges_but_not_the_dark(stand: Stand) -> None:
    signals = signals_of(stand)
    assert signals.footprint(0, 2500.0).all()
    assert not signals.footprint(2, 2500.0).any()
    half = signals.footprint(1, 2500.0)
    x = np.linspace(-1, 1, half.shape[1])
    assert half[:, 3000 * (1 + 0.5 * x) > 2700].all()
    assert not half[:, 3000 * (1 + 0.5 * x) < 2300].any()


def test_signals_near_the_limit_are_not_chosen_by_their_noise(stand: Stand) -> None:
    """Signals of 300 +- 2.2 electrons about a limit of 300: chosen by themselves they would be 1.8 electrons too bright."""
    layout = stand.layout()
    rng = np.random.default_rng(11)
    expected = 300.0 + 0.2 * (layout.column - layout.column.mean())
    noise = 2.2 * rng.standard_normal((40, len(expected)))
    signals = SuperPixelSignals.of(
        "R22_S11", layout, [str(number) for number in range(40)], signal=(expected + noise).astype(np.float32), variance=noise**0
    )
    lit = signals.lit(300.0)
    near = lit & (np.abs(expected - 300.0) < 1.0)
    assert 0.3 < lit.mean() < 0.7
    assert near.sum() > 5000
    assert noise[near].mean() == pytest.approx(0.0, abs=5 * 2.2 / np.sqrt(near.sum()))


def test_light_of_pixels_is_that_of_which_super_pixels_see_the_mean() -> None:
    """A Gaussian of 12 mm, averaged over squares of 1 mm, gives back the one that is averaged over 0.1 mm."""
    sigma, step, origin = 12.0, 1.5, np.array([-30.0, -33.0])

    def logarithm(side: float, u: np.ndarray) -> np.ndarray:
        ends = special.erf((u + side / 2) / (sigma * 2**0.5)) - special.erf((u - side / 2) / (sigma * 2**0.5))
        return np.log(ends * sigma * (np.pi / 2) ** 0.5 / side)

    axes = [start + step * np.arange(count) for start, count in zip(origin, (41, 45), strict=True)]
    values = [np.add.outer(*(logarithm(side, axis) for axis in axes)) for side in (1.0, 0.1)]
    table, wanted = (SplineTable(spline_filter(value, order=3, mode="mirror"), origin, step) for value in values)
    light = JointLight(((table, -1.0),), {}, side_mm=1.0).averaged_over(0.1)
    places = np.random.default_rng(1).uniform(-14, 14, (200, 2))
    found, expected = light.tables[0][0].at(places), wanted.at(places)
    # The change is k (b_xx + b_yy + b_x^2 + b_y^2) with k = 0.041 mm^2; what is left is of fourth order.
    assert np.abs(table.at(places) - expected).max() > 4e-4
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert light.side_mm == 0.1


def rows(**columns: list) -> Table:
    count = len(columns["obsid"])
    return exposures_to_table([Exposure(**{name: column[number] for name, column in columns.items()}) for number in range(count)])


@pytest.mark.parametrize("known_days", [True, False])
@pytest.mark.parametrize("missing", [[], [0], [1, 2], [4], range(5)], ids=str)
def test_exposures_without_a_time_keep_their_place(missing: Iterable[int], known_days: bool) -> None:
    """The order of the rows stands for time then: an exposure at the end would belong to another move and drift."""
    days = ["20191028", "20191028", "20191028", "20191029", "20191029"]
    numbers = [9, 10, 11, 1, 2]
    mjd = [58784.10, 58784.11, 58784.12, 58785.01, 58785.02]
    for exposure in missing:
        mjd[exposure] = float("nan")
    table = rows(
        obsid=[f"MC_C_{day}_{number:06d}" for day, number in zip(days, numbers, strict=True)],
        day_obs=days if known_days else [""] * 5,
        seqnum=numbers if known_days else [0] * 5,
        mjd=mjd,
        x_mm=[0.0, 0.0, 5.0, 5.0, 5.0],
        y_mm=[0.0] * 5,
        position_id=[0, 0, 1, 1, 1],
        photodiode=[1.0] * 5,
        led_temp=[20.0] * 5,
    )
    unique = unique_exposures(table[[3, 1, 4, 0, 2]])
    assert list(unique["obsid"]) == list(table["obsid"])
    exposures = exposure_list(unique, with_photodiode=True)
    assert list(exposures.move) == [0, 0, 1, 1, 1]
    assert (np.diff(exposures.time) > 0).all()


def test_exposure_list_groups_the_moves_of_the_stage() -> None:
    table = rows(
        obsid=["c", "a", "b", "b", "d"],
        detector=["R22_S11", "R22_S11", "R22_S11", "R22_S10", "R22_S11"],
        mjd=[3.0, 1.0, 2.0, 2.0, 4.0],
        x_mm=[5.0, 1.0, 1.0002, 1.0002, 1.0],
        y_mm=[5.0, 0.0, 0.0, 0.0, 0.0],
        position_id=[1, 0, 0, 0, 0],
        photodiode=[2.0, float("nan"), 1.0, 1.0, 1.5],
        led_temp=[20.0, 20.0, 20.0, 20.0, 20.0],
    )
    unique = unique_exposures(table)
    assert list(unique["obsid"]) == ["a", "b", "c", "d"]
    exposures = exposure_list(unique, with_photodiode=True)
    assert list(exposures.move) == [0, 0, 1, 2]
    assert exposures.x_mm[:2] == pytest.approx(1.0001)
    np.testing.assert_allclose(exposures.log_photodiode, np.log([np.nan, 1, 2, 1.5]))
    # A temperature that does not change explains nothing.
    assert exposures.regressors.shape == (4, 0)
    assert np.isnan(exposure_list(unique, with_photodiode=False).log_photodiode).all()
    unique["led_temp"][2] = 21.0
    assert exposure_list(unique, with_photodiode=True).regressors.shape == (4, 1)
