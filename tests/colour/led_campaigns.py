"""Campaigns of arrays in which several LEDs are exposed by turns: one photodiode that drifts, one stage, a beam of each LED."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from permil.colour.planes import LedPlanes
from permil.flat.between_leds import SharedTerms
from permil.flat.joint import DetectorSignals, ExposureList, FlatCovariance, logarithm_of, solve_joint

VENDORS = ("E2V", "ITL")
QUINCUNX = np.array([[-1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [-1.0, -1.0], [1.0, -1.0]])
SPACING_MM = 4.0


@dataclass(frozen=True)
class Settings:
    """What a campaign has; sizes are relative rms over seeds, of the drift over the campaign.

    ``raft_gap_mm`` is between the left and the right half of the columns. With ``whole`` a pointing reads all detectors, else its target.
    """

    columns: int = 2
    rows: int = 2
    pixels: int = 8
    pixel_mm: float = 1.6
    gap_mm: float = 0.6
    raft_gap_mm: float = 0.0
    scan: int = 7
    scan_width: float = 24.0
    images: int = 1
    electrons: float = 3e6
    noise: float = 3e-4
    drift: float = 0.0
    walk: float = 0.0
    step: float = 0.0
    jitter: float = 0.0
    whole: bool = True
    light_gradient: float = 0.0
    vendor_ratio: dict = field(default_factory=dict)
    sensor_scatter: float = 0.0


@dataclass
class LedCampaign:
    """Signals of one LED, its true response, and by how much each photodiode reading differs from the light."""

    led: str
    exposures: ExposureList
    detectors: list
    log_response: dict
    vendors: tuple
    reading_error: np.ndarray

    def planes(self, *, shared: bool = True) -> LedPlanes:
        """Solve, and return level and gradients with their errors."""
        solution = solve_joint(self.exposures, self.detectors, spacing_mm=SPACING_MM, position_errors=True)
        errors = FlatCovariance(solution, self.detectors)
        values, covariance = errors.planes()
        names = tuple(detector.name for detector in self.detectors)
        return LedPlanes(self.led, names, values, covariance, SharedTerms.of(errors) if shared else None)

    def true_planes(self) -> np.ndarray:
        """Level and gradients of the true response."""
        rows = []
        for detector in self.detectors:
            design = np.column_stack(
                [np.ones(detector.x_mm.size), detector.x_mm - detector.x_mm.mean(), detector.y_mm - detector.y_mm.mean()]
            )
            rows.append(np.linalg.lstsq(design, self.log_response[detector.name])[0])
        return np.array(rows)


def random_beam(rng, *, width=16.0, rms=3e-3, sigma=5.0):
    """A function of the place relative to the projector: plateau with soft edges times smooth structure, logarithm."""
    step, side = sigma / 4, 161
    structure = gaussian_filter(rng.standard_normal((side, side)), 4.0, mode="wrap")
    structure *= rms / structure.std()

    def log(ux, uy):
        radius2 = (ux**2 + uy**2) / width**2
        at = np.array([ux / step + side // 2, uy / step + side // 2])
        return -0.25 * radius2**3 / (radius2**2 + 1.0) + map_coordinates(structure, at, order=3, mode="grid-wrap")

    return log


def simulate_leds(seed, leds, settings):
    """Return one `LedCampaign` for each LED; a detector of odd number is of the second vendor."""
    rng = np.random.default_rng(seed)
    side = settings.pixels * settings.pixel_mm
    inside = (np.arange(settings.pixels) - (settings.pixels - 1) / 2) * settings.pixel_mm
    x, y = (part.ravel() for part in np.meshgrid(inside, inside, indexing="ij"))
    places = {
        f"D{i}{j}": (side + settings.gap_mm) * np.array([i - (settings.columns - 1) / 2, j - (settings.rows - 1) / 2])
        for i in range(settings.columns)
        for j in range(settings.rows)
    }
    for number, name in enumerate(places):
        places[name][0] += settings.raft_gap_mm * ((number // settings.rows >= settings.columns // 2) - 0.5)
    names = list(places)
    vendors = tuple(VENDORS[number % 2] for number in range(len(names)))
    steps = np.linspace(-settings.scan_width / 2, settings.scan_width / 2, settings.scan)
    scanned = names[len(names) // 2]
    stays = [(places[scanned] + (a, b), {scanned}) for a in steps for b in steps]
    n_scan = len(stays)
    stays += [(places[n] + side / 4 * q, set(names) if settings.whole else {n}) for n in names for q in QUINCUNX]
    per_stay = len(leds) * settings.images
    phase = np.arange(len(stays) * per_stay) / (len(stays) * per_stay) - 0.5
    electronics = settings.drift * rng.standard_normal() * phase
    electronics += settings.walk / np.sqrt(phase.size) * np.cumsum(rng.standard_normal(phase.size))
    electronics += settings.step * rng.standard_normal() * (np.arange(phase.size) >= n_scan * per_stay)
    missed = settings.jitter * rng.standard_normal((len(stays), 2))
    common = {
        n: (0.01 * rng.standard_normal(), 2e-3 / side * rng.standard_normal(2), 1e-3 * rng.standard_normal(x.size)) for n in names
    }
    angle = rng.uniform(0, 2 * np.pi)
    found = []
    for number, led in enumerate(leds):
        beam = random_beam(rng)
        light = settings.light_gradient * (number % 2) / 30.0 * np.array([np.cos(angle), np.sin(angle)])
        own = {n: settings.sensor_scatter * rng.standard_normal() for n in names}
        mine = np.concatenate(
            [
                np.arange(stay * per_stay + number * settings.images, stay * per_stay + (number + 1) * settings.images)
                for stay in range(len(stays))
            ]
        )
        stay_of = np.repeat(np.arange(len(stays)), settings.images)
        positions = np.array([stays[stay][0] for stay in stay_of])
        centres = positions + missed[stay_of]
        log_scale = np.log(settings.electrons) + 1e-3 * rng.standard_normal(mine.size)
        reading_error = electronics[mine] + settings.noise * rng.standard_normal(mine.size)
        reading = log_scale + reading_error
        epoch = (stay_of >= n_scan).astype(int)
        exposures = ExposureList(positions[:, 0], positions[:, 1], reading, mine.astype(float), stay_of, epoch=epoch)
        detectors, responses = [], {}
        for name, vendor in zip(names, vendors, strict=True):
            level, tilt, pixels = common[name]
            response = level + own[name] + tilt[0] * x + tilt[1] * y + pixels
            response = response + np.log(settings.vendor_ratio.get((vendor, led), 1.0))
            chosen = np.array([row for row, stay in enumerate(stay_of) if name in stays[stay][1]])
            xs, ys = x + places[name][0], y + places[name][1]
            ux, uy = xs - centres[chosen, :1], ys - centres[chosen, 1:]
            mean = np.exp(log_scale[chosen, None] + response + beam(ux, uy) + light[0] * ux + light[1] * uy)
            log_signal, variance = logarithm_of(mean + np.sqrt(mean) * rng.standard_normal(mean.shape), mean)
            detectors.append(DetectorSignals(name, xs, ys, chosen, log_signal, variance))
            responses[name] = response
        found.append(LedCampaign(led, exposures, detectors, responses, vendors, reading_error))
    return found


def deviation(ratio, campaigns):
    """Measured minus true planes of a ratio, its mean level taken off."""
    true = campaigns[0].true_planes() - campaigns[1].true_planes()
    true[:, 0] -= true[:, 0].mean()
    return ratio.values - true
