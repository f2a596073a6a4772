"""Recovered over true: how well a run did on simulated data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table

from permil.camera import Camera
from permil.flat.files import difference_of_products
from permil.products import RunFolder, read_image, write_table

_UNITS = {"gradient_x": "1 / mm", "gradient_y": "1 / mm", "gradient_err": "1 / mm"}


@dataclass(frozen=True)
class TruthSummary:
    """Figures over all detectors of one LED; rms values relative.

    Attributes
    ----------
    rms_super, rms_super_err
        Root mean square over detectors of the rms on super-pixels, each detector over its own median.
    super_noise
        What the variance planes predict for it.
    scale_rms, scale_rms_err
        Scatter of recovered over true scale from detector to detector.
    chi_square, chi_square_err
        Small-scale chi-square per pixel.
    gradient, gradient_err
        Root mean square gradient of recovered over true, per mm.
    """

    led: str
    detectors: int
    rms_pixel: float
    rms_super: float
    rms_super_err: float
    super_noise: float
    scale_rms: float
    scale_rms_err: float
    chi_square: float
    chi_square_err: float
    gradient: float
    gradient_err: float


def compare_with_truth(folder: RunFolder, camera: Camera, *, super_pixel_mm: float) -> Table:
    """Compare every flat of a run with the truth of the simulation, write and return the figures, one row per LED and detector.

    Raises
    ------
    InputError
        If a product cannot be read.
    OutputError
        If the table cannot be written.
    """
    rows: list[dict[str, Any]] = []
    for led_folder in sorted((folder.truth / "flat").glob("*")):
        led = led_folder.name
        for detector in camera.detectors.values():
            made, true = folder.flat(led, detector.name), folder.truth_flat(led, detector.name)
            if not (made.is_file() and true.is_file()):
                continue
            d = difference_of_products(read_image(made), read_image(true), detector, super_pixel_mm=super_pixel_mm)
            rows.append(
                {
                    "led": led,
                    "detector": detector.name,
                    "scale": d.scale,
                    "scale_err": d.scale_error,
                    "rms_pixel": d.rms_pixel,
                    "rms_pixel_err": d.rms_pixel_error,
                    "rms_super": d.rms_super,
                    "rms_super_err": d.rms_super_error,
                    "super_noise": d.super_noise,
                    "chi_square": d.chi_square,
                    "chi_square_err": d.chi_square_error,
                    "gradient_x": d.gradient_x,
                    "gradient_y": d.gradient_y,
                    "gradient_err": d.gradient_error,
                }
            )
    table = Table(rows=rows)
    for name, unit in _UNITS.items():
        if rows:
            table[name].unit = unit
    table.meta = {"super_pixel_mm": super_pixel_mm}
    write_table(folder.comparison, table)
    return table


def summarise(comparison: Table) -> list[TruthSummary]:
    """Return the figures per LED."""
    summaries = []
    for led in sorted(set(comparison["led"])):
        rows = comparison[comparison["led"] == led]
        count = len(rows)
        scale = np.asarray(rows["scale"], dtype=float)
        gradients = np.hypot(rows["gradient_x"], rows["gradient_y"])
        supers = np.asarray(rows["rms_super"], dtype=float)
        scale_rms = float(np.std(scale / scale.mean(), ddof=1)) if count > 1 else np.nan
        summaries.append(
            TruthSummary(
                led=str(led),
                detectors=count,
                rms_pixel=_root_mean_square(rows["rms_pixel"]),
                rms_super=_root_mean_square(supers),
                rms_super_err=float(np.std(supers) / np.sqrt(count)),
                super_noise=_root_mean_square(rows["super_noise"]),
                scale_rms=scale_rms,
                scale_rms_err=scale_rms / np.sqrt(2 * (count - 1)) if count > 1 else np.nan,
                chi_square=float(np.mean(rows["chi_square"])),
                chi_square_err=float(np.sqrt(np.sum(np.square(rows["chi_square_err"]))) / count),
                gradient=_root_mean_square(gradients),
                gradient_err=float(np.std(gradients) / np.sqrt(count)),
            )
        )
    return summaries


def _root_mean_square(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(values, dtype=float)))))
