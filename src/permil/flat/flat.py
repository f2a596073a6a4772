"""The flat of one detector: response, mask, variance and shared errors of its pixels."""

from __future__ import annotations

import math
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from astropy import units as u
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from permil.arrays import BoolArray, Float32Array, Int32Array, mask_of, plain_array, plain_image, unit_of
from permil.beam import BeamModel
from permil.camera import Detector, load_camera
from permil.errors import FlatError, InputError, path_of
from permil.flat.apply import apply_flat, apply_to_file, light_of, read_flats
from permil.flat.difference import FlatDifference, check_super_pixel, difference_of_products, geometry_of
from permil.flat.divide import divide_by_beam, lit_by_beam
from permil.flat.shared_errors import FlatModes, covariance_in_flat, mean_of_region
from permil.isr.exposure_group import ExposureStack
from permil.products import Description, ImageProduct, MaskPlane, Sensor, is_usable, kind_card, planes_of, write_image
from permil.products.fits import kept_cards, wcs_cards
from permil.products.sensor_identity import card_of

if TYPE_CHECKING:
    from astropy.nddata import CCDData
    from matplotlib.axes import Axes

Region = str | tuple[slice, slice] | ArrayLike | None
"""Part of a flat: the name of an amplifier, rows and columns, a mask or weights for each pixel; None for the whole detector."""

Image = TypeVar("Image")


class Flat:
    """The flat of one detector.

    Parameters
    ----------
    image : array_like, shape (ny, nx)
        Response, without a unit or in per cent; ``[row, column]`` of the assembled detector. Masked pixels have no data.
    variance : array_like, shape (ny, nx), optional
        Its independent variance; unknown if not given.
    mask : array_like, shape (ny, nx), optional
        Bits of `MaskPlane`; or bool, true where there is no data.
    camera : str
        Name of the camera, or its file.
    detector : str or Detector
        The detector, needed for amplifiers and positions.
    led : str
        LED or filter.

    Attributes
    ----------
    image : ndarray of float32, shape (ny, nx)
        Response, NaN without data. The median over all detectors of the run is 1.
    mask : ndarray of int32, shape (ny, nx)
        Bits of `MaskPlane`.
    variance : ndarray of float32, shape (ny, nx)
        Independent variance; 0 everywhere if it is not known.
    modes : FlatModes or None
        Modes of the errors that pixels share; only flats of the joint solution have them.
    header : astropy.io.fits.Header
        Primary header: provenance, detector, LED.

    Raises
    ------
    FlatError, InputError
        If the arrays do not hold real numbers, differ in shape or have the unit of a signal; if camera or detector do not exist.

    Examples
    --------
    >>> import numpy as np, permil
    >>> flat = permil.Flat(np.full((4, 4), 0.5), np.full((4, 4), 1e-6))
    >>> flat.apply(np.ones((4, 4)))[0, 0]
    np.float32(2.0)
    """

    # Products with arrays are errors: NumPy would make an array of flats, one for each pixel.
    __array_ufunc__ = None

    def __init__(
        self,
        image: ArrayLike,
        variance: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        camera: str = "",
        detector: str | Detector = "",
        led: str = "",
    ) -> None:
        response = plain_image(image, name="the flat", unit="")
        if np.ndim(response) != 2:
            raise InputError(f"the flat has {np.ndim(response)} dimensions, not 2", remedy="give an image")
        planes = planes_of(mask, "mask", response.shape)
        planes[~np.isfinite(response)] |= np.int32(MaskPlane.NO_DATA)
        noise = (
            np.zeros(response.shape)
            if variance is None
            else plain_image(variance, name="variance", unit="", shape=response.shape)
        )
        own = load_camera(camera or "lsstcam")[detector] if isinstance(detector, str) and detector else detector or None
        name = own.name if isinstance(own, Detector) else ""
        header = fits.Header()
        for card, entry in (("CAMERA", camera), ("DETECTOR", name), ("LED", led)):
            if entry:
                header[card] = entry
        self._product = ImageProduct(response.astype(np.float32), planes, noise.astype(np.float32), header, fits.Header())
        self._detector = own if isinstance(own, Detector) else None
        self._sensor: Sensor | None = None
        self.path: Path | None = None
        if self._detector is not None and self._detector.shape != response.shape:
            raise FlatError(
                f"the flat has the shape {response.shape}, detector {name} has {self._detector.shape}",
                remedy="give an assembled image of this detector",
                value=response.shape,
            )

    @classmethod
    def of(
        cls, product: ImageProduct, *, sensor: Sensor | None = None, detector: Detector | None = None, path: Path | None = None
    ) -> Flat:
        """Return the flat of an image product, whose sensor or detector may be known."""
        flat = cls.__new__(cls)
        vars(flat).update(_product=product, _sensor=sensor, _detector=detector, path=path)
        return flat

    @classmethod
    def read(cls, path: str | Path, *, detector: str = "", camera: str = "") -> Flat:
        """Read a flat of permil or of another program.

        Parameters
        ----------
        path
            FITS file with an image, and optionally a mask and a variance; segments of one sensor; or an array of NumPy (``.npy``).
        detector, camera
            Detector and camera of a file that does not name them.

        Raises
        ------
        InputError
            If the file cannot be read.
        FlatError
            If it is not a flat, or of another sensor than ``detector``.
        CameraError
            If there is no such detector or camera.

        Examples
        --------
        >>> import permil
        >>> permil.Flat.read("out/flat/red/R22_S11.fits").led
        'red'
        """
        (product,), sensor, named = read_flats([path_of(path, "a flat")], detector=detector, camera=camera)
        place = geometry_of(sensor, product, Path(path), camera=named) if camera else None
        return cls.of(product, sensor=sensor, detector=place, path=Path(path))

    def write(self, path: str | Path) -> None:
        """Write the flat as an image product (IMAGE, MASK, VARIANCE, and the modes if it has them).

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        product = self._product
        header = kept_cards(product.header)
        header.update(kind_card("flat"))
        write_image(
            path_of(path, "a flat"),
            product.image,
            product.mask,
            product.variance,
            header=header,
            image_cards=wcs_cards(product.image_header),
            extensions=list(product.extensions.values()),
            planes=product.planes,
        )

    # Properties

    @property
    def image(self) -> NDArray[np.floating]:
        """Response, shape (ny, nx)."""
        return self._product.image

    @property
    def mask(self) -> Int32Array:
        """Bits of `MaskPlane`, shape (ny, nx)."""
        return self._product.mask

    @property
    def variance(self) -> NDArray[np.floating]:
        """Independent variance, shape (ny, nx)."""
        return self._product.variance

    @property
    def header(self) -> fits.Header:
        """Primary header."""
        return self._product.header

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def usable(self) -> BoolArray:
        """Pixels with a measured, positive response, shape (ny, nx)."""
        return is_usable(self.mask) & (self.image > 0)

    @property
    def led(self) -> str:
        """LED or filter; empty if unknown."""
        return light_of(self._product)

    @cached_property
    def modes(self) -> FlatModes | None:
        """Modes of the errors that pixels share, None if the flat has none."""
        return FlatModes.of(self._product)

    @cached_property
    def detector(self) -> Detector:
        """The detector, with its amplifiers and its place in the focal plane.

        Raises
        ------
        InputError
            If the header does not name it, or the image has another size.
        """
        return self._detector or geometry_of(self._sensor, self._product, self.path)

    # Use

    def apply(self, image: Image, *, out: str | Path | None = None) -> Image:
        """Divide an image of the same detector by the flat.

        Parameters
        ----------
        image : array_like, shape (ny, nx); NDData or CCDData; or path
            Image in any unit. A mask (bool or `MaskPlane` bits) and an uncertainty are carried.
        out
            File to write; needed if ``image`` is a path.

        Returns
        -------
        Same kind as ``image``
            ``image / flat``. Where the flat is not usable: NaN, and masked if the image has a mask. The variance is
            ``var(d) / F^2 + d^2 var(F) / F^4``. For a path, the path of the file written.

        Raises
        ------
        FlatError
            If image and flat do not belong together.
        InputError
            If the image does not hold real numbers or cannot be read, or ``out`` is missing.
        OutputError
            If the file cannot be written.

        Examples
        --------
        >>> import numpy as np, permil
        >>> from astropy.nddata import CCDData
        >>> flat = permil.Flat(np.full((2, 2), 0.5))
        >>> flat.apply(CCDData(np.ones((2, 2)), unit="electron")).data[0, 0]
        np.float32(2.0)
        """
        if isinstance(image, str | Path):
            if out is None:
                raise InputError(
                    "the file to write is missing", path=image, remedy='give it: flat.apply(image, out="flattened.fits")'
                )
            self.apply_to_file(image, out)
            return type(image)(out)
        if out is not None:
            raise InputError(
                "out is given, but the image is an array", remedy="write the result yourself, or give the path of the image"
            )
        if hasattr(image, "uncertainty") and hasattr(image, "mask"):
            return self._apply_to_nddata(image)
        corrected, _, planes = self._divide(image, np.zeros(self.shape), None)
        if isinstance(image, np.ma.MaskedArray):
            return np.ma.array(corrected, mask=~is_usable(planes) | mask_of(image))  # type: ignore[return-value]
        unit = unit_of(image)
        return corrected if unit is None else corrected * unit  # type: ignore[return-value]

    def apply_to_file(self, image: str | Path, out: str | Path) -> Description:
        """Divide the image in a file by the flat and write the result; return a summary, with its values as ``facts``.

        Raises
        ------
        FlatError, InputError, OutputError
            See `apply`.
        """
        return apply_to_file(self._product, self._sensor, Path(image), Path(out), flat_path=self.path)

    def _divide(self, image: Any, variance: Any, mask: Any) -> tuple[Float32Array, Float32Array, Int32Array]:
        return apply_flat(image, variance, mask, flat=self.image, flat_variance=self.variance, flat_mask=self.mask)

    def _apply_to_nddata(self, image: Any) -> Any:
        from astropy.nddata import VarianceUncertainty

        known = image.uncertainty is not None
        mask = None if image.mask is None else np.broadcast_to(image.mask, self.shape)
        # Not the image itself: values under its mask stay.
        data = image.data if image.unit is None else u.Quantity(image.data, image.unit)
        corrected, error, planes = self._divide(data, image.uncertainty if known else np.zeros(self.shape), mask)
        is_bits = mask is not None and np.asarray(mask).dtype.kind in "iu"
        return type(image)(
            corrected,
            uncertainty=VarianceUncertainty(error).represent_as(type(image.uncertainty)) if known else None,
            mask=planes if is_bits else ~is_usable(planes),
            wcs=image.wcs,
            meta=copy(image.meta),
            unit=image.unit,
        )

    def __truediv__(self, other: Flat | float) -> Flat:
        """Return the ratio to another flat of the detector, with its variance; or this flat over a number."""
        if isinstance(other, int | float | np.number):
            return self._scaled(1.0 / float(other) if other else math.inf)
        if not isinstance(other, Flat):
            return NotImplemented
        image, variance, mask = other._divide(self.image, self.variance, self.mask)
        header = self.header.copy()
        header["LED"] = (f"{self.led or '?'} / {other.led or '?'}", "LEDs of the two flats")
        return Flat.of(ImageProduct(image, mask, variance, header, fits.Header()), sensor=self._sensor, detector=self._detector)

    def __mul__(self, factor: float) -> Flat:
        """Return this flat times a number."""
        return self._scaled(float(factor)) if isinstance(factor, int | float | np.number) else NotImplemented

    __rmul__ = __mul__

    def _scaled(self, factor: float) -> Flat:
        if not math.isfinite(factor) or factor <= 0:
            raise FlatError(f"a flat cannot be scaled by {factor}", remedy="give a positive number", value=factor)
        product = self._product
        scaled = ImageProduct(
            product.image * np.float32(factor),
            product.mask,
            product.variance * np.float32(factor) ** 2,
            product.header,
            product.image_header,
            product.extensions,
            product.planes,
        )
        return Flat.of(scaled, sensor=self._sensor, detector=self._detector)

    def difference(self, other: Flat, *, super_pixel_mm: float = 0.64) -> FlatDifference:
        """Compare with another flat of the same detector.

        Parameters
        ----------
        other
            The flat in the denominator.
        super_pixel_mm
            Side of a super-pixel, mm.

        Returns
        -------
        FlatDifference
            Ratio, rms on two scales, gradient and amplifiers, with errors; ``print`` shows a summary.

        Raises
        ------
        FlatError
            If the flats are of different detectors, or have no good super-pixel in common.
        InputError
            If the detector is not known.
        """
        check_super_pixel(super_pixel_mm)
        if not isinstance(other, Flat):
            raise FlatError(
                f"a flat cannot be compared with {type(other).__name__}",
                remedy="give a permil.Flat, made from an array with permil.Flat(array, camera=..., detector=...)",
            )
        if self.detector.name != other.detector.name:
            raise FlatError(
                f"flats of different detectors ({self.detector.name} and {other.detector.name}) cannot be compared",
                remedy="give two flats of one detector",
            )
        return difference_of_products(self._product, other._product, self.detector, super_pixel_mm=super_pixel_mm)

    def mean(self, region: Region = None) -> tuple[float, float]:
        """Return the mean response of a region and its standard error.

        Parameters
        ----------
        region
            Name of an amplifier, ``(rows, columns)`` as slices, a mask (true: takes part) or weights, shape (ny, nx); None for the
            whole detector. Unusable pixels do not count.

        Returns
        -------
        mean, error : float
            The error includes the errors that pixels share; NaN if the flat has no modes, since it is not known then.

        Raises
        ------
        FlatError
            If the region has no usable pixel.

        Examples
        --------
        >>> import numpy as np, permil
        >>> permil.Flat(np.full((4, 4), 1.25)).mean((slice(0, 2), slice(0, 4)))
        (1.25, nan)
        """
        weights = self._weights(region)
        mean = mean_of_region(self._product, weights)
        if self.modes is None:
            return mean, math.nan
        return mean, mean * math.sqrt(covariance_in_flat(self._product, self.modes, weights, weights))

    def covariance(self, region_a: Region, region_b: Region = None) -> float:
        """Return the relative covariance of the mean responses of two regions; of a region with itself, the variance of its mean.

        Parameters
        ----------
        region_a, region_b
            See `mean`.

        Raises
        ------
        FlatError
            If a region has no usable pixel, or the flat has no modes.

        Examples
        --------
        >>> import permil
        >>> flat = permil.Flat.read("out/flat/red/R22_S11.fits")
        >>> flat.covariance("C14", "C10") < flat.covariance("C14", "C14")
        True
        """
        if self.modes is None:
            raise FlatError(
                "this flat has no modes of its shared errors",
                path=self.path,
                remedy="make it with flat.solver: joint",
            )
        return covariance_in_flat(self._product, self.modes, self._weights(region_a), self._weights(region_b))

    def _weights(self, region: Region) -> Any:
        if region is None:
            return np.ones(self.shape)
        if isinstance(region, str):
            region = self.detector.amplifier(region).slices
        if isinstance(region, tuple) and all(isinstance(part, slice) for part in region):
            weights = np.zeros(self.shape)
            weights[region] = 1.0
            return weights
        return region

    # Interfaces

    def to_ccddata(self) -> CCDData:
        """Return the flat as CCDData: variance, mask of unusable pixels, header.

        `ccdproc.flat_correct` divides a flat by its own mean unless ``norm_value=1`` is given: the level of the detector is lost then, and
        the result is NaN if the flat has pixels without data.

        Examples
        --------
        >>> import numpy as np, permil
        >>> permil.Flat(np.ones((2, 2))).to_ccddata().unit
        Unit(dimensionless)
        """
        found = self._product.to_ccddata()
        found.mask = ~self.usable
        return found

    def plot(self, ax: Axes | None = None, *, spread: float = 5.0, **options: Any) -> Axes:
        """Draw the flat; unusable pixels are blank.

        Parameters
        ----------
        ax
            Axes to draw in; by default new ones.
        spread
            Half width of the grey scale, in robust standard deviations around the median.
        **options
            Further options of `matplotlib.axes.Axes.imshow`.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from permil.plotting import draw_image, new_axes

        ax = new_axes() if ax is None else ax
        draw_image(ax, np.where(self.usable, self.image, np.nan), spread=spread, **options)
        ax.set(title=self._title, xlabel="x (pixels)", ylabel="y (pixels)")
        return ax

    @property
    def _title(self) -> str:
        name = str(card_of(self.header, "DETECTOR") or "")
        return " ".join(part for part in ("flat", name, self.led) if part)

    def facts(self) -> dict[str, str]:
        """Return the essentials as text: detector, LED, pixels, median, errors."""
        usable = self.usable
        facts = {"detector": str(card_of(self.header, "DETECTOR") or "unknown"), "LED": self.led or "unknown"}
        facts["pixels"] = f"{self.shape[1]} x {self.shape[0]}, {1 - usable.mean():.2%} unusable"
        if usable.any():
            facts["median"] = f"{np.median(self.image[usable]):.5f}"
            known = usable & (self.variance > 0)
            error = np.sqrt(np.median(self.variance[known])) if known.any() else math.nan
            facts["error of a pixel"] = f"{1e3 * error:.3g} per mil (median)" if known.any() else "unknown"
        facts["shared errors"] = "unknown" if self.modes is None else f"{len(self.modes.patterns)} modes"
        return facts

    def __repr__(self) -> str:
        """Return the essentials in one line."""
        return f"<Flat {'; '.join(f'{name}: {fact}' for name, fact in self.facts().items())}>"

    def _repr_html_(self) -> str:
        """Return the essentials as a small table."""
        from html import escape

        rows = "".join(f"<tr><th>{name}</th><td>{escape(fact)}</td></tr>" for name, fact in self.facts().items())
        return f"<table><caption>permil.Flat</caption>{rows}</table>"


def divide(stack: ExposureStack, position: ArrayLike, beam: BeamModel, detector: Detector) -> Flat:
    """Divide the stack of one position by the light of the beam: the flat of one pointing.

    Parameters
    ----------
    stack
        Stack of the exposures at one position (`permil.stack`).
    position : array_like, shape (2,)
        Projector position, CCS X and Y, mm.
    beam
        Beam model of the LED.
    detector
        Detector of the stack.

    Returns
    -------
    Flat
        Electrons per photodiode unit at the maximum of the beam; NaN outside the area in which the beam is known.

    Raises
    ------
    FlatError
        If the photodiode reading is not positive.
    InputError
        If the position is not two finite lengths, or the detector is not that of the stack.

    Examples
    --------
    >>> import permil
    >>> run = permil.open_run("out")
    >>> index = run.exposures
    >>> first = index[(index["purpose"] == "pointing") & (index["led"] == "red")][:1]
    >>> stack = permil.stack(list(first["path"]), run.calibration("R22_S11"), camera=run.camera)
    >>> permil.divide(stack, (first["x_mm"][0], first["y_mm"][0]), run.beam("red"), run.camera["R22_S11"]).detector.name
    'R22_S11'
    """
    x_mm, y_mm = (float(axis) for axis in plain_array(position, name="position", unit="mm", shape=(2,)))
    if not (math.isfinite(x_mm) and math.isfinite(y_mm)):
        raise InputError(
            "the position is masked or not finite", remedy="give CCS X and Y of the projector, mm", value=(x_mm, y_mm)
        )
    if stack.stack.detector.name != detector.name:
        raise InputError(
            f"the stack is of {stack.stack.detector.name}, not of {detector.name}", remedy="give the detector of the stack"
        )
    pointing = divide_by_beam(lit_by_beam(stack, (x_mm, y_mm), beam, detector))
    header = fits.Header()
    header["DETECTOR"], header["BEAMX"], header["BEAMY"] = detector.name, x_mm, y_mm
    product = ImageProduct(pointing.response, pointing.mask.astype(np.int32), pointing.variance, header, fits.Header())
    return Flat.of(product, detector=detector)
