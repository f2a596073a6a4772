"""Table of the linearity measured by the joint solutions of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.camera import Camera
from permil.context import Run
from permil.flat.joint.amplifier_linearity import REFERENCE_ELECTRONS, AmplifierLosses
from permil.isr.calibration.gains import read_gains
from permil.isr.calibration.linearity import LinearityCurve, linearity_from_table
from permil.products import fingerprint, is_current, read_table, stored_fingerprint, write_table

Losses = dict[tuple[str, str], tuple[float, float]]
"""Loss at 50,000 electrons and its error by detector and amplifier."""

_EXTENSION = "LINEARITY"
_SIGNIFICANT = 5.0
_LEAST_LOSS = 3e-4
"""Smallest difference that is reported."""

_MOST_NAMES = 10


def losses_hdu(losses: AmplifierLosses, camera: Camera) -> Any:
    """Return the extension of a joint solution with the losses of its amplifiers."""
    table = Table(
        {
            "detector": losses.detector,
            "amp": [camera[name].amplifiers[number].name for name, number in zip(losses.detector, losses.amplifier, strict=True)],
            "loss": losses.loss,
            "loss_err": losses.error,
        }
    )
    hdu = fits.BinTableHDU(table, name=_EXTENSION)
    hdu.header["LEVEL"] = (REFERENCE_ELECTRONS, "[electron] signal of the losses")
    hdu.header["MEANING"] = "relative loss of signal there, against the mean of all amplifiers"
    return hdu


def write_measured_linearity(run: Run, leds: Sequence[str]) -> list[str]:
    """Write the linearity of all amplifiers from the joint solutions of some LEDs; return the messages for the user.

    The mean curvature of the amplifiers stays that of the given table: only differences are measured.
    """
    config, camera, folder = run.config, run.camera, run.folder
    solutions = [path for led in leds if (path := folder.joint(led)).is_file()]
    losses = _combined(solutions)
    if not losses:
        return []
    isr = config.isr
    detectors = list(dict.fromkeys(str(name) for name in read_table(folder.gains, columns=("detector",))["detector"]))
    configured = None if isr.linearity == "none" else read_table(isr.linearity, columns=("detector",), purpose="linearity table")
    by_knots = configured is not None and "a1" not in {name.strip().casefold() for name in configured.colnames}
    rows: list[tuple[Any, ...]] = []
    for name in detectors:
        detector = camera[name]
        curves = [LinearityCurve.identity()] * len(detector.amplifiers)
        if configured is not None:
            curves = list(linearity_from_table(configured, detector, path=isr.linearity, camera=camera))
        gains = read_gains(isr, detector, camera=camera).gain
        for amplifier, curve, gain in zip(detector.amplifiers, curves, gains, strict=True):
            loss, error = losses.get((name, amplifier.name), (0.0, np.nan))
            a1, a1_err = loss * gain / REFERENCE_ELECTRONS, error * gain / REFERENCE_ELECTRONS
            if by_knots:
                corrected = curve(curve.knots)
                rows += [
                    (name, amplifier.name, adu, linear * (1.0 + a1 * linear), loss, error)
                    for adu, linear in zip(curve.knots, corrected, strict=True)
                ]
            else:
                rows.append((name, amplifier.name, curve.coefficients[0, 2] + a1, a1_err, loss, error))
    own = ("adu", "corrected_adu") if by_knots else ("a1", "a1_err")
    table = Table(rows=rows, names=("detector", "amp", *own, "loss", "loss_err"))
    for column in own:
        table[column].unit = "adu" if by_knots else "1 / adu"
    upstream = [stored_fingerprint(path) or "" for path in solutions]
    table.meta = {
        "fingerprint": fingerprint(
            {"step": "measured linearity", "detectors": detectors}, files=[isr.linearity], upstream=upstream
        ),
        "linearity": Path(config.isr.linearity).name,
        "leds": [str(led) for led in leds],
        "loss_at_electrons": REFERENCE_ELECTRONS,
    }
    # A table that a later run applies must not look new when it is not.
    if not is_current(folder.measured_linearity, table.meta["fingerprint"]):
        write_table(folder.measured_linearity, table)
    return _messages(losses)


def _combined(solutions: Sequence[Path]) -> Losses:
    """Return the losses of all amplifiers, averaged over solutions in the weights of their errors."""
    sums: dict[tuple[str, str], list[float]] = {}
    for path in solutions:
        table = read_table(path, extension=_EXTENSION)
        for row in table:
            weight = float(row["loss_err"]) ** -2.0
            own = sums.setdefault((str(row["detector"]), str(row["amp"])), [0.0, 0.0])
            own[0] += weight
            own[1] += weight * float(row["loss"])
    return {name: (moment / weight, weight**-0.5) for name, (weight, moment) in sums.items()}


def _messages(losses: Losses) -> list[str]:
    found = [
        (name, loss, error)
        for name, (loss, error) in losses.items()
        if abs(loss) > _SIGNIFICANT * error and abs(loss) > _LEAST_LOSS
    ]
    found.sort(key=lambda entry: -abs(entry[1]))
    sentences = [
        f"{detector} {amp}: at 50,000 electrons its signal is {1e3 * abs(loss):.2f} +- {1e3 * error:.1g} per mil "
        f"{'below' if loss > 0 else 'above'} a straight line, relative to the mean of all amplifiers"
        for (detector, amp), loss, error in found[:_MOST_NAMES]
    ]
    if sentences:
        sentences.append(
            f"the linearity of {len(found)} amplifiers differs from the mean of all; isr.linearity: measured corrects the differences"
        )
    return sentences
