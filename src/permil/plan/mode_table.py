"""Table of the undetermined modes, with their errors under the prior."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.flat.joint.design import UndeterminedMode
from permil.plan.prediction import PlanPrediction


def mode_table(prediction: PlanPrediction) -> Table:
    """Return one row for each undetermined mode.

    Returns
    -------
    Table
        ``name``; ``wave_x``, ``wave_y`` (radians per mm) and ``period_mm`` of a lattice wave; ``detectors`` of a set; ``part``, the
        undetermined fraction of the square of the named pattern; ``error``, its relative error (rms over the flat) with photodiode and
        smoothness prior, NaN for a mode without a name.
    """
    modes = prediction.design.modes
    table = Table(
        {
            "name": np.array([mode.name for mode in modes], dtype=str),
            "wave_x": np.array([mode.wave_vector[0] for mode in modes], dtype=float),
            "wave_y": np.array([mode.wave_vector[1] for mode in modes], dtype=float),
            "period_mm": np.array([mode.period_mm for mode in modes], dtype=float),
            "detectors": np.array([" ".join(mode.detectors) for mode in modes], dtype=str),
            "part": np.array([mode.part for mode in modes], dtype=float),
            "error": errors_of_modes(prediction),
        }
    )
    for name in ("wave_x", "wave_y"):
        table[name].unit = "rad / mm"
    table["period_mm"].unit = "mm"
    return table


def errors_of_modes(prediction: PlanPrediction) -> NDArray[np.float64]:
    """Return the relative error of each undetermined mode under the prior, rms over the flat; NaN for modes without a name."""
    design = prediction.design
    lit = [np.isfinite(signals.pixel_error) for signals in prediction.signals]
    places = [
        np.column_stack([signals.footprint.x_mm, signals.footprint.y_mm])[used]
        for signals, used in zip(prediction.signals, lit, strict=True)
    ]
    names = np.repeat([signals.detector.name for signals in prediction.signals], [len(place) for place in places])
    patterns = [_pattern(mode, np.concatenate(places), names) for mode in design.modes]
    errors = np.full(len(patterns), np.nan)
    for number, pattern in enumerate(patterns):
        if pattern is not None:
            inside = np.abs(design.basis.T @ (pattern / np.linalg.norm(pattern)))
            errors[number] = np.linalg.norm(inside * design.mode_errors)
    return errors


def _pattern(mode: UndeterminedMode, places: NDArray[np.float64], names: NDArray[np.str_]) -> NDArray[np.complex128] | None:
    """Return the pattern of a mode over the cells, minus its mean; complex for a wave (sine and cosine)."""
    inside = np.isin(names, mode.detectors) if mode.detectors else np.ones(len(names), dtype=bool)
    if mode.name == "lattice":
        pattern = np.exp(1j * (places @ mode.wave_vector))
    elif mode.name == "set of detectors":
        pattern = inside.astype(complex)
    elif mode.name.startswith("gradient"):
        along = places[:, 0 if mode.name.endswith("x") else 1]
        pattern = (inside * (along - along[inside].mean())).astype(complex)
    else:
        return None
    return pattern - pattern.mean()
