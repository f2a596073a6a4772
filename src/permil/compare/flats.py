"""Two flats of one detector, from any program: their difference, its parts, and the correlation of their small-scale structure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from permil.camera import Detector
from permil.compare.correlation.correlate import correlate
from permil.compare.correlation.result import CorrelationResult
from permil.errors import CompareError, FlatError
from permil.flat.apply import light_of, read_flats
from permil.flat.difference import FlatDifference, check_super_pixel, describe_difference, difference_of_products, geometry_of
from permil.flat.flat import Flat
from permil.flat.ratio_parts import RatioParts, split_ratio
from permil.products import Description, ImageProduct, MaskPlane, check_output, kind_card, write_image
from permil.products.fits import file_card

_PER_MIL = 1e3


@dataclass(frozen=True, repr=False)
class FlatComparison:
    """Common parts of two flats of one detector, and their differences.

    Attributes
    ----------
    difference
        Ratio, rms on two scales, gradient, medians of amplifiers.
    parts
        The ratio as smooth ratio (the illumination correction), steps of amplifiers and small-scale ratio.
    correlation
        Correlation of the small-scale structure of the two flats over super-pixels, each flat over its own smooth part and steps; None if
        it is not defined.
    reason
        Why there is no correlation; empty if there is one.

    Examples
    --------
    >>> import permil
    >>> run = permil.open_run("out")
    >>> comparison = permil.compare_flats(run.flat("red", "R22_S11"), run.flat("nm960", "R22_S11"), degree=2)
    >>> comparison.parts.smooth().shape == comparison.difference.ratio.shape
    True
    """

    difference: FlatDifference
    parts: RatioParts
    correlation: CorrelationResult | None
    reason: str = ""
    detector: Detector | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return all figures, one line each, small ones in per mil."""
        return "\n".join(self.describe())

    def __repr__(self) -> str:
        """Return the essentials in one line."""
        return f"<FlatComparison: ratio {self.parts.scale:.6f}; small-scale rms {_PER_MIL * self.parts.rms:.3g} per mil>"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def describe(self) -> list[str]:
        """Return all figures, one line each, small ones in per mil."""
        p = self.parts
        smooth, error = _PER_MIL * (p.smooth() - 1), _PER_MIL * math.sqrt(float(np.mean(p.smooth_variance())))
        lines = [
            *describe_difference(self.difference),
            f"  smooth ratio, degree {p.degree} {smooth.min():+.3f} to {smooth.max():+.3f} per mil, error {error:.3f} (rms)",
            *(
                f"  step of {name}            {_PER_MIL * step:+.3f} +- {_PER_MIL * error:.3f} per mil"
                for name, (step, error) in p.steps.items()
            ),
            f"  small-scale ratio      {p.mean:.7f} +- {p.mean_error:.7f}",
            f"  its rms, super-pixels  {_PER_MIL * p.rms:.4f} +- {_PER_MIL * p.rms_error:.4f} per mil; noise {_PER_MIL * p.noise:.4f}",
            f"  its chi-square         {p.chi_square:.4f} +- {p.chi_square_error:.4f} per pixel",
        ]
        if p.rejected:
            lines.append(f"  {p.rejected} super-pixels are outliers and not in the fit")
        if self.correlation is None:
            return [*lines, f"  no correlation of the small-scale structures: {self.reason}"]
        c = self.correlation
        return [*lines, f"  small-scale correlation {c.r:+.4f} +- {c.r_err:.4f}, {c.n_eff:.0f} independent super-pixels"]

    def facts(self) -> dict[str, Any]:
        """Return all figures by name, without images."""
        p, c = self.parts, self.correlation
        names = ("scale", "scale_error", "degree", "mean", "mean_error", "rms", "rms_error", "noise", "chi_square")
        parts: dict[str, Any] = {name: getattr(p, name) for name in (*names, "chi_square_error", "rejected")}
        parts["steps"] = {name: {"step": step, "error": error} for name, (step, error) in p.steps.items()}
        found = None if c is None else {"r": c.r, "error": c.r_err, "n_eff": c.n_eff, "p_value": c.p_value}
        return {**self.difference.facts(), "parts": parts, "correlation": found, "correlation_reason": self.reason}

    def write_smooth(self, path: str | Path) -> None:
        """Write the smooth ratio, the illumination correction, as an image product.

        Pixels beyond the super-pixels of the comparison are NO_DATA: the smooth ratio does not extrapolate. All pixels share the errors in
        the variance.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        p = self.parts
        mask = np.full(p.small.shape, int(MaskPlane.NO_DATA), np.int32)
        row, column = np.nonzero(np.isfinite(p.small))
        rows, columns = (slice(places.min(), places.max() + 1) for places in (row, column))
        mask[rows, columns] = 0
        has_data = mask == 0
        header: dict[str, Any] = {
            **kind_card("illumination"),
            "SCALE": (p.scale, "mean ratio, divided out"),
            "SCALEERR": (p.scale_error, "its standard error"),
            "DEGREE": (p.degree, "degree of the polynomial"),
        }
        if self.detector is not None:
            header["DETECTOR"] = (self.detector.name, "detector")
        smooth, variance = (np.where(has_data, plane, np.nan) for plane in (p.smooth(), p.smooth_variance()))
        write_image(path, smooth, mask, variance, header=header)


def compare_flats(first: Flat, second: Flat, *, degree: int = 4, super_pixel_mm: float = 0.64) -> FlatComparison:
    """Compare two flats of one detector: the figures of their ratio, its parts, and the correlation of their small-scale structure.

    Parameters
    ----------
    first, second
        Numerator and denominator.
    degree
        Degree of the smooth ratio in x and y, 0 to 8.
    super_pixel_mm
        Side of a super-pixel, mm.

    Returns
    -------
    FlatComparison
        ``print`` shows a summary.

    Raises
    ------
    FlatError
        If the flats are of different detectors, have too few super-pixels in common, or the degree is not possible.
    InputError
        If the detector is not known.

    Examples
    --------
    >>> import permil
    >>> run = permil.open_run("out")
    >>> mine, theirs = run.flat("red", "R22_S11"), run.flat("nm960", "R22_S11")
    >>> -1 <= permil.compare_flats(mine, theirs).correlation.r <= 1
    True
    """
    difference = first.difference(second, super_pixel_mm=super_pixel_mm)
    products = [ImageProduct(flat.image, flat.mask, flat.variance, flat.header, flat.header) for flat in (first, second)]
    return _compare(difference, products, first.detector, degree)


def _compare(difference: FlatDifference, products: list[ImageProduct], detector: Detector, degree: int) -> FlatComparison:
    good = np.isfinite(difference.ratio)
    super_pixel_mm = difference.super_pixel_mm
    one, other = (product.image.astype(np.float64) for product in products)
    noises = [np.where(product.variance > 0, product.variance, 0.0) for product in products]
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = noises[0] / other**2 + noises[1] * one**2 / other**4
    parts = split_ratio(difference.ratio, variance, good, detector=detector, super_pixel_mm=super_pixel_mm, degree=degree)
    structures = [
        split_ratio(image, noise, good, detector=detector, super_pixel_mm=super_pixel_mm, degree=degree)
        for image, noise in ((one, noises[0]), (other, noises[1]))
    ]
    try:
        correlation, reason = _correlation(structures), ""
    except CompareError as error:
        correlation, reason = None, error.what
    return FlatComparison(difference, parts, correlation, reason, detector)


def _correlation(structures: list[RatioParts]) -> CorrelationResult:
    first, second = structures
    errors = [entry.cell_errors if np.all(np.isfinite(entry.cell_errors)) else None for entry in structures]
    return correlate(
        first.cells - 1, second.cells - 1, first.x, first.y, a_err=errors[0], b_err=errors[1], methods=()
    )  # fmt: skip


@dataclass(frozen=True)
class DiffOptions:
    """Options of `diff_files`: output files, sensor of files that name none, super-pixels, degree of the smooth ratio."""

    out: Path | None = None
    smooth: Path | None = None
    detector: str = ""
    camera: str = ""
    super_pixel_mm: float = 0.64
    degree: int = 4


def diff_files(first_path: Path, second_path: Path, options: DiffOptions) -> Description:
    """Compare two flats of one detector, of any program; return a table of figures, and write ratio and smooth ratio if asked.

    Raises
    ------
    InputError
        If a file cannot be read, or the sensor is not known.
    FlatError
        If the flats do not belong together, or there are no such super-pixels.
    OutputError
        If a map cannot be written.
    """
    check_super_pixel(options.super_pixel_mm)
    for out in (options.out, options.smooth):
        if out is not None:
            check_output(out, inputs=[first_path, second_path])
    paths = [first_path, second_path]
    flats, sensor, camera = read_flats(paths, detector=options.detector, camera=options.camera)
    first, second = flats
    detector = geometry_of(sensor, first, first_path, camera=camera)
    try:
        difference = difference_of_products(first, second, detector, super_pixel_mm=options.super_pixel_mm)
        comparison = _compare(difference, flats, detector, options.degree)
    except FlatError as problem:
        problem.what = f"compared with {first_path}: {problem.what}"
        problem.path = str(second_path)
        raise
    if options.out is not None:
        good = np.isfinite(difference.ratio)
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = first.variance / second.image**2 + second.variance * first.image**2 / second.image**4
        header = {
            "DETECTOR": (detector.name, "detector"),
            "FIRST": file_card(first_path, "numerator"),
            "SECOND": file_card(second_path, "denominator"),
        }
        mask = np.where(good, first.mask | second.mask, first.mask | second.mask | int(MaskPlane.NO_DATA))
        write_image(options.out, difference.ratio, mask, np.where(good, variance, np.nan), header=header, planes=second.planes)
    if options.smooth is not None:
        comparison.write_smooth(options.smooth)
    leds = [light_of(product) or "?" for product in flats]
    title = f"{first_path} over {second_path} ({detector.name}, LED {leds[0]} over {leds[1]})"
    notes = [f"{path.name}: {remark}" for path, flat in zip(paths, flats, strict=True) for remark in flat.remarks]
    notes += [
        f"{path.name}: no variance: noise, chi-square and errors exclude this flat"
        for path, flat in zip(paths, flats, strict=True)
        if not np.any(flat.variance > 0)
    ]
    facts = {"first": first_path, "second": second_path, "detector": detector.name, "leds": leds, **comparison.facts()}
    return Description("\n".join([title, *comparison.describe(), *(f"  {note}" for note in notes)]), facts | {"remarks": notes})
