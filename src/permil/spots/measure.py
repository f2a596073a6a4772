"""Measure the spots of one image: detection, background, adaptive moments, apertures, flags.

Spots are connected pixels above the noise in the image binned 2 x 2, which suits spots of about 2 pixels sigma. They are found with SEP
(Barbary 2016, JOSS 1, 58; after Bertin & Arnouts 1996, A&AS 117, 393).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from permil._kernels import spots as kernels
from permil.arrays import BoolArray, Float32Array, FloatArray, IntArray, plain_image
from permil.camera import Detector
from permil.config.spots import MeasureConfig
from permil.errors import SpotError
from permil.products import MaskPlane, planes_of
from permil.spots.apertures import (
    LARGEST_SHIFT,
    WEIGHT_REACH,
    AdaptiveMoments,
    ApertureFluxes,
    GrowthCurve,
    SpotImage,
    adaptive_moments,
    aperture_fluxes,
    growth_curve,
)
from permil.spots.background import Background, fit_background, row_noise
from permil.spots.catalog import SpotCatalog, SpotFlag

_BINNING = 2
_LEAST_PIXELS = 4
_PIXEL_STACK = 2_000_000
"""Size of the pixel buffer of SEP; its default is too small for 2401 bright spots."""

_NO_MEASUREMENT = int(MaskPlane.BAD | MaskPlane.NO_DATA)
_LEAST_BRIGHTNESS_RATIO = 1e-3
"""Smallest flux of a blended neighbour, relative to the spot."""
_GROWTH_SIGNIFICANCE = 200.0
"""Smallest flux over error of the spots in the growth curve."""


@dataclass(frozen=True)
class Detections:
    """Detected sources; arrays over sources.

    Attributes
    ----------
    x, y
        Barycentre of the pixels above the threshold, pixels.
    sigma
        Root mean square radius per axis of the light of these pixels, pixels.
    brightness
        Light of these pixels in units of the noise of a binned pixel.
    """

    x: FloatArray
    y: FloatArray
    sigma: FloatArray
    brightness: FloatArray


def detect_spots(image: Float32Array, usable: BoolArray, *, threshold: float, box: int) -> Detections:
    """Find sources.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Signal including background, electrons.
    usable : ndarray of bool, shape (ny, nx)
        Pixels to use.
    threshold
        Threshold in units of the noise of a binned pixel, after smoothing with a 3 x 3 kernel.
    box
        Side of the boxes for background and noise, pixels.

    Returns
    -------
    Detections

    Raises
    ------
    SpotError
        If the image has no usable pixels, or so much light that sources cannot be separated, or SEP is not installed.
    """
    try:
        import sep
    except ImportError as error:
        raise SpotError("finding spots on images needs SEP", remedy="pip install permil[spots]") from error
    if min(image.shape) < 2 * _BINNING or not usable.any():
        raise SpotError("the image has no usable pixels to find spots in", remedy="check the mask and the exposure")
    # An odd last row or column is dropped.
    halves = image.shape[0] // _BINNING, image.shape[1] // _BINNING
    binned, empty = np.empty(halves, dtype=np.float32), np.empty(halves, dtype=np.bool_)
    kernels.bin_pixels(np.ascontiguousarray(image, dtype=np.float32), np.ascontiguousarray(usable), binned, empty)
    side = max(box // _BINNING, 2)
    background = sep.Background(binned, mask=empty, bw=side, bh=side)
    if not background.globalrms > 0:
        # A blank image has no noise, and no spots.
        return Detections(*(np.zeros(0) for _ in range(4)))
    significance = (binned - background.back()) / np.maximum(background.rms(), 1e-3 * background.globalrms)
    sep.set_extract_pixstack(_PIXEL_STACK)
    try:
        found = sep.extract(significance, threshold, mask=empty, minarea=_LEAST_PIXELS)
    except Exception as error:
        # SEP raises bare exceptions when its buffers are full.
        raise SpotError(
            f"sources cannot be separated ({error})", remedy="the exposure is overexposed, or has no spots"
        ) from error
    offset = (_BINNING - 1) / 2
    return Detections(
        x=_BINNING * found["x"] + offset,
        y=_BINNING * found["y"] + offset,
        sigma=_BINNING * np.sqrt((found["x2"] + found["y2"]) / 2),
        brightness=found["cflux"].astype(np.float64),
    )


@dataclass(frozen=True)
class SpotMeasurement:
    """Results of the measurement of one image.

    Attributes
    ----------
    catalog
        Positions, moments and the flux within ``flux_radius``, with errors and flags.
    apertures
        Fluxes at all radii, rows as in the catalog.
    growth
        Growth curve of the bright isolated spots.
    background
        Subtracted background.
    """

    catalog: SpotCatalog
    apertures: ApertureFluxes
    growth: GrowthCurve
    background: Background


def measure_spots(
    image: ArrayLike,
    variance: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    detector: Detector | None = None,
    *,
    options: MeasureConfig | None = None,
    row_variance: FloatArray | None = None,
) -> SpotMeasurement:
    """Measure all spots of an image.

    Parameters
    ----------
    image : array_like, shape (ny, nx)
        Signal including background in electrons; or NDData with uncertainty and mask.
    variance : array_like, shape (ny, nx), optional
        Its variance (photons and readout). By default the photon noise of the signal above the background, and the noise of the
        background as it is measured from differences between neighbouring pixels.
    mask : array_like, shape (ny, nx), optional
        Bits of `permil.products.MaskPlane`; or bool, true where there is no data.
    detector
        Detector with the borders of the amplifiers; by default the image has none.
    options
        Options of the measurement.
    row_variance
        The part of ``variance`` that is common to the pixels of a row of each amplifier (overscan level), electrons^2, in the order
        of ``detector.amplifiers``; None: pixels are independent.

    Returns
    -------
    SpotMeasurement
        An image without spots gives an empty catalog.

    Raises
    ------
    SpotError
        If the arrays do not have the detector's shape, nothing is usable, or there is no background between the spots.
    InputError
        If the arrays do not hold real numbers, or have another unit than electrons.

    Examples
    --------
    >>> import numpy as np, permil
    >>> y, x = np.mgrid[:400, :400]
    >>> places = [(100.0, 150.0), (300.0, 250.0)]
    >>> spots = sum(1e4 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8) for px, py in places)
    >>> noise = np.random.default_rng(0).normal(0, 5, x.shape)
    >>> len(permil.measure_spots(100 + spots + noise).catalog)
    2
    """
    options = options or MeasureConfig()
    image, variance, mask = _plain_planes(image, variance, mask)
    detector = detector or Detector.plain(image.shape)
    for name, array in (("image", image), ("variance", variance), ("mask", mask)):
        if array.shape != detector.shape:
            raise SpotError(
                f"the {name} has shape {array.shape}, detector {detector.name} has {detector.shape}",
                remedy="give the detector that the exposure is of",
                value=array.shape,
                allowed=detector.shape,
            )
    usable = np.isfinite(image) & np.isfinite(variance)
    usable &= (mask & _NO_MEASUREMENT) == 0
    found = detect_spots(image, usable, threshold=options.threshold, box=options.background_box)
    free = usable.copy()
    kernels.clear_discs(free, found.x, found.y, options.mask_radius)
    rows = None if row_variance is None else row_noise(detector, row_variance)
    background = fit_background(image, free, box=options.background_box, row_noise=rows)
    signal = background.subtracted(image)
    reach = max(options.radii[-1], WEIGHT_REACH * options.largest_sigma) + LARGEST_SHIFT
    spots = SpotImage(signal, variance, usable, *background.errors(found.x, found.y, reach=reach))
    sigma = float(np.clip(np.median(found.sigma), 1.0, options.largest_sigma)) if len(found.x) else 1.0
    moments = adaptive_moments(spots, found.x, found.y, sigma=sigma, largest_sigma=options.largest_sigma)
    # A failed fit keeps the detected position, so that flux and flags can be measured.
    x, y = np.where(moments.converged, moments.x, found.x), np.where(moments.converged, moments.y, found.y)
    apertures = aperture_fluxes(spots, x, y, radii=options.radii)
    flags = _flags(found, x, y, moments, mask, usable, detector, options.flux_radius)
    catalog = _catalog(x, y, moments, apertures, background.at(x, y), flags, detector, options)
    growth = growth_curve(apertures, _growth_spots(catalog, detector, options), reference=options.reference_radius)
    return SpotMeasurement(catalog, apertures, growth, background)


def _plain_planes(image: Any, variance: Any, mask: Any) -> tuple[Float32Array, Float32Array, NDArray[np.integer]]:
    """Return image, variance and mask as plain arrays; those of NDData if they are not given."""
    if hasattr(image, "uncertainty") and hasattr(image, "mask"):
        mask = image.mask if mask is None else mask
        variance = image.uncertainty if variance is None else variance
    signal = np.ascontiguousarray(plain_image(image, name="image", unit="electron"), dtype=np.float32)
    if signal.ndim != 2:
        raise SpotError(f"the image has {signal.ndim} dimensions", remedy="give an image of two dimensions", value=signal.shape)
    is_planes = type(mask) is np.ndarray and mask.dtype in (np.int16, np.int32)
    planes = mask if is_planes else planes_of(mask, "mask", signal.shape)
    if variance is None:
        variance = _measured_variance(signal)
    elif hasattr(variance, "represent_as"):
        from astropy.nddata import VarianceUncertainty

        variance = variance.represent_as(VarianceUncertainty).quantity
    return signal, np.ascontiguousarray(plain_image(variance, name="variance", unit="electron2"), dtype=np.float32), planes


def _measured_variance(image: Float32Array) -> Float32Array:
    """Return the variance of an image of spots, from the noise of its background and the photons above it."""
    known = image[np.isfinite(image)]
    if not known.size:
        return np.full(image.shape, np.nan, dtype=np.float32)
    steps = np.abs(np.diff(image, axis=1))
    # Of neighbours with independent normal noise; spots are on few pixels.
    noise = float(np.nanmedian(steps)) / 0.9539 if np.isfinite(steps).any() else 0.0
    return np.float32(noise**2) + np.maximum(image - np.median(known), np.float32(0))


def _catalog(
    x: FloatArray,
    y: FloatArray,
    moments: AdaptiveMoments,
    apertures: ApertureFluxes,
    background: FloatArray,
    flags: IntArray,
    detector: Detector,
    options: MeasureConfig,
) -> SpotCatalog:
    aperture = options.radii.index(options.flux_radius)
    shape = {name: getattr(moments, name) for name in ("xx", "yy", "xy")}
    errors = {f"{name}_err": error for name, error in zip(("x", "y", "xx", "yy", "xy"), moments.errors.T, strict=True)}
    return SpotCatalog(
        x=x,
        y=y,
        flux=apertures.flux[:, aperture],
        flux_err=apertures.error[:, aperture],
        **shape,
        **errors,
        background=background,
        flags=flags,
        detector=detector.name,
        aperture=options.flux_radius,
    )


def _growth_spots(catalog: SpotCatalog, detector: Detector, options: MeasureConfig) -> BoolArray:
    """Return the spots for the growth curve: bright, good, and with their largest aperture on the detector."""
    reach = options.radii[-1]
    inside_x = (catalog.x > reach) & (catalog.x < detector.nx - 1 - reach)
    inside_y = (catalog.y > reach) & (catalog.y < detector.ny - 1 - reach)
    return catalog.good & inside_x & inside_y & (catalog.flux > _GROWTH_SIGNIFICANCE * catalog.flux_err)


def _flags(
    found: Detections,
    x: FloatArray,
    y: FloatArray,
    moments: AdaptiveMoments,
    mask: NDArray[np.integer],
    usable: BoolArray,
    detector: Detector,
    radius: float,
) -> IntArray:
    planes, unusable = np.empty(x.size, dtype=np.int64), np.empty(x.size, dtype=np.bool_)
    own: Any = np.ascontiguousarray(mask, dtype=np.int16 if mask.dtype == np.int16 else np.int32)
    kernels.planes_in_discs(own, usable, x, y, radius, planes, unusable)
    columns, rows = ({getattr(amplifier, name) for amplifier in detector.amplifiers} - {0} for name in ("x_min", "y_min"))
    leaves = (x - radius < -0.5) | (y - radius < -0.5) | (x + radius > detector.nx - 0.5) | (y + radius > detector.ny - 0.5)
    marks = {
        SpotFlag.BLEND: _blended(found, 2.0 * radius),
        SpotFlag.EDGE: leaves | ((planes & MaskPlane.EDGE) != 0),
        SpotFlag.SATURATED: (planes & MaskPlane.SAT) != 0,
        SpotFlag.MASKED: unusable,
        SpotFlag.AMP_BOUNDARY: _crosses(x, columns, radius) | _crosses(y, rows, radius),
        SpotFlag.MIDLINE: _crosses(y, rows, radius) | ((planes & MaskPlane.MIDLINE) != 0),
        SpotFlag.BAD_FIT: ~moments.converged,
    }
    flags: IntArray = np.zeros(x.size, dtype=np.int64)
    for flag, marked in marks.items():
        flags[marked] |= int(flag)
    return flags


def _crosses(places: FloatArray, borders: set[int], radius: float) -> BoolArray:
    """Return which circles cross a border; border `b` lies between pixels b - 1 and b."""
    crossed = np.zeros(places.size, dtype=bool)
    for border in borders:
        crossed |= np.abs(places - (border - 0.5)) < radius
    return crossed


def _blended(found: Detections, distance: float) -> BoolArray:
    """Return which sources have a neighbour of comparable flux within a distance."""
    blended = np.zeros(found.x.size, dtype=bool)
    if found.x.size < 2:
        return blended
    first, second = cKDTree(np.column_stack([found.x, found.y])).query_pairs(distance, output_type="ndarray").T
    brightness = found.brightness
    blended[first[brightness[second] > _LEAST_BRIGHTNESS_RATIO * brightness[first]]] = True
    blended[second[brightness[first] > _LEAST_BRIGHTNESS_RATIO * brightness[second]]] = True
    return blended
