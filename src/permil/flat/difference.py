"""Difference of two flats of one detector: ratio, scales, gradient, amplifiers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from permil.arrays import FloatArray, plain_array, plain_flags, unit_of
from permil.camera import Detector, frames, load_camera
from permil.config.flat import LARGEST_SUPER_PIXEL_MM
from permil.errors import FlatError, InputError, PermilError
from permil.flat.superpixel import SuperPixels, size_in_pixels, super_pixels
from permil.products import ImageProduct, Sensor, is_good
from permil.products.sensor_identity import card_of

_PER_MIL = 1e3


if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class FlatDifference:
    """Ratio of two flats and its figures; all relative.

    Attributes
    ----------
    ratio
        First over second, NaN where one of them is not good.
    scale, scale_error
        Median ratio and its statistical error.
    rms_pixel, rms_pixel_error
        Standard deviation of the ratio over its median, pixel by pixel.
    rms_super, rms_super_error
        The same for means over super-pixels.
    super_noise
        Prediction of the variance planes for ``rms_super``.
    chi_square, chi_square_error
        Of the small-scale part (ratio minus the mean of its super-pixel), per pixel, over the variance planes.
    gradient_x, gradient_y, gradient_error
        Relative gradient of the ratio along CCS X and Y, per mm, and the statistical error of either.
    amplifiers
        Median ratio of each amplifier over ``scale``, with its statistical error.
    super_pixel_mm
        Side of a super-pixel.

    Examples
    --------
    >>> import permil
    >>> run = permil.open_run("out")
    >>> difference = run.flat("red", "R22_S11").difference(run.flat("nm960", "R22_S11"))
    >>> round(difference.scale, 1)
    1.0
    """

    ratio: FloatArray
    scale: float
    scale_error: float
    rms_pixel: float
    rms_pixel_error: float
    rms_super: float
    rms_super_error: float
    super_noise: float
    chi_square: float
    chi_square_error: float
    gradient_x: float
    gradient_y: float
    gradient_error: float
    amplifiers: dict[str, tuple[float, float]]
    super_pixel_mm: float

    def __str__(self) -> str:
        """Return the figures of the comparison, one line each, small ones in per mil."""
        return "\n".join(describe_difference(self))

    def __repr__(self) -> str:
        """Return the essentials in one line."""
        return f"<FlatDifference: median ratio {self.scale:.6f}; rms of super-pixels {_PER_MIL * self.rms_super:.3g} per mil>"

    def _repr_html_(self) -> str:
        """Return the figures as preformatted text."""
        return f"<pre>{escape(str(self))}</pre>"

    def facts(self) -> dict[str, Any]:
        """Return all figures by name, without the ratio of pixels; amplifiers by name with ``ratio`` and ``error``."""
        figures: dict[str, Any] = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "ratio"}
        figures["amplifiers"] = {name: {"ratio": ratio, "error": error} for name, (ratio, error) in self.amplifiers.items()}
        return figures

    def plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw the ratio over its median.

        Parameters
        ----------
        ax
            Axes to draw in; by default new ones.
        **options
            Further options of `matplotlib.axes.Axes.imshow`.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from permil.plotting import draw_image, new_axes

        ax = new_axes() if ax is None else ax
        draw_image(ax, self.ratio / self.scale, **options)
        ax.set(title="ratio over its median", xlabel="x (pixels)", ylabel="y (pixels)")
        return ax


def flat_difference(
    first: ArrayLike,
    first_variance: ArrayLike,
    second: ArrayLike,
    second_variance: ArrayLike,
    good: ArrayLike,
    *,
    detector: Detector,
    super_pixel_mm: float,
) -> FlatDifference:
    """Compare two flats of one detector.

    Parameters
    ----------
    first, first_variance, second, second_variance
        Responses and their independent variances, shape (ny, nx). Masked pixels are not good. Where both variances are 0, noise and
        chi-square are not known.
    good
        Pixels that are good in both.
    super_pixel_mm
        Side of a super-pixel.

    Raises
    ------
    FlatError
        If the shapes differ or no super-pixel is good in both.
    InputError
        If the arrays do not hold real numbers, or have units that cannot be converted.
    """
    unit = unit_of(first)
    square = None if unit is None else unit**2
    one, other = plain_array(first, name="first"), plain_array(second, name="second", unit=unit)
    _require_one_shape(one, other)
    noises = [
        plain_array(values, name=name, unit=square, shape=one.shape)
        for name, values in (("first_variance", first_variance), ("second_variance", second_variance))
    ]
    good = plain_flags(good, name="good", shape=one.shape)
    for plane in (one, other, *noises):
        good &= np.isfinite(plane)
    good &= (one > 0) & (other > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(good, one / other, np.nan)
        variance = np.where(good, noises[0] / other**2 + noises[1] * one**2 / other**4, np.nan)
        known = good & (variance > 0)
    size = size_in_pixels(super_pixel_mm, detector.pixel_mm)
    blocks = super_pixels(ratio, good, size)
    filled = np.isfinite(blocks.mean)
    if not filled.any():
        raise FlatError("the flats have no good super-pixel in common", remedy="check their masks")
    scale = float(np.median(ratio[good]))
    pixels, cells = int(good.sum()), int(filled.sum())
    rms_pixel = float(np.std(ratio[good])) / scale
    rms_super = float(np.std(blocks.mean[filled])) / scale

    # The mean of a block takes one degree of freedom from its pixels.
    inside = known & np.isfinite(blocks.expand(ratio.shape))
    small = ratio - blocks.expand(ratio.shape)
    noise = super_pixels(variance, known, size)
    freedom = 1 - 1 / np.maximum(np.repeat(np.repeat(blocks.count, size, 0), size, 1)[: ratio.shape[0], : ratio.shape[1]], 1)
    chi = small[inside] ** 2 / (variance[inside] * freedom[inside]) if size > 1 and inside.any() else np.array([np.nan])

    gradient_x, gradient_y, gradient_error = _gradient(ratio / scale, blocks, noise, detector)
    amplifiers = {}
    for amplifier in detector.amplifiers:
        levels = ratio[amplifier.slices][good[amplifier.slices]]
        if levels.size:
            error = 1.2533 * float(np.std(levels)) / np.sqrt(levels.size) / scale
            amplifiers[amplifier.name] = (float(np.median(levels)) / scale, error)
    return FlatDifference(
        ratio=ratio,
        scale=scale,
        scale_error=1.2533 * rms_pixel * scale / np.sqrt(pixels),
        rms_pixel=rms_pixel,
        rms_pixel_error=rms_pixel / np.sqrt(2 * pixels),
        rms_super=rms_super,
        rms_super_error=rms_super / np.sqrt(2 * cells),
        super_noise=float(np.sqrt(np.mean(_mean_variance(noise)[filled]))) / scale,
        chi_square=float(np.mean(chi)),
        chi_square_error=float(np.std(chi) / np.sqrt(chi.size)),
        gradient_x=gradient_x,
        gradient_y=gradient_y,
        gradient_error=gradient_error,
        amplifiers=amplifiers,
        super_pixel_mm=super_pixel_mm,
    )


def _mean_variance(noise: SuperPixels) -> FloatArray:
    """Return the variance of the mean of each super-pixel, NaN where no pixel has a variance."""
    return noise.mean / np.where(noise.count > 0, noise.count, np.nan)


def _gradient(ratio: FloatArray, blocks: SuperPixels, noise: SuperPixels, detector: Detector) -> tuple[float, float, float]:
    """Return the relative gradient of a ratio along CCS X and Y, 1/mm, and its statistical error."""
    x, y = np.meshgrid(*blocks.centres((ratio.shape[0], ratio.shape[1])))
    filled = np.isfinite(blocks.mean)
    x_mm, y_mm = frames.detector_to_ccs(detector, x[filled], y[filled])
    design = np.column_stack([np.ones(x_mm.size), x_mm - x_mm.mean(), y_mm - y_mm.mean()])
    inverse = np.linalg.pinv(design)
    level, slope_x, slope_y = inverse @ blocks.mean[filled]
    errors = np.sqrt((inverse**2) @ _mean_variance(noise)[filled])
    return float(slope_x / level), float(slope_y / level), float(max(errors[1], errors[2]) / level)


def check_super_pixel(super_pixel_mm: float) -> None:
    """Check the side of a super-pixel given by the user, mm.

    Raises
    ------
    FlatError
        If there are no such super-pixels.
    """
    if not 0 < super_pixel_mm <= LARGEST_SUPER_PIXEL_MM:
        raise FlatError(
            f"super-pixels of {super_pixel_mm} mm are not possible",
            remedy=f"give a side between 0 and {LARGEST_SUPER_PIXEL_MM:g} mm",
            value=super_pixel_mm,
        )


def difference_of_products(
    first: ImageProduct, second: ImageProduct, detector: Detector, *, super_pixel_mm: float
) -> FlatDifference:
    """Compare two flats of one detector over the pixels that are good in both.

    Raises
    ------
    FlatError
        If the shapes differ or nothing is good in both.
    """
    _require_one_shape(first.image, second.image)
    return flat_difference(
        first.image,
        first.variance,
        second.image,
        second.variance,
        is_good(first.mask) & is_good(second.mask),
        detector=detector,
        super_pixel_mm=super_pixel_mm,
    )


def _require_one_shape(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.shape != second.shape:
        raise FlatError(
            f"flats of different shapes ({first.shape} and {second.shape}) cannot be compared",
            remedy="give two flats of one detector of one camera",
            value=(first.shape, second.shape),
        )


def describe_difference(difference: FlatDifference) -> list[str]:
    """Return the figures of a comparison, one line each, small ones in per mil."""
    d = difference
    lines = [
        f"  median ratio           {d.scale:.6f} +- {d.scale_error:.6f}",
        f"  rms, pixel             {_PER_MIL * d.rms_pixel:.4f} +- {_PER_MIL * d.rms_pixel_error:.4f} per mil",
        f"  rms, {d.super_pixel_mm:g} mm            {_PER_MIL * d.rms_super:.4f} +- {_PER_MIL * d.rms_super_error:.4f} per mil",
        f"  its noise alone        {_PER_MIL * d.super_noise:.4f} per mil",
        f"  small-scale chi-square {d.chi_square:.4f} +- {d.chi_square_error:.4f} per pixel",
        f"  gradient along CCS X   {_PER_MIL * d.gradient_x:+.5f} +- {_PER_MIL * d.gradient_error:.5f} per mil per mm",
        f"  gradient along CCS Y   {_PER_MIL * d.gradient_y:+.5f} +- {_PER_MIL * d.gradient_error:.5f} per mil per mm",
    ]
    lines += [
        f"  {name}                    {_PER_MIL * (ratio - 1):+.3f} +- {_PER_MIL * error:.3f} per mil"
        for name, (ratio, error) in d.amplifiers.items()
    ]
    return lines


def geometry_of(sensor: Sensor | None, product: ImageProduct, path: Path | None, *, camera: str = "") -> Detector:
    """Return the geometry of the detector of a flat.

    Parameters
    ----------
    camera
        Name of the camera, or its file; by default that of the header, else that of the sensor.

    Raises
    ------
    InputError
        If it is not known, or the flat is of another size.
    """
    named = camera or card_of(product.header, "CAMERA")
    detector = None if sensor is None else sensor.detector
    if named is not None and sensor is not None:
        try:
            detector = load_camera(str(named))[sensor.name]
        except PermilError as error:
            error.path = None if path is None else str(path)
            raise
    if detector is None:
        raise InputError("the header does not name a sensor", path=path, remedy="name it (--detector R22_S11)")
    if detector.shape != product.image.shape:
        raise InputError(
            f"the image has {product.image.shape} pixels, {detector.name} of camera {named or 'lsstcam'} has {detector.shape}",
            path=path,
            remedy="give flats of this camera, not binned, or name their camera (--camera)",
            value=product.image.shape,
        )
    return detector
