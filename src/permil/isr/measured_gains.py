"""Gains measured from the repeated images of a campaign: the noise of each detector, the fit of each vendor, the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table

from permil.arrays import FloatArray
from permil.camera import Camera, Detector, shared_camera
from permil.camera.frames import detector_to_ccs
from permil.config import Config
from permil.context import Run
from permil.errors import InputError
from permil.exposures import POINTING, SCAN, Index
from permil.isr.calibration.calibration import Calibration
from permil.isr.calibration.gains import read_gains
from permil.isr.inputs import detector_calibration
from permil.isr.photon_transfer import SIGNIFICANT, CurvaturePrior, GainRatio, TransferGains, TransferPoints, fit_gains
from permil.isr.reduce import reduce_file
from permil.isr.repeated_images import REACH, NoiseMoments, noise_moments
from permil.products import RunFolder, is_good, read_table, write_table

USUAL_BEND = 2e-3
"""Prior of a loss of signal at 50,000 electrons that no linearity table corrects."""

_MOST_IMAGES = 10
"""Images of a group that are in memory together."""

_MOST_GROUPS = 6
"""Groups of each LED, those nearest to the detector: its own pointings, with the most light."""

_LEAST_ELECTRONS = 1000.0
"""Mean signal of a cell below which readout noise contributes too much."""

_MOST_NAMES = 10
_MOMENTS = ("mean", "variance", "noise", "freedom")


@dataclass(frozen=True)
class NoiseRequest:
    """The repeated images of one detector; each group is of one position and LED."""

    config: Config
    root: Path
    detector: str
    groups: tuple[tuple[str, ...], ...]
    output: Path
    fingerprint: str


def repeated_groups(index: Index, detector: Detector) -> list[tuple[str, ...]]:
    """Return the files of the groups of images of one position and LED, two or more each."""
    groups: list[tuple[str, ...]] = []
    centre = np.array(detector_to_ccs(detector, *detector.centre_pixel), dtype=np.float64)
    for led in index.leds:
        found = []
        for purpose in (POINTING, SCAN):
            rows = index.select(purpose=purpose, led=led, detector=detector.name)
            rows.sort(["mjd", "obsid"])
            for position in dict.fromkeys(int(number) for number in rows["position_id"]):
                members = rows[rows["position_id"] == position]
                if position >= 0 and len(members) > 1:
                    place = np.array([np.mean(members["x_mm"]), np.mean(members["y_mm"])])
                    found.append((float(np.hypot(*(place - centre))), [str(path) for path in members["path"]]))
        for _, paths in sorted(found)[:_MOST_GROUPS]:
            pieces = [tuple(paths[first : first + _MOST_IMAGES]) for first in range(0, len(paths), _MOST_IMAGES)]
            groups += [piece for piece in pieces if len(piece) > 1]
    return groups


def measure_noise(task: NoiseRequest) -> None:
    """Measure the noise of the repeated images of a detector and write it.

    Raises
    ------
    CalibrationError, InputError
        If the calibration of the detector cannot be read. Files that cannot be used are left out.
    """
    camera, folder = shared_camera(task.config.camera), RunFolder(task.root)
    calibration = detector_calibration(task.config, camera, folder, task.detector)
    moments = []
    for number, paths in enumerate(task.groups):
        moments += [
            (amplifier, number, each) for amplifier, each in enumerate(_group_moments(task.config, camera, calibration, paths))
        ]
    points = TransferPoints.of([one for one in moments if one[2].mean.size])
    table = Table({"amplifier": points.amplifier, "group": points.group})
    for name in _MOMENTS:
        table[name] = getattr(points, name)
    for distance in range(REACH):
        table[f"covariance_{distance + 1}"] = points.covariance[:, distance]
    for name in ("variance", "noise", *(f"covariance_{distance + 1}" for distance in range(REACH))):
        table[name].unit = "adu2"
    table["mean"].unit = "adu"
    table.meta = {"fingerprint": task.fingerprint, "detector": task.detector}
    write_table(task.output, table)


def _group_moments(config: Config, camera: Camera, calibration: Calibration, paths: Sequence[str]) -> list[NoiseMoments]:
    """Return the moments of the images of one position, one for each amplifier that has light; empty for fewer than two images."""
    detector, gain = calibration.detector, calibration.gains.gain
    images = np.empty((len(paths), *detector.shape), dtype=np.float32)
    usable = np.ones(detector.shape, dtype=np.bool_)
    noise: list[FloatArray] = []
    level: list[FloatArray] = []
    for path in paths:
        try:
            image = reduce_file(path, camera, calibration, checksums=config.exposures.checksums)
        except InputError:
            # It is listed when it is reduced for the flat.
            continue
        images[len(noise)] = image.image
        usable &= is_good(image.mask)
        noise.append(image.noise_variance / gain**2)
        level.append(image.level_variance / gain**2)
    if len(noise) < 2:
        return []
    by_amplifier = zip(detector.amplifiers, gain, np.array(noise).T, np.array(level).T, strict=True)
    found = []
    for amplifier, own_gain, own_noise, own_level in by_amplifier:
        # Counts at the reference temperature, linear.
        counts = images[: len(noise), *amplifier.slices] / np.float32(own_gain)
        moments = noise_moments(counts, usable[amplifier.slices], noise_variance=own_noise, level_variance=own_level)
        found.append(moments.brighter_than(_LEAST_ELECTRONS / own_gain).merged())
    return found


def measure_vendor(
    run: Run, vendor: str, detectors: Sequence[str]
) -> tuple[list[tuple[object, ...]], dict[str, float], list[str]]:
    """Return rows of the table of one vendor, facts about it, and messages for the user."""
    isr, camera = run.config.isr, run.camera
    names = [(name, amplifier.name) for name in detectors for amplifier in camera[name].amplifiers]
    given = np.concatenate([read_gains(isr, camera[name], camera=camera).gain for name in detectors])
    points = _read_points(run, detectors)
    if not len(points):
        return (
            [(*names[place], vendor, given[place], *[np.nan] * 9, False) for place in range(len(names))],
            {},
            [f"{vendor}: no amplifier has light whose noise can be measured; its gains are unchanged"],
        )
    fit = fit_gains(points, len(names), curvature=_curvature(run.config, run.folder, names))
    found = fit.ratio(given)
    measured = np.isfinite(fit.gain)
    kept = given[measured].mean() / fit.gain[measured].mean()
    gain = np.where(measured, fit.gain * kept, given)
    rows: list[tuple[object, ...]] = [
        (
            *names[place],
            vendor,
            gain[place],
            gain[place] * np.hypot(found.error[place], fit.unseen[place]),
            given[place],
            fit.gain[place],
            fit.gain_err[place],
            fit.systematic[place],
            found.ratio[place],
            found.error[place],
            found.pull[place],
            fit.inconsistent[place] if measured[place] else np.nan,
            bool(found.contradicts[place]),
        )
        for place in range(len(names))
    ]
    facts = {
        "level": found.level,
        "loss_50ke": fit.loss,
        "loss_50ke_err": fit.loss_err,
        "strength_scatter": fit.scatter,
        "strength_scatter_limit": fit.scatter_limit,
        "chi_square": fit.chi_square,
    }
    return rows, {name: float(number) for name, number in facts.items()}, _messages(vendor, names, fit, found)


def _read_points(run: Run, detectors: Sequence[str]) -> TransferPoints:
    """Return the points of the detectors of a vendor, amplifiers and groups numbered through."""
    parts = []
    first_amplifier = first_group = 0
    for name in detectors:
        table = read_table(run.folder.noise_moments(name))
        covariance = np.column_stack(
            [np.asarray(table[f"covariance_{distance + 1}"], dtype=np.float64) for distance in range(REACH)]
        )
        mean, variance, noise, freedom = (np.asarray(table[moment], dtype=np.float64) for moment in _MOMENTS)
        amplifier = np.asarray(table["amplifier"], dtype=np.int64) + first_amplifier
        group = np.asarray(table["group"], dtype=np.int64) + first_group
        parts.append(TransferPoints(amplifier, group, mean, variance, covariance, noise, freedom))
        first_amplifier += len(run.camera[name].amplifiers)
        first_group = int(group.max(initial=first_group - 1)) + 1
    return TransferPoints.together(parts)


def _curvature(config: Config, folder: RunFolder, names: Sequence[tuple[str, str]]) -> CurvaturePrior:
    """Return the accuracy of the linearity: unknown, as measured, or exact if a table was given."""
    if config.isr.linearity == "none":
        return CurvaturePrior(USUAL_BEND, np.full(len(names), USUAL_BEND))
    if config.isr.linearity != str(folder.measured_linearity):
        return CurvaturePrior(0.0, np.zeros(len(names)))
    table = read_table(folder.measured_linearity, columns=("detector", "amp", "loss_err"))
    keys = zip(table["detector"], table["amp"], strict=True)
    error = {(str(detector), str(amp)): float(number) for (detector, amp), number in zip(keys, table["loss_err"], strict=True)}
    own = np.array([error.get(name, np.nan) for name in names])
    return CurvaturePrior(USUAL_BEND, np.where(np.isfinite(own), own, USUAL_BEND))


def _messages(vendor: str, names: Sequence[tuple[str, str]], fit: TransferGains, found: GainRatio) -> list[str]:
    """Return messages about gains that contradict the noise of the images."""
    measured = np.isfinite(fit.gain)
    error = float(np.nanmedian(found.error))
    level_error = float(np.nanmedian(np.hypot(fit.gain_err, fit.systematic) / fit.gain))
    summary = (
        f"{vendor}: gains from photon transfer differ from the input gains by {1e2 * (found.level - 1):+.2f} +- {1e2 * level_error:.2g} %; "
        f"ratios of {measured.sum()} amplifiers scatter by {1e3 * float(np.nanstd(found.ratio)):.2g} per mil "
        f"(median error {1e3 * error:.2g})"
    )
    sentences = [
        f"{detector} {amp}: the noise of its images indicates a gain {1e3 * (found.ratio[place] - 1):+.1f} +- "
        f"{1e3 * found.error[place]:.1g} per mil from the input gain, relative to the other amplifiers of {vendor}"
        for place, (detector, amp) in enumerate(names)
        if found.contradicts[place]
    ]
    sentences += [
        f"{detector} {amp}: the noise of its images is inconsistent between positions ({fit.inconsistent[place]:.1f} sigma): "
        "its gain changes during the campaign, or its noise is not that of photons"
        for place, (detector, amp) in enumerate(names)
        if measured[place] and fit.inconsistent[place] > SIGNIFICANT
    ]
    more = [f"... and {len(sentences) - _MOST_NAMES} more amplifiers of {vendor}"] if len(sentences) > _MOST_NAMES else []
    return [summary, *sentences[:_MOST_NAMES], *more]


def gain_table(rows: Sequence[tuple[object, ...]], meta: Mapping[str, object]) -> Table:
    """Return the table of measured gains, in the format of ``isr.gains``."""
    gains = ("gain", "gain_err", "configured", "measured", "measured_err", "systematic_err")
    names = ("detector", "amp", "vendor", *gains, "ratio", "ratio_err", "pull", "inconsistency", "contradicts")
    table = Table(rows=list(rows), names=names, dtype=("U16", "U8", "U8", *["f8"] * 10, "?"))
    for name in gains:
        table[name].unit = "electron / adu"
    table.meta = dict(meta)
    return table
