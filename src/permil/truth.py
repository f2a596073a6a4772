"""Comparison of recovered with true flats and fractions, for simulated data.

Deviations of recovered from true flats relative to stated errors: levels, planes and super-pixels of one LED.

All quantities are relative, on super-pixels, in ``log(recovered / true)``. Let the operators ``T_d`` fit planes to the super-pixels of each
detector. The covariance of all planes stated by products of the joint solution (`permil.flat.shared_errors`) is::

    cov = (T M') (T M')' + diag_d(T_d diag(photon + REMAINDER) T_d')

with the extension MODES of all detectors, ``M``, and the noise of super-pixels from the variance planes. Products of the solver `divide`
state the correlated errors of the pixels of each detector, at PLACES, but not between detectors: ``cov`` has one block COVARIANCE per
detector, which gives the errors of each detector, but not of all together. The common factor of all detectors is a convention: the mean
level is subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy import fft, linalg, ndimage
from scipy.special import chdtrc

from permil.arrays import FloatArray
from permil.camera import Camera, Detector, frames
from permil.compare.files import read_stars, star_groups
from permil.compare.hypotheses.results import KINDS, TOTAL
from permil.compare.scales import PERIODS, bands_between, cosine_wavenumbers
from permil.compare.stars.response import StarResponse
from permil.flat.difference import difference_of_products
from permil.flat.joint.file import read_planes
from permil.flat.shared_errors import plane_matrix
from permil.flat.superpixel import size_in_pixels, super_pixels
from permil.products import ImageProduct, RunFolder, is_good, read_image, read_table, write_table
from permil.products.folder import CompareFolder, SpotsFolder


@dataclass(frozen=True)
class DetectorDeviation:
    """The logarithm of recovered over true on the super-pixels of a detector, and the errors stated by its product.

    Attributes
    ----------
    x_mm, y_mm, log_ratio, photon : ndarray, shape (p,)
        Centres of the super-pixels with a ratio (CCS mm), its logarithm, and the variance of independent noise in it.
    modes : ndarray, shape (k, p)
        Modes of the errors common to all detectors; k = 0 if the product has none.
    remainder : ndarray, shape (p,)
        Variance of correlated errors beyond the modes.
    plane_covariance : ndarray, shape (3, 3)
        Covariance of level (relative) and gradient along X and Y (1/mm), from noise and errors beyond the modes.
    """

    name: str
    x_mm: FloatArray
    y_mm: FloatArray
    log_ratio: FloatArray
    photon: FloatArray
    modes: FloatArray
    remainder: FloatArray
    plane_covariance: FloatArray

    @property
    def operator(self) -> FloatArray:
        """Least-squares operator from values to the level at the mean position and gradients, shape (3, p)."""
        return plane_matrix(self.x_mm, self.y_mm)


@dataclass(frozen=True)
class LedDeviation:
    """Planes and super-pixels of all detectors of one LED relative to their errors.

    Attributes
    ----------
    planes, plane_errors : ndarray, shape (detectors, 3)
        Level relative to the mean of all, gradient along X and Y (1/mm), and their stated errors.
    chi_square, freedom, p_value
        Test of all planes with their covariance; NaN if the products do not state errors common to detectors.
    tilt, tilt_error : ndarray, shape (2,)
        Gradient of recovered over true fitted to all detectors together, along X and Y (1/mm), and its error; the error is NaN if the
        products do not state errors common to detectors.
    super_pull, super_pull_error
        Root mean square of super-pixels over their errors, and its expected scatter for the stated errors; the latter is NaN without
        modes.
    detector_pulls : ndarray, shape (detectors,)
        The same per detector.
    """

    planes: FloatArray
    plane_errors: FloatArray
    chi_square: float
    freedom: int
    p_value: float
    tilt: FloatArray
    tilt_error: FloatArray
    super_pull: float
    super_pull_error: float
    detector_pulls: FloatArray

    @property
    def plane_pulls(self) -> FloatArray:
        """Planes over their errors, shape (detectors, 3); NaN for the level of a single detector."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.plane_errors > 0, self.planes / self.plane_errors, np.nan)


def detector_deviation(
    made: ImageProduct, true: ImageProduct, detector: Detector, *, super_pixel_mm: float
) -> DetectorDeviation | None:
    """Return recovered over true on super-pixels, with its errors; None if fewer than three super-pixels are good.

    Parameters
    ----------
    super_pixel_mm
        Side of the super-pixels for products without modes; products with modes have their own.
    """
    modes = made.extensions.get("MODES")
    size = int(modes.header["BLOCKPIX"]) if modes is not None else size_in_pixels(super_pixel_mm, detector.pixel_mm)
    good = is_good(made.mask) & is_good(true.mask) & (made.image > 0) & (true.image > 0) & np.isfinite(made.image)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(good, made.image.astype(np.float64) / true.image, np.nan)
        relative = np.where(good, made.variance.astype(np.float64) / made.image.astype(np.float64) ** 2, np.nan)
    blocks, noise = super_pixels(ratio, good, size), super_pixels(relative, good, size)
    filled = np.isfinite(blocks.mean)
    if modes is not None:
        # The joint solution, whose planes these are, has whole super-pixels alone.
        whole_rows, whole_columns = (length // size for length in ratio.shape)
        filled[whole_rows:], filled[:, whole_columns:] = False, False
    if filled.sum() < 3:
        return None
    x, y = np.meshgrid(*blocks.centres(ratio.shape))
    x_mm, y_mm = frames.detector_to_ccs(detector, x[filled], y[filled])
    photon = (noise.mean / noise.count)[filled]
    operator = plane_matrix(x_mm, y_mm)
    if modes is not None:
        patterns = np.asarray(modes.data, dtype=np.float64)[:, filled]
        remainder = np.asarray(made.extensions["REMAINDER"].data, dtype=np.float64)[filled]
        plane_covariance = (operator * (photon + remainder)) @ operator.T
    else:
        covariance, places = _shared(made)
        patterns = np.zeros((0, int(filled.sum())))
        remainder = np.diag(covariance)[_nearest(places, x[filled], y[filled])]
        of_places = plane_matrix(*frames.detector_to_ccs(detector, places[:, 0], places[:, 1]))
        plane_covariance = of_places @ covariance @ of_places.T + (operator * photon) @ operator.T
    return DetectorDeviation(
        name=detector.name,
        x_mm=x_mm,
        y_mm=y_mm,
        log_ratio=np.log(blocks.mean[filled]),
        photon=photon,
        modes=patterns,
        remainder=remainder,
        plane_covariance=plane_covariance,
    )


def led_deviation(detectors: Sequence[DetectorDeviation], *, plane_covariance: FloatArray | None = None) -> LedDeviation:
    """Return the deviations of all detectors of one LED relative to their errors.

    Parameters
    ----------
    plane_covariance : ndarray, shape (3 n, 3 n)
        Covariance of the planes of all detectors (`permil.flat.joint.file.read_planes`); by default that of modes and noise, which lacks
        errors common to many detectors beyond the modes.
    """
    count = len(detectors)
    size = np.array([one.log_ratio.size for one in detectors], dtype=np.float64)
    operators = [one.operator for one in detectors]
    planes = np.array([operator @ one.log_ratio for operator, one in zip(operators, detectors, strict=True)])
    mean = float(size @ planes[:, 0] / size.sum())
    # Levels relative to the mean of all super-pixels.
    centring = np.eye(3 * count)
    centring[::3, ::3] -= size / size.sum()
    is_known = plane_covariance is not None or _states_modes(detectors) or count == 1
    planes_together = _plane_covariance(detectors, operators) if plane_covariance is None else plane_covariance
    covariance = centring @ planes_together @ centring.T
    planes[:, 0] -= mean
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0)).reshape(count, 3)
    if count == 1:
        errors[0, 0] = 0.0
    chi_square, freedom = _chi_square(planes.ravel(), covariance) if is_known else (np.nan, 0)
    tilt, tilt_covariance = _tilt(detectors)
    mean_squares = np.array([np.mean((one.log_ratio - mean) ** 2 / _variance(one)) for one in detectors])
    super_square = float(size @ mean_squares / size.sum())
    return LedDeviation(
        planes=planes,
        plane_errors=errors,
        chi_square=chi_square,
        freedom=freedom,
        p_value=float(chdtrc(freedom, chi_square)) if freedom else np.nan,
        tilt=tilt,
        tilt_error=np.sqrt(np.diag(tilt_covariance)) if is_known else np.full(2, np.nan),
        super_pull=float(np.sqrt(super_square)),
        super_pull_error=_pull_scatter(detectors) / 2 if _states_modes(detectors) else np.nan,
        detector_pulls=np.sqrt(mean_squares),
    )


def _shared(made: ImageProduct) -> tuple[FloatArray, FloatArray]:
    """Return the covariance of correlated pixel errors, and the positions (x, y in pixels) of its rows."""
    table = made.extensions["PLACES"].data
    places = np.column_stack([np.asarray(table[name], dtype=np.float64) for name in ("x_pixel", "y_pixel")])
    covariance = np.asarray(made.extensions["COVARIANCE"].data, dtype=np.float64)
    known = np.isfinite(np.diag(covariance))
    return covariance[np.ix_(known, known)], places[known]


def _nearest(places: FloatArray, x: FloatArray, y: FloatArray) -> NDArray[np.intp]:
    return np.hypot(x[:, None] - places[:, 0], y[:, None] - places[:, 1]).argmin(axis=1)


def _variance(one: DetectorDeviation) -> FloatArray:
    """Return the variance of each super-pixel."""
    return one.photon + one.remainder + np.square(one.modes).sum(axis=0)


def _plane_covariance(detectors: Sequence[DetectorDeviation], operators: Sequence[FloatArray]) -> FloatArray:
    """Return the covariance of the planes of all detectors, shape (3 n, 3 n)."""
    covariance = linalg.block_diag(*(one.plane_covariance for one in detectors))
    if _states_modes(detectors):
        of_modes = np.vstack([operator @ one.modes.T for operator, one in zip(operators, detectors, strict=True)])
        covariance = covariance + of_modes @ of_modes.T
    return np.asarray(covariance)


def _states_modes(detectors: Sequence[DetectorDeviation]) -> bool:
    """Return whether the products state errors common to all detectors."""
    return all(len(one.modes) for one in detectors)


def _chi_square(deviation: FloatArray, covariance: FloatArray) -> tuple[float, int]:
    """Return chi-square and degrees of freedom; the common factor does not count."""
    scale = np.sqrt(np.diag(covariance))
    scale[scale == 0] = 1.0
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    order = np.argsort(values)[1:]
    along = vectors[:, order].T @ (deviation / scale)
    return float((along**2 / values[order]).sum()), len(order)


def _tilt(detectors: Sequence[DetectorDeviation]) -> tuple[FloatArray, FloatArray]:
    """Return the gradient fitted to all super-pixels together, and its covariance."""
    x_mm, y_mm = (np.concatenate([getattr(one, name) for one in detectors]) for name in ("x_mm", "y_mm"))
    whole = plane_matrix(x_mm, y_mm)[1:]
    states_modes = _states_modes(detectors)
    gradient, common, own = np.zeros(2), np.zeros((2, len(detectors[0].modes))), np.zeros((2, 2))
    ends = np.cumsum([one.log_ratio.size for one in detectors])[:-1]
    for one, part in zip(detectors, np.split(whole, ends, axis=1), strict=True):
        gradient += part @ one.log_ratio
        if states_modes:
            common += part @ one.modes.T
        of_plane = part @ np.column_stack([np.ones(one.x_mm.size), one.x_mm - one.x_mm.mean(), one.y_mm - one.y_mm.mean()])
        own += of_plane @ one.plane_covariance @ of_plane.T
    return gradient, common @ common.T + own


def _pull_scatter(detectors: Sequence[DetectorDeviation]) -> float:
    """Return the standard error of the mean square of super-pixels relative to their errors: ``sqrt(2 sum(r_pq^2)) / n``.

    ``r`` are correlations; those of the modes are summed without forming a matrix over all super-pixels.
    """
    gram, own, pixels = np.zeros((len(detectors[0].modes),) * 2), 0.0, 0
    for one in detectors:
        scaled = one.modes / np.sqrt(_variance(one))
        gram += scaled @ scaled.T
        share = np.square(scaled).sum(axis=0)
        own += float((1 - share**2).sum())
        pixels += share.size
    return float(np.sqrt(2 * (np.square(gram).sum() + own)) / pixels)


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


_MEASURED = (
    "scale", "rms_pixel", "rms_pixel_error", "rms_super", "rms_super_error", "super_noise", "chi_square", "chi_square_error",
)  # fmt: skip
"""Attributes of `permil.flat.difference.FlatDifference` that are columns; those of errors end in ``_err``."""


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

    Deviations are also given relative to their stated errors (`permil.truth`); the entry ``planes`` of the table's metadata holds
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
            measured = {name.replace("_error", "_err"): getattr(d, name) for name in _MEASURED}
            of_led.append({"led": led, "detector": detector.name, **measured})
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


def _planes(path: Path, names: list[str]) -> FloatArray | None:
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
