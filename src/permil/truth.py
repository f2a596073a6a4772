"""Comparison of recovered with true flats and fractions, for simulated data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy import fft, ndimage

from permil.camera import Camera
from permil.compare.files import read_stars, star_groups
from permil.compare.folder import CompareFolder
from permil.compare.hypotheses.results import KINDS, TOTAL
from permil.compare.scales import PERIODS, bands_between, cosine_wavenumbers
from permil.compare.stars.response import StarResponse
from permil.flat.difference import difference_of_products
from permil.flat.joint_file import read_planes
from permil.products import RunFolder, read_image, read_table, write_table
from permil.spots.folder import SpotsFolder
from permil.truth_errors import LedDeviation, detector_deviation, led_deviation

FloatArray = NDArray[np.float64]

_DENSITY_SCALE = 32.0
"""Sigma in pixels over which the number of stars is smoothed: the truth is averaged over the positions of the stars."""
_TRUE_MAPS = ("AREA", "DIFFUSION_FLAT")

_COLUMNS = {
    "led": ("", "LED"),
    "detector": ("", "detector"),
    "scale": ("", "median of recovered over true"),
    "level": ("", "mean of log(recovered / true), relative to that of all detectors of the LED"),
    "level_err": ("", "stated error of level; 0 for a single detector, whose level is a convention"),
    "level_pull": ("", "level over its error"),
    "rms_pixel": ("", "standard deviation of recovered over true, over pixels"),
    "rms_pixel_err": ("", "error of rms_pixel"),
    "rms_super": ("", "standard deviation of recovered over true, over super-pixels"),
    "rms_super_err": ("", "error of rms_super"),
    "super_noise": ("", "prediction of the variance plane (photon and read noise) for rms_super"),
    "super_pull": (
        "",
        "root mean square over super-pixels of recovered over true, relative to all detectors, over its stated error",
    ),
    "chi_square": ("", "chi-square per pixel of the small-scale part over the variance plane"),
    "chi_square_err": ("", "error of chi_square"),
    "gradient_x": ("1 / mm", "gradient of recovered over true along CCS X"),
    "gradient_x_err": ("1 / mm", "its stated error"),
    "gradient_x_pull": ("", "gradient_x over its error"),
    "gradient_y": ("1 / mm", "gradient of recovered over true along CCS Y"),
    "gradient_y_err": ("1 / mm", "its stated error"),
    "gradient_y_pull": ("", "gradient_y over its error"),
}


@dataclass(frozen=True)
class TruthSummary:
    """Accuracy metrics over all detectors of one LED; rms values are relative.

    Attributes
    ----------
    rms_super, rms_super_err
        Root mean square over detectors of the rms on super-pixels, each detector relative to its own median.
    super_noise
        Prediction of the variance planes for it.
    scale_rms, scale_rms_err
        Scatter of recovered over true scale from detector to detector.
    chi_square, chi_square_err
        Small-scale chi-square per pixel.
    gradient, gradient_err
        Root mean square gradient of recovered over true, per mm.
    level_pull, gradient_pull
        Root mean square of levels, and of gradients, over their stated errors; NaN if there is none.
    super_pull, super_pull_err
        Root mean square of super-pixels over their stated errors, and its error.
    tilt_x, tilt_y, tilt_x_err, tilt_y_err
        Gradient of recovered over true fitted to all detectors together, per mm, and its stated error.
    planes_chi_square, planes_freedom, p_value
        Test of the levels and gradients of all detectors with their covariance; NaN and 0 if the products do not contain it.
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
    level_pull: float
    gradient_pull: float
    super_pull: float
    super_pull_err: float
    tilt_x: float
    tilt_x_err: float
    tilt_y: float
    tilt_y_err: float
    planes_chi_square: float
    planes_freedom: int
    p_value: float


def compare_with_truth(folder: RunFolder, camera: Camera, *, super_pixel_mm: float) -> Table:
    """Compare every flat of a run with the simulated truth; write and return one row per LED and detector.

    Deviations are also given relative to their stated errors (`permil.truth_errors`); the entry ``planes`` of the table's metadata holds
    those of all detectors of an LED together.

    Raises
    ------
    InputError
        If a product cannot be read.
    OutputError
        If the table cannot be written.
    """
    rows: list[dict[str, Any]] = []
    planes: dict[str, dict[str, float]] = {}
    for led_folder in sorted((folder.truth / "flat").glob("*")):
        led = led_folder.name
        of_led, deviations = [], []
        for detector in camera.detectors.values():
            made_path, true_path = folder.flat(led, detector.name), folder.truth_flat(led, detector.name)
            if not (made_path.is_file() and true_path.is_file()):
                continue
            made, true = read_image(made_path), read_image(true_path)
            d = difference_of_products(made, true, detector, super_pixel_mm=super_pixel_mm)
            of_led.append(
                {
                    "led": led,
                    "detector": detector.name,
                    "scale": d.scale,
                    "rms_pixel": d.rms_pixel,
                    "rms_pixel_err": d.rms_pixel_error,
                    "rms_super": d.rms_super,
                    "rms_super_err": d.rms_super_error,
                    "super_noise": d.super_noise,
                    "chi_square": d.chi_square,
                    "chi_square_err": d.chi_square_error,
                }
            )
            deviation = detector_deviation(made, true, detector, super_pixel_mm=super_pixel_mm)
            if deviation is not None:
                deviations.append(deviation)
        if deviations:
            found = led_deviation(deviations, plane_covariance=_planes(folder.joint(led), [one.name for one in deviations]))
            _add_deviations(of_led, [one.name for one in deviations], found)
            planes[led] = _together(found)
        rows += of_led
    table = Table()
    for name, (unit, description) in _COLUMNS.items() if rows else ():
        table[name] = [row.get(name, np.nan) for row in rows]
        table[name].description = description
        if unit:
            table[name].unit = unit
    table.meta = {"super_pixel_mm": super_pixel_mm, "planes": planes}
    write_table(folder.comparison, table)
    return table


def _planes(path: Path, names: list[str]) -> NDArray[np.float64] | None:
    """Return the covariance of the planes of some detectors from a joint solution; None if there is none."""
    if not path.is_file():
        return None
    detectors, covariance = read_planes(path)
    places = np.concatenate([3 * detectors.index(name) + np.arange(3) for name in names])
    return covariance[np.ix_(places, places)]


def _add_deviations(rows: list[dict[str, Any]], names: list[str], found: LedDeviation) -> None:
    """Add levels, gradients and super-pixels, relative to their errors, to the rows of the detectors of one LED."""
    for row in rows:
        if row["detector"] not in names:
            continue
        number = names.index(row["detector"])
        row["super_pull"] = float(found.detector_pulls[number])
        for term, name in enumerate(("level", "gradient_x", "gradient_y")):
            row[name], row[f"{name}_err"], row[f"{name}_pull"] = (
                float(part[number, term]) for part in (found.planes, found.plane_errors, found.plane_pulls)
            )


def _together(found: LedDeviation) -> dict[str, float]:
    return {
        "chi_square": found.chi_square,
        "freedom": found.freedom,
        "p_value": found.p_value,
        "tilt_x": float(found.tilt[0]),
        "tilt_x_err": float(found.tilt_error[0]),
        "tilt_y": float(found.tilt[1]),
        "tilt_y_err": float(found.tilt_error[1]),
        "super_pull": found.super_pull,
        "super_pull_err": found.super_pull_error,
    }


def summarise(comparison: Table) -> list[TruthSummary]:
    """Return the metrics per LED."""
    summaries = []
    for led in sorted(set(comparison["led"])):
        rows = comparison[comparison["led"] == led]
        count = len(rows)
        scale = np.asarray(rows["scale"], dtype=float)
        gradients = np.hypot(rows["gradient_x"], rows["gradient_y"])
        supers = np.asarray(rows["rms_super"], dtype=float)
        scale_rms = float(np.std(scale / scale.mean(), ddof=1)) if count > 1 else np.nan
        together = comparison.meta["planes"].get(str(led), {})
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
                level_pull=_root_mean_square(rows["level_pull"]),
                gradient_pull=_root_mean_square([rows["gradient_x_pull"], rows["gradient_y_pull"]]),
                planes_chi_square=together.get("chi_square", np.nan),
                planes_freedom=int(together.get("freedom", 0)),
                **{
                    name: together.get(name, np.nan)
                    for name in ("super_pull", "super_pull_err", "tilt_x", "tilt_x_err", "tilt_y", "tilt_y_err", "p_value")
                },
            )
        )
    return summaries


def _root_mean_square(values: Any) -> float:
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    return float(np.sqrt(np.mean(np.square(known)))) if known.size else np.nan


def compare_fractions(folder: CompareFolder) -> Table:
    """Compare the fractions of efficiency, pixel area and diffusion with the simulated truth; write and return them.

    The truth is ``cov(kind, F) / var(F)`` of the true maps, with the response of stars and at the positions of the stars.

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
