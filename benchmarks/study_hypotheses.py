"""Pulls of fractions over many simulated sensors: prints the table of docs/theory/compare_physics.md.

Maps are independent Gaussian random fields on 512 x 512 pixels; stars are a mask of 10 x 10 spots with 40 dithers, their residuals
simulated as arrays. The truth of each sensor is ``cov(kind, F) / var(F)`` of its own maps.

    OMP_NUM_THREADS=1 python benchmarks/study_hypotheses.py --seeds 200
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from permil.compare.hypotheses.fit import fit_hypotheses
from permil.compare.hypotheses.predict import Stars, predict_bands
from permil.compare.hypotheses.results import KINDS, TOTAL, HypothesisFit
from permil.compare.scales import Band, bands_between, cosine_wavenumbers, split_bands
from permil.compare.stars.flat_at_stars import RelativeFlat, relative_flat
from permil.compare.stars.profile import StarProfile
from permil.compare.stars.response import QUANTITIES, StarPlaces, StarResponse

FloatArray = NDArray[np.float64]

SIZE = 512
PERIODS = (16.0, 32.0, 64.0, 128.0)
PITCH, SPOTS, DITHERS = 44.0, 10, 40
FLAT_RMS, FLAT_NOISE = 1.5e-3, 2e-3
ERRORS = {"flux": 1.5e-3, "dx": 0.006, "dy": 0.006, "xx": 0.03, "yy": 0.03, "xy": 0.02}
PROFILE = StarProfile((0.62, 0.30, 0.08), (4.2 + 1 / 12, 4.7**2 + 1 / 12, 10.4**2 + 1 / 12))
MIXTURES = {"100/0/0": (1.0, 0.0, 0.0), "0/100/0": (0.0, 1.0, 0.0), "50/50/0": (0.5, 0.5, 0.0), "40/40/20": (0.4, 0.4, 0.2)}
SCALES = (6.0, 8.0, 5.0)
"""Sigma (pixels) with which the white noise of each kind is smoothed: they differ on purpose."""


@dataclass(frozen=True)
class Sensor:
    """True maps of one sensor (3, ny, nx) and its measured flat."""

    kinds: FloatArray
    flat: RelativeFlat


def draw_sensor(rng: np.random.Generator, mixture: tuple[float, float, float], *, flat_noise: float = FLAT_NOISE) -> Sensor:
    """Draw independent fields whose variances are in the ratio of the mixture, and a noisy flat of them."""
    kinds = np.zeros((3, SIZE, SIZE))
    for kind, (part, scale) in enumerate(zip(mixture, SCALES, strict=True)):
        field = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), scale, mode="reflect")
        # Diffusion that makes long periods in a flat would have to be enormous.
        longest = PERIODS[-1] if kind == 2 else np.inf
        field = split_bands(field, (Band(0.0, longest),))[0][..., 0]
        kinds[kind] = FLAT_RMS * np.sqrt(part) * field / field.std()
    noise = np.full((SIZE, SIZE), flat_noise**2)
    measured = 1 + kinds.sum(axis=0) + flat_noise * rng.standard_normal((SIZE, SIZE))
    whole = np.ones((SIZE, SIZE), dtype=bool)
    return Sensor(kinds, relative_flat(measured, noise, whole, np.zeros((SIZE, SIZE), dtype=int), reference="detector"))


def draw_stars(rng: np.random.Generator, sensor: Sensor, response: StarResponse) -> Stars:
    """Draw the residuals of a dithered mask on a sensor."""
    i, j = np.divmod(np.arange(SPOTS**2), SPOTS)
    margin = (SIZE - (SPOTS - 1) * PITCH) / 2
    shifts = rng.uniform(-margin + 18, margin - 18, (DITHERS, 2))
    spot = np.tile(np.arange(SPOTS**2), DITHERS)
    exposure = np.repeat(np.arange(DITHERS), SPOTS**2)
    x = margin + PITCH * i[spot] + shifts[exposure, 0] + rng.normal(0, 0.1, spot.size)
    y = margin + PITCH * j[spot] + shifts[exposure, 1] + rng.normal(0, 0.1, spot.size)
    places = StarPlaces.round(x, y)
    fields = [split_bands(kind, (Band(0.0, np.inf),)) for kind in sensor.kinds]
    maps, potentials = (np.concatenate(parts, axis=2) for parts in zip(*fields, strict=True))
    templates = response.predict(places, maps, potentials).templates
    signal = sum(templates[:, :, kind, kind] for kind in range(3))
    # Spots differ in brightness by a factor of up to three in error.
    faint = np.exp(rng.uniform(-0.55, 0.55, SPOTS**2))[spot]
    errors = {name: ERRORS[name] * faint for name in QUANTITIES}
    values = {}
    for number, name in enumerate(QUANTITIES):
        values[name] = signal[:, number] + errors[name] * rng.standard_normal(x.size)
        values[name] -= (np.bincount(spot, values[name]) / DITHERS)[spot]
    return Stars(places, spot, exposure, values, errors)


def true_fractions(sensor: Sensor, stars: Stars, response: StarResponse) -> dict[str, FloatArray]:
    """Return cov(kind, F) / var(F) of the maps as stars see them, where stars are: by band, and in total."""
    along_y, along_x = cosine_wavenumbers((SIZE, SIZE))
    wavenumber = np.hypot(along_y, along_x)
    nodes = np.linspace(0, wavenumber.max(), 1000)
    transfer = np.interp(wavenumber, nodes, response.transfer(nodes))
    x, y = stars.places.x, stars.places.y
    area = np.s_[int(y.min()) : int(y.max()) + 1, int(x.min()) : int(x.max()) + 1]
    total, above = 0.0, np.zeros(3)
    found = {}
    for band in bands_between(PERIODS)[1:-1]:
        seen = []
        for field in sensor.kinds:
            spectrum = np.where(band.holds(wavenumber), transfer * fft.dctn(field, norm="ortho"), 0.0)
            seen.append(fft.idctn(spectrum, norm="ortho")[area])
        flat = np.sum(seen, axis=0)
        covariance = np.array([(kind * flat).mean() for kind in seen])
        found[band.name] = covariance / (flat**2).mean()
        total += (flat**2).mean()
        above += covariance
    return found | {TOTAL: above / total}


def run(seed: int, mixture: tuple[float, float, float]) -> tuple[HypothesisFit, dict[str, FloatArray]]:
    """Simulate a sensor and its stars, and fit."""
    rng = np.random.default_rng(seed)
    response = StarResponse(PROFILE)
    sensor = draw_sensor(rng, mixture)
    stars = draw_stars(rng, sensor, response)
    fit = fit_hypotheses(predict_bands(stars, sensor.flat, response, periods=PERIODS))
    return fit, true_fractions(sensor, stars, response)


def main() -> None:
    """Run the study and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--mixture", choices=list(MIXTURES), action="append")
    options = parser.parse_args()
    print("| mixture | scale | kind | truth | value | error | scatter | pull mean | pull rms | pull rms of a population |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.mixture or list(MIXTURES):
        runs = [run(1000 + seed, MIXTURES[name]) for seed in range(options.seeds)]
        for scale in (*(band.name for band in bands_between(PERIODS)[1:-1]), TOTAL):
            for number, kind in enumerate(KINDS):
                entries = [fit.fraction(kind, scale) for fit, _ in runs]
                truth = np.array([true[scale][number] for _, true in runs])
                value, error = np.array([entry.value for entry in entries]), np.array([entry.error for entry in entries])
                pull = (value - truth) / error
                # Only all scales together have the fractions of the mixture: the fields differ in their spectra.
                nominal = (value - MIXTURES[name][number]) / np.array([entry.population_error for entry in entries])
                population = f"{np.sqrt((nominal**2).mean()):.2f}" if scale == TOTAL else ""
                print(
                    f"| {name} | {scale} | {kind} | {truth.mean():.3f} | {value.mean():.3f} | {np.median(error):.4f} | "
                    f"{(value - truth).std():.4f} | {pull.mean():+.2f} +- {pull.std() / np.sqrt(pull.size):.2f} | "
                    f"{np.sqrt((pull**2).mean()):.2f} | {population} |",
                    flush=True,
                )
        for quantity in ("flux", "shift", "size"):
            slopes = [fit.slope(quantity) for fit, _ in runs]
            print(
                f"| {name} | slope | {quantity} |  | {np.mean([s.value for s in slopes]):.3f} | "
                f"{np.median([s.error for s in slopes]):.4f} | {np.std([s.value for s in slopes]):.4f} |  |  |  |"
            )
        scatter = {q: np.mean([fit.excess_scatter[q] for fit, _ in runs]) for q in QUANTITIES}
        print(
            f"| {name} | scatter over expected | {', '.join(f'{q} {v:.3f}' for q, v in scatter.items())} |  |  |  |  |  |  |  |"
        )


if __name__ == "__main__":
    main()
