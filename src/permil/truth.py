"""Recovered over true: how well a run did on simulated data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy import fft, ndimage

from permil.camera import Camera
from permil.compare.folder import CompareFolder
from permil.compare.hypotheses.fractions import KINDS, TOTAL
from permil.compare.inputs import read_stars, star_groups
from permil.compare.scales import PERIODS, bands_between, cosine_wavenumbers
from permil.compare.stars.response import StarResponse
from permil.flat.files import difference_of_products
from permil.products import RunFolder, read_image, read_table, write_table
from permil.spots.folder import SpotsFolder

FloatArray = NDArray[np.float64]

_DENSITY_SCALE = 32.0
"""Sigma in pixels over which the number of stars is smoothed: the truth is asked where the stars are."""
_TRUE_MAPS = ("AREA", "DIFFUSION_FLAT")

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


def compare_fractions(folder: CompareFolder) -> Table:
    """Compare the fractions of efficiency, pixel area and diffusion with the truth of the simulation, write and return them.

    The truth is ``cov(kind, F) / var(F)`` of the true maps as stars see them, where the stars are.

    Raises
    ------
    InputError
        If a product cannot be read.
    OutputError
        If the table cannot be written.
    """
    found = read_table(folder.hypotheses)
    chosen = (found["figure"] == "fraction") & (found["scale"] == TOTAL) & (found["region"] == found["region"][0])
    found = found[chosen]
    spots, rows = SpotsFolder(folder.root), []
    with fits.open(RunFolder(folder.root).truth / "spots" / "sensor.fits", memmap=False) as hdus:
        kinds = [
            np.asarray(hdus["EFFICIENCY"].data, dtype=float) - 1,
            *(np.asarray(hdus[name].data, float) for name in _TRUE_MAPS),
        ]
    for detector, band in star_groups(spots):
        product = read_stars(spots, detector, band)
        true = _true_fractions(kinds, product.stars.places.x, product.stars.places.y, product.response)
        for kind, truth in zip(KINDS, true, strict=True):
            row = found[(found["detector"] == detector) & (found["of"] == kind)][0]
            rows.append((detector, band or "-", kind, float(row["value"]), float(row["error"]), float(truth)))
    table = Table(rows=rows, names=("detector", "band", "kind", "value", "error", "true"))
    write_table(folder.truth, table)
    return table


def _true_fractions(kinds: list[FloatArray], x: FloatArray, y: FloatArray, response: StarResponse) -> FloatArray:
    """Return the fractions of the kinds over the reported scales, shape (3,)."""
    shape = kinds[0].shape
    wavenumber = np.hypot(*cosine_wavenumbers((shape[0], shape[1])))
    nodes = np.linspace(0, wavenumber.max(), 1000)
    transfer = np.interp(wavenumber, nodes, response.transfer(nodes))
    where = np.zeros(shape)
    np.add.at(where, (np.rint(y).astype(int), np.rint(x).astype(int)), 1.0)
    where = ndimage.gaussian_filter(where, _DENSITY_SCALE, mode="reflect")
    total = np.zeros(3)
    for band in bands_between(PERIODS)[1:-1]:
        passed = np.where(band.holds(wavenumber), transfer, 0.0)
        seen = np.array([fft.idctn(passed * fft.dctn(kind, norm="ortho"), norm="ortho") for kind in kinds])
        total += (where * seen * seen.sum(axis=0)).sum(axis=(1, 2))
    return np.asarray(total / total.sum())
