"""A single exposure taken strip by strip against the same taken whole."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from permil.camera import Detector, load_camera
from permil.flat.combine import PointingCombination
from permil.flat.divide import PointingWeights, sampling_step
from permil.flat.pointings import LitExposure, LitImage, Pointing
from permil.isr import Calibration, Gains
from permil.isr.open_exposure import RowSample, Strip, strips_of
from permil.isr.reduce import DetectorImage
from permil.products import MaskPlane

SCALE, HITS = 4e4, 300
DETECTOR = load_camera("lsstcam-bin8")["R22_S11"]


NOTHING = np.zeros(len(DETECTOR.amplifiers))
CALIBRATION = Calibration(
    detector=DETECTOR,
    gains=Gains(NOTHING + 1, NOTHING, "test"),
    static_mask=np.zeros(DETECTOR.shape, dtype=np.int16),
    saturation=NOTHING + np.inf,
)
SAMPLED = RowSample.of(CALIBRATION, sampling_step(DETECTOR.shape))


@dataclass
class InMemory:
    """An exposure that is in memory; strips are copies of it, as those of a file are their own."""

    image: DetectorImage
    neighbours: int = 1

    @property
    def detector(self) -> Detector:
        """Return its detector."""
        return self.image.detector

    @property
    def noise_variance(self) -> np.ndarray:
        """Return what does not depend on the signal."""
        return self.image.noise_variance

    @property
    def sample(self) -> DetectorImage:
        """Return some rows."""
        rows = SAMPLED.detector_rows
        return replace(self.image, image=self.image.image[rows], mask=self.image.mask[rows])

    def read(self, strip: Strip) -> tuple[np.ndarray, np.ndarray]:
        """Return a copy of the rows of a strip."""
        return self.image.image[strip.detector_rows], self.image.mask[strip.detector_rows]


def _exposure(seed: int) -> tuple[LitExposure, np.ndarray]:
    """Return an exposure with cosmic rays, and where they are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: DETECTOR.ny, : DETECTOR.nx]
    beam = np.exp(-1e-6 * ((x - 200 - 20 * seed) ** 2 + (y - 300) ** 2)).astype(np.float32)
    beam[:, :17] = np.nan
    noise = rng.uniform(20, 60, len(DETECTOR.amplifiers))
    signal = rng.poisson(SCALE * np.nan_to_num(beam)).astype(np.float32)
    for amplifier, variance in zip(DETECTOR.amplifiers, noise, strict=True):
        signal[amplifier.slices] += rng.normal(0, np.sqrt(variance), (amplifier.ny, amplifier.nx)).astype(np.float32)
    hit = np.zeros(DETECTOR.shape, dtype=bool)
    hit[rng.integers(0, DETECTOR.ny, HITS), rng.integers(17, DETECTOR.nx, HITS)] = True
    signal[hit] += 5000
    image = DetectorImage(
        detector=DETECTOR,
        image=signal,
        mask=np.zeros(DETECTOR.shape, dtype=np.int16),
        read_noise=np.sqrt(noise),
        read_noise_err=np.zeros_like(noise),
        level_variance=np.zeros_like(noise),
        overscan_level=np.zeros_like(noise),
        gain=np.ones_like(noise),
    )
    pointing = Pointing(number=1, x_mm=0.0, y_mm=0.0, scale_error=1e-4, exposures=1, chi_square=np.nan, aimed=False, scan=True)
    reference = np.ones(DETECTOR.shape, dtype=np.float32)
    lit = LitExposure(
        pointing,
        InMemory(image),
        SAMPLED,
        lambda rows, columns: beam[rows, columns],
        scale=SCALE,
        reference=reference,
        threshold=5.0,
    )
    return lit, hit


def _combined(exposures: list[LitExposure], rows: int) -> PointingCombination:
    """Combine rows of all exposures, strip by strip."""
    combination = PointingCombination(DETECTOR.shape)
    weights = [PointingWeights.of(lit.sample(sampling_step(DETECTOR.shape))) for lit in exposures]
    for strip in strips_of(DETECTOR, rows=rows, neighbours=1):
        for lit, own in zip(exposures, weights, strict=True):
            for run, image in lit.strip(strip):
                combination.add(image, own, run)
    return combination


@pytest.mark.parametrize("strip", [1, 32, 77])
def test_strips_give_the_bits_of_the_whole(strip: int) -> None:
    whole, parts = (_combined([_exposure(seed)[0] for seed in range(3)], rows).result() for rows in (DETECTOR.ny, strip))
    for name in ("response", "variance", "mask", "scatter", "count"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_response_is_that_of_the_truth_without_cosmic_rays() -> None:
    exposures, hits = zip(*(_exposure(seed) for seed in range(8)), strict=True)
    flat = _combined(list(exposures), 32).result()
    lit = np.isfinite(flat.response)
    np.testing.assert_array_equal(lit[:, :17], False)
    assert lit[:, 17:].all()
    pull = (flat.response[lit] - 1) / np.sqrt(flat.variance[lit])
    assert abs(pull.std() - 1) < 0.02
    assert abs(pull.mean()) < 5 / np.sqrt(pull.size)
    np.testing.assert_array_equal(flat.count[lit], (8 - np.sum(hits, axis=0))[lit] - _by_chance(exposures, hits)[lit])


def _rejected(lit: LitImage) -> np.ndarray:
    return (lit.mask & int(MaskPlane.REJECTED)) != 0


def _by_chance(exposures: tuple[LitExposure, ...], hits: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.sum([_rejected(lit.whole()) & ~hit for lit, hit in zip(exposures, hits, strict=True)], axis=0)


def test_the_whole_consists_of_the_strips() -> None:
    lit, hit = _exposure(1)
    whole = lit.whole()
    for strip in strips_of(DETECTOR, rows=50, neighbours=0):
        for run, part in lit.strip(strip):
            for name in ("signal", "variance", "mask", "beam"):
                np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[run])
    assert _rejected(whole)[hit].all()


def test_an_outlier_counts_once_however_often_its_row_is_asked_for() -> None:
    lit, hit = _exposure(1)
    for _ in range(2):
        for strip in strips_of(DETECTOR, rows=50, neighbours=0):
            lit.strip(strip)
        lit.whole()
    assert hit.sum() <= lit.rejected <= hit.sum() + 5


def test_weights_of_a_sample_are_those_of_all_pixels() -> None:
    lit, _ = _exposure(2)
    of_sample, of_all = PointingWeights.of(lit.sample(sampling_step(DETECTOR.shape))), PointingWeights.of(lit.whole())
    assert of_sample.level == pytest.approx(of_all.level, rel=1e-3)
    assert of_sample.photon == pytest.approx(of_all.photon, rel=2e-3)
