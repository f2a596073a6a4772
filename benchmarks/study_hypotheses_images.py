"""Pulls of the fractions of efficiency, pixel area and diffusion through images: prints the table of docs/theory/compare_physics.md.

Sensors of the cut-out camera whose flat is a mixture of known parts; 40 dithers of the spot projector with its glow, as reduced images
with photon and read noise; measured, labelled and calibrated as by ``permil spots``, compared as by ``permil compare``. The truth of
each sensor is ``cov(kind, F) / var(F)`` of its own maps.

    OMP_NUM_THREADS=1 python benchmarks/study_hypotheses_images.py --seeds 10 --mixture 50/50/0
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from permil.camera import Detector
from permil.compare.hypotheses.fit import fit_hypotheses
from permil.compare.hypotheses.predict import Stars, predict_bands
from permil.compare.hypotheses.results import KINDS, TOTAL, HypothesisFit
from permil.compare.scales import PERIODS, bands_between, cosine_wavenumbers
from permil.compare.stars.flat_at_stars import RelativeFlat, relative_flat
from permil.compare.stars.profile import fit_profile
from permil.compare.stars.response import QUANTITIES, StarPlaces, StarResponse
from permil.config.simulate import SimulateSpotsConfig
from permil.config.spots import MeasureConfig
from permil.simulate.spots.bench import SpotBench, draw_exposure
from permil.simulate.spots.sensor import SensorMaps
from permil.spots.calibration import calibrate
from permil.spots.catalog import SpotCatalog
from permil.spots.flux_model import TensorSplines
from permil.spots.grid import find_grid
from permil.spots.measure import SpotMeasurement, measure_spots
from permil.spots.measurements import common_window, gather
from permil.spots.residuals import Residuals

FloatArray = NDArray[np.float64]

DITHERS = 40
FLAT_NOISE = 0.9e-3
"""Noise of a pixel of the flat that the preset ``stars-and-flats`` makes."""
KNOTS = 64.0
REGION = 64.0
"""Sigma (pixels) over which the number of stars is smoothed: where the truth is asked."""


@dataclass(frozen=True)
class Mixture:
    """Parts of the variance of a flat, and its rms."""

    parts: tuple[float, float, float]
    rms: float


MIXTURES = {
    "100/0/0": Mixture((1.0, 0.0, 0.0), 3e-3),
    "0/100/0": Mixture((0.0, 1.0, 0.0), 3e-3),
    "50/50/0": Mixture((0.5, 0.5, 0.0), 3e-3),
    # More takes more diffusion than the cores of the spots can give.
    "40/40/20": Mixture((0.4, 0.4, 0.2), 1.5e-3),
}


@dataclass(frozen=True)
class Run:
    """One sensor: what was found, the truth by scale, how many stars calibration has left out, and the time of the processor."""

    fit: HypothesisFit
    truth: dict[str, FloatArray]
    left_out: int
    seconds: float


def make_bench(seed: int, mixture: Mixture) -> SpotBench:
    """Return the spot projector and a sensor that is the mixture and nothing else."""
    efficiency, area, diffusion = mixture.parts
    others = ("efficiency_rms", "pixel_efficiency_rms", "tree_ring_rms", "pixel_area_rms", "diffusion_rms_px2")
    nothing = dict.fromkeys(others, 0.0)
    parts = {"rms": mixture.rms, "efficiency": efficiency, "area": area, "diffusion": diffusion}
    settings = {"seed": seed, "campaign": {"exposures": DITHERS}, "sensor": {**nothing, "mixture": parts}}
    return SpotBench(SimulateSpotsConfig.model_validate(settings))


def measure_exposures(bench: SpotBench, options: MeasureConfig) -> list[SpotMeasurement]:
    """Expose and measure all dithers."""
    detector = bench.detector
    read_variance, mask = np.zeros(detector.shape), np.zeros(detector.shape, dtype=np.int32)
    for amplifier in detector.amplifiers:
        read_variance[amplifier.slices] = amplifier.read_noise**2
    measured = []
    for exposure in bench.exposures():
        image = draw_exposure(bench, exposure)
        variance = (np.maximum(image, 0.0) + read_variance).astype(np.float32)
        measured.append(measure_spots(image, variance, mask, detector, options=options))
    return measured


def calibrated(catalogs: list[SpotCatalog], detector: Detector, size: int) -> Residuals:
    """Label and calibrate as the stage `spots` does."""
    labelled, decided = [], []
    for number, catalog in enumerate(catalogs):
        grid = find_grid(catalog.x, catalog.y, columns=size, rows=size, usable=catalog.good)
        labelled.append(replace(catalog.with_labels(grid.grid_i, grid.grid_j), exposure=str(number)))
        decided.append(grid.window == "decided")
    placed = common_window(labelled, decided, columns=size, rows=size)
    measurements = gather(placed.catalogs, columns=size, rows=size)
    return calibrate(measurements, splines=TensorSplines(detector.shape, KNOTS, 3)).residuals


def stars_of(residuals: Residuals) -> Stars:
    """Return the stars as the stage `compare` reads them."""
    used, expected = residuals.used, residuals.expected
    places = StarPlaces(
        residuals.x, residuals.y, expected["xx"], expected["yy"], expected["xy"], residuals.background / expected["flux"]
    )
    values = {name: getattr(residuals, name)[used] for name in QUANTITIES}
    errors = {"flux": residuals.flux_error[used]} | {name: error[used] for name, error in residuals.errors.items()}
    return Stars(places[used], residuals.spot[used], residuals.exposure[used], values, errors)


def response_of(measured: list[SpotMeasurement], stars: Stars, options: MeasureConfig) -> StarResponse:
    """Return the response of the mean star, its profile from growth curve and moments."""
    growth = np.median([entry.growth.fraction for entry in measured], axis=0)
    moment = float(np.nanmedian((stars.places.xx + stars.places.yy) / 2))
    return StarResponse(fit_profile(options.radii, growth, moment=moment), options.flux_radius)


def draw_flat(seed: int, maps: SensorMaps) -> RelativeFlat:
    """Return the true flat with white noise."""
    flat = maps.flat()
    noisy = flat + FLAT_NOISE * np.random.default_rng([seed, 1]).standard_normal(flat.shape)
    whole = np.ones(flat.shape, dtype=bool)
    return relative_flat(noisy, np.full(flat.shape, FLAT_NOISE**2), whole, np.zeros(flat.shape, dtype=int), reference="detector")


def true_fractions(maps: SensorMaps, stars: Stars, response: StarResponse) -> dict[str, FloatArray]:
    """Return cov(kind, F) / var(F) of the maps as stars see them, where stars are: by band, and in total."""
    shape = maps.efficiency.shape
    wavenumber = np.hypot(*cosine_wavenumbers(shape))
    nodes = np.linspace(0, wavenumber.max(), 1000)
    transfer = np.interp(wavenumber, nodes, response.transfer(nodes))
    where = np.zeros(shape)
    np.add.at(where, (np.rint(stars.places.y).astype(int), np.rint(stars.places.x).astype(int)), 1.0)
    where = ndimage.gaussian_filter(where, REGION, mode="reflect")
    where /= where.sum()
    above, found = np.zeros(3), {}
    total = 0.0
    for band in bands_between(PERIODS)[1:-1]:
        kinds = (maps.efficiency - 1, maps.area, maps.diffusion_flat)
        spectra = [np.where(band.holds(wavenumber), transfer * fft.dctn(kind, norm="ortho"), 0.0) for kind in kinds]
        seen = np.array([fft.idctn(spectrum, norm="ortho") for spectrum in spectra])
        covariance = (where * seen * seen.sum(axis=0)).sum(axis=(1, 2))
        found[band.name] = covariance / covariance.sum()
        above += covariance
        total += float(covariance.sum())
    return found | {TOTAL: above / total}


def run(seed: int, mixture: Mixture) -> Run:
    """Simulate a sensor and its images, measure, calibrate and compare."""
    begin, options = time.process_time(), MeasureConfig()
    bench = make_bench(seed, mixture)
    measured = measure_exposures(bench, options)
    residuals = calibrated([entry.catalog for entry in measured], bench.detector, bench.config.mask.spots)
    stars = stars_of(residuals)
    response = response_of(measured, stars, options)
    fit = fit_hypotheses(predict_bands(stars, draw_flat(seed, bench.maps), response))
    good = int(np.isfinite(residuals.flux).sum())
    return Run(fit, true_fractions(bench.maps, stars, response), good - len(stars), time.process_time() - begin)


def pulls_of(runs: list[Run], kind: int, scale: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return truth, estimate minus truth and error of each run."""
    entries = [entry.fit.fraction(KINDS[kind], scale) for entry in runs]
    truth = np.array([entry.truth[scale][kind] for entry in runs])
    return truth, np.array([entry.value for entry in entries]) - truth, np.array([entry.error for entry in entries])


def summary(pull: FloatArray) -> str:
    """Return mean and rms of pulls as cells of a table."""
    return f"{pull.mean():+.2f} +- {pull.std() / np.sqrt(max(pull.size - 1, 1)):.2f} | {np.sqrt((pull**2).mean()):.2f}"


def main() -> None:
    """Run the study and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--mixture", choices=list(MIXTURES), action="append")
    options = parser.parse_args()
    names = options.mixture or list(MIXTURES)
    pooled: dict[str, list[FloatArray]] = {kind: [] for kind in KINDS}
    print("| mixture | scale | kind | truth | value - truth | error | pull mean | pull rms |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        runs = [run(seed, MIXTURES[name]) for seed in range(1, options.seeds + 1)]
        for scale in (*(band.name for band in bands_between(PERIODS)[2:-1]), TOTAL):
            for number, kind in enumerate(KINDS):
                truth, difference, error = pulls_of(runs, number, scale)
                if scale == TOTAL:
                    pooled[kind].append(difference / error)
                print(
                    f"| {name} | {scale} | {kind} | {truth.mean():.3f} | {difference.mean():+.4f} | {np.median(error):.4f} | "
                    f"{summary(difference / error)} |",
                    flush=True,
                )
        slopes = {of: np.array([entry.fit.slope(of).value for entry in runs]) for of in ("flux", "shift", "size")}
        print(
            f"| {name} | slopes | "
            + ", ".join(f"{of} {values.mean():.4f} +- {values.std():.4f}" for of, values in slopes.items())
            + f" | {sum(entry.left_out for entry in runs)} stars left out | {np.mean([entry.seconds for entry in runs]):.0f} s | | | |"
        )
    for kind, pulls in pooled.items():
        print(f"| all | {TOTAL} | {kind} | | | | {summary(np.concatenate(pulls))} |")
    print(f"| all | {TOTAL} | all kinds | | | | {summary(np.concatenate([pull for each in pooled.values() for pull in each]))} |")


if __name__ == "__main__":
    main()
