"""A small test stand of arrays for the joint solution: detectors, scan and pointings, a random beam, a photodiode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from permil.flat.joint.data import DetectorSignals, ExposureList, logarithm_of
from permil.flat.joint.gains import BoardReadings
from permil.flat.joint.normal import normal_equations


@dataclass
class RandomBeam:
    """A plateau with soft edges, times smooth random structure."""

    structure: np.ndarray
    step: float
    width: float
    shape: tuple[float, float]

    @classmethod
    def draw(cls, rng, *, width=40.0, rms=3e-3, sigma=4.0):
        """Draw one; width, and sigma of the Gaussian that smooths the structure, in mm."""
        step = sigma / 4
        side = 2 * int(5 * width / step) + 1
        structure = gaussian_filter(rng.standard_normal((side, side)), sigma / step, mode="wrap")
        return cls(structure * (rms / structure.std()), step, width, tuple(1 + 0.01 * rng.standard_normal(2)))

    def log(self, ux, uy):
        """Logarithm at places relative to the projector, mm."""
        radius2 = (self.shape[0] * ux**2 + self.shape[1] * uy**2) / self.width**2
        middle = (self.structure.shape[0] - 1) / 2
        at = np.array([ux / self.step + middle, uy / self.step + middle])
        structure = map_coordinates(self.structure, at, order=3, mode="grid-wrap")
        return -0.25 * radius2**3 / (radius2**2 + 1.0) + np.log1p(structure)


@dataclass
class Campaign:
    """Data and truth."""

    exposures: ExposureList
    detectors: list[DetectorSignals]
    log_response: dict[str, np.ndarray]
    log_scale: np.ndarray
    beam: RandomBeam
    centres: np.ndarray
    floor: dict[str, np.ndarray]
    weather: np.ndarray
    boards: list[BoardReadings]
    coefficients: np.ndarray

    def response_error(self, solution):
        """Fitted minus true log response of each detector, its mean over all taken off."""
        error = {name: solution.log_response[name] - self.log_response[name] for name in self.log_response}
        mean = np.nanmean(np.concatenate(list(error.values())))
        return {name: deviation - mean for name, deviation in error.items()}


def precision_of(solution, detectors):
    """Inverse covariance of the unknowns at a solution, dense."""
    options = {"threshold": solution.threshold, "exposure_weights": solution.exposure_weights}
    precision = normal_equations(solution.model, detectors, solution.vector, **options).full_matrix
    solution.prior.add_to(precision)
    return precision


QUINCUNX = np.array([[-1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [-1.0, -1.0], [1.0, -1.0]])


def detector_places(columns, rows, *, pixels=16, pixel_mm=1.0, gap=0.5):
    """Names and super-pixel positions of a mosaic around (0, 0)."""
    pitch = pixels * pixel_mm + gap
    inside = (np.arange(pixels) - (pixels - 1) / 2) * pixel_mm
    x, y = (part.ravel() for part in np.meshgrid(inside, inside, indexing="ij"))
    places = {}
    for i in range(columns):
        for j in range(rows):
            centre = pitch * np.array([i - (columns - 1) / 2, j - (rows - 1) / 2])
            places[f"D{i}{j}"] = (x + centre[0], y + centre[1], centre)
    return places


def weather_of(rng, time, *, rms, correlation):
    """Coefficients of the five patterns of weather in each exposure."""
    covariance = np.exp(-np.abs(time[:, None] - time) / correlation) + 1e-12 * np.eye(len(time))
    return rms / 5**0.5 * np.linalg.cholesky(covariance) @ rng.standard_normal((len(time), 5))


def weather_pattern(coefficients, u, v):
    """Relative change of the light of each exposure at places (e, p) over the half side."""
    x, y, xx, xy, yy = (part[:, None] for part in coefficients.T)
    first = 3**0.5 * (x * u + y * v)
    return first + 5**0.5 / 2 * (xx * (3 * u**2 - 1) + yy * (3 * v**2 - 1)) + 3 * xy * u * v


THERMOMETER_STEP = 0.0625


@dataclass
class Boards:
    """Readout boards, one for each detector: their temperature moves by about its rms, smoothly; thermometers round.

    Coefficients (of the gain, per deg C) are drawn about a nominal one, with a common and an own part; the change in time is smooth, with
    its rms over the campaign.
    """

    temperature: float = 0.75
    length: float = 40.0
    nominal: float = 6.5e-4
    common: float = 1.5e-4
    own: float = 1.5e-4
    drift: float = 3e-5
    thermometers: int = 6


def smooth_process(rng, time, length):
    """A smooth process of unit variance."""
    covariance = np.exp(-(((time[:, None] - time) / length) ** 2) / 2) + 1e-9 * np.eye(len(time))
    return np.linalg.cholesky(covariance) @ rng.standard_normal(len(time))


def draw_boards(rng, boards, time, read):
    """Readings of the boards, the logarithm of what they make of the signals, and coefficients.

    The mean of that is 0 over the exposures that several boards read, in proportion to how many others do; or over all.
    """
    common = boards.nominal + boards.common * rng.standard_normal()
    readings, changes, coefficients = [], {}, []
    for name, chosen in read.items():
        temperature = boards.temperature * smooth_process(rng, time, boards.length)[chosen]
        drift = boards.drift * smooth_process(rng, time, len(time) / 3)[chosen]
        coefficient = common + boards.own * rng.standard_normal()
        offsets = rng.uniform(-5, 5, boards.thermometers)
        thermometers = np.round((temperature[:, None] + offsets) / THERMOMETER_STEP) * THERMOMETER_STEP
        readings.append(BoardReadings(f"board of {name}", (name,), chosen, thermometers))
        shared = np.sum([np.isin(chosen, others) for others in read.values()], axis=0) - 1
        weights = shared / shared.sum() if shared.any() else np.full(len(chosen), 1 / len(chosen))
        changes[name] = drift - weights @ drift - coefficient * (temperature - weights @ temperature)
        coefficients.append(coefficient)
    return readings, changes, np.array(coefficients)


def simulate(
    rng,
    *,
    columns=3,
    rows=3,
    pixels=16,
    pixel_mm=1.0,
    scan=12,
    scan_width=30.0,
    images=2,
    electrons=3e6,
    photodiode_noise=2e-3,
    photodiode_drift=0.0,
    photodiode_walk=0.0,
    photodiode_step=0.0,
    light_drift=1e-3,
    rotation=0.0,
    jitter=0.0,
    offset=(0.0, 0.0),
    beam=None,
    order="time",
    fiducial_every=0,
    weather=0.0,
    weather_time=1.0,
    weather_half=30.0,
    boards=None,
    whole=True,
):
    """Scan of the middle detector, then a quincunx of pointings on each; all detectors are read, or the one that is aimed at.

    The photodiode has white noise, a linear drift (its change over the campaign), a random walk (its rms at the end) and a step
    between scan and pointings.

    Weather of that rms multiplies the light by Legendre polynomials of first and second order of the place in the beam over a square of
    half side ``weather_half``; each coefficient is an Ornstein-Uhlenbeck process of the given correlation time (in exposures).

    After so many positions the projector goes back to a fiducial one, the middle of the scan, for an exposure of all detectors.
    """
    places = detector_places(columns, rows, pixels=pixels, pixel_mm=pixel_mm)
    names = list(places)
    scanned = names[len(names) // 2]
    steps = np.linspace(-scan_width / 2, scan_width / 2, scan) if scan else np.zeros(0)
    positions = [places[scanned][2] + (x, y) for x in steps for y in steps]
    read = [{scanned}] * len(positions)
    move = list(range(len(positions)))
    reach = pixels * pixel_mm / 4
    for name in names:
        for point in QUINCUNX:
            number = move[-1] + 1 if move else 0
            positions += [places[name][2] + reach * point] * images
            read += [set(names) if whole else {name}] * images
            move += [number] * images
    if fiducial_every:
        for place in range(len(positions) - len(positions) % fiducial_every, -1, -fiducial_every):
            positions.insert(place, places[scanned][2])
            read.insert(place, set(names))
            move[place:] = [max(move) + 1, *move[place:]]
        move = list(np.unique(np.array(move), return_inverse=True)[1])
    positions, move = np.array(positions), np.array(move)
    count = len(positions)
    time = np.arange(count, dtype=float)
    if order == "random":
        time = rng.permutation(count).astype(float)
    phase = time / max(count - 1, 1)
    log_scale = np.log(electrons) + light_drift * np.sin(9 * phase) + 1e-3 * rng.standard_normal(count)
    reading = log_scale - np.log(electrons) + photodiode_drift * (phase - 0.5) + photodiode_noise * rng.standard_normal(count)
    if photodiode_walk:
        reading[np.argsort(time)] += photodiode_walk * np.cumsum(rng.standard_normal(count)) / np.sqrt(count)
    reading += photodiode_step * (np.arange(count) >= scan**2)
    cosine, sine = np.cos(rotation), np.sin(rotation)
    lamp = positions + jitter * rng.standard_normal((move.max() + 1, 2))[move]
    centres = lamp @ np.array([[cosine, sine], [-sine, cosine]]) + np.asarray(offset)
    beam = beam or RandomBeam.draw(rng)
    coefficients = weather_of(rng, time, rms=weather, correlation=weather_time) if weather else np.zeros((count, 5))
    exposures = ExposureList(positions[:, 0], positions[:, 1], reading, time, move)
    detectors, responses, floors = [], {}, {}
    read_by = {name: np.array([number for number in range(count) if name in read[number]]) for name in names}
    readings, changes, board_coefficients = [], {}, np.zeros(0)
    if boards:
        readings, changes, board_coefficients = draw_boards(rng.spawn(1)[0], boards, time, read_by)
    for name, (x, y, centre) in places.items():
        chosen = read_by[name]
        tilt = 2e-3 * rng.standard_normal(2) / (pixels * pixel_mm)
        response = 0.01 * rng.standard_normal() + tilt[0] * (x - centre[0]) + tilt[1] * (y - centre[1])
        response = response + 1e-3 * rng.standard_normal(x.size)
        log_mean = log_scale[chosen, None] + response + beam.log(x - centres[chosen, :1], y - centres[chosen, 1:])
        if weather:
            u, v = ((place - centres[chosen, axis, None]) / weather_half for axis, place in enumerate((x, y)))
            log_mean += np.log1p(weather_pattern(coefficients[chosen], u, v))
        if boards:
            log_mean += changes[name][:, None]
        mean = np.exp(log_mean)
        signal = mean + np.sqrt(mean) * rng.standard_normal(mean.shape)
        log_signal, variance = logarithm_of(signal, mean)
        detectors.append(DetectorSignals(name, x, y, chosen, log_signal, variance))
        responses[name] = response
        floors[name] = 1 / np.sqrt(mean.sum(axis=0))
    return Campaign(exposures, detectors, responses, log_scale, beam, centres, floors, coefficients, readings, board_coefficients)
