"""Detectors, amplifiers and the camera that they form: immutable descriptions, and the spellings of their names.

``R22_S11`` is also written ``R22-S11``, ``r22_s11``, ``R22S11``, ``94``, ``det094`` or by the serial number of its sensor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from permil.arrays import FloatArray, plain_array
from permil.camera.frames import ccs_to_detector, detector_to_ccs
from permil.errors import CameraError

SERIAL_PREFIX = re.compile(r"^\s*LCA[-_ ]", re.IGNORECASE)
"""Prefix that some programs write before a serial number."""

_SEPARATORS = re.compile(r"[\s_\-./]+")
_NUMBER = re.compile(r"(?:DET(?:ECTOR)?|CCD)?0*(\d+)")
_BAY_AND_SLOT = re.compile(r"R\d\dS[A-Z\d]\d")


def detector_key(label: Any) -> str | int:
    """Return the canonical spelling of a detector label.

    Parameters
    ----------
    label
        Text, bytes or number, as headers, tables and configurations hold it.

    Returns
    -------
    str or int
        The number of the detector for ``94``, ``"94"``, ``94.0`` and ``"det094"``, else the upper-case text without separators.
        An empty or undefined label gives ``""``.

    Examples
    --------
    >>> detector_key("r22-s11"), detector_key("det094"), detector_key("E2V-CCD250-382")
    ('R22S11', 94, 'E2VCCD250382')
    """
    if label is None or label is np.ma.masked or isinstance(label, bool | np.bool_):
        return ""
    if isinstance(label, bytes):
        label = label.decode("ascii", "replace")
    if isinstance(label, int | np.integer) or (isinstance(label, float | np.floating) and float(label).is_integer()):
        return int(label)
    return _key_of(str(label))


@lru_cache(maxsize=4096)
def _key_of(text: str) -> str | int:
    key = _SEPARATORS.sub("", text.upper())
    number = _NUMBER.fullmatch(key)
    return int(number[1]) if number else key


def serial_key(serial: Any) -> str:
    """Normalise a serial number for comparison: case, blanks, hyphens and a leading LCA are ignored."""
    return _serial_key_of(str(serial))


@lru_cache(maxsize=4096)
def _serial_key_of(text: str) -> str:
    return str(_key_of(SERIAL_PREFIX.sub("", text)))


def is_bay_and_slot(label: Any) -> bool:
    """Return whether a label has the form raft bay and slot (``R22_S11``), whether or not a camera has it."""
    key = detector_key(label)
    return isinstance(key, str) and _BAY_AND_SLOT.fullmatch(key) is not None


def keys_of(name: str, number: int, serial: str) -> Iterable[str | int]:
    """Return the canonical spellings of name, number and serial number of a detector."""
    keys = (detector_key(name), number, detector_key(serial))
    return tuple(key for key in keys if key != "")


@dataclass(frozen=True)
class Led:
    """An LED of the projector: its filter band, and its wavelength (nm), NaN if unknown."""

    name: str
    band: str = ""
    wavelength_nm: float = math.nan

    @property
    def label(self) -> str:
        """Name with band and wavelength, as far as they are known."""
        known = [self.band] if self.band else []
        known += [f"{self.wavelength_nm:g} nm"] if math.isfinite(self.wavelength_nm) else []
        return f"{self.name} ({', '.join(known)})" if known else self.name


@dataclass(frozen=True)
class Amplifier:
    """One amplifier: its segment in the raw file and its position in the detector.

    ``x_min`` and ``y_min`` are the first column and row in the DM pixel frame of the detector (0-based); the flips turn the
    trimmed raw segment into that frame. Gain is in electrons per adu, read noise and saturation in electrons (nominal values).
    """

    name: str
    number: int
    extname: str
    prescan: int
    nx: int
    ny: int
    serial_overscan: int
    parallel_overscan: int
    x_min: int
    y_min: int
    flip_x: bool
    flip_y: bool
    detector_shape: tuple[int, int]
    gain: float
    read_noise: float
    saturation: float

    @property
    def channel(self) -> int:
        """CHANNEL card of the raw segment: the eotest number."""
        return self.number

    @property
    def nx_raw(self) -> int:
        """Columns of the raw segment."""
        return self.prescan + self.nx + self.serial_overscan

    @property
    def ny_raw(self) -> int:
        """Rows of the raw segment."""
        return self.ny + self.parallel_overscan

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of this amplifier in the detector array."""
        return slice(self.y_min, self.y_min + self.ny), slice(self.x_min, self.x_min + self.nx)

    @property
    def data_slices(self) -> tuple[slice, slice]:
        """Rows and columns of the active pixels in the raw segment."""
        return slice(0, self.ny), slice(self.prescan, self.prescan + self.nx)

    @property
    def serial_overscan_slices(self) -> tuple[slice, slice]:
        """Rows (active ones) and columns of the serial overscan in the raw segment."""
        return slice(0, self.ny), slice(self.prescan + self.nx, self.nx_raw)

    @property
    def datasec(self) -> str:
        """DATASEC card: active pixels of the raw segment, 1-based and inclusive."""
        return f"[{self.prescan + 1}:{self.prescan + self.nx},1:{self.ny}]"

    @property
    def detsize(self) -> str:
        """DETSIZE card of the detector."""
        return f"[1:{self.detector_shape[1]},1:{self.detector_shape[0]}]"

    @property
    def detsec(self) -> str:
        """DETSEC card as in raw headers: mirrored in y from the DM pixel frame, with reversed limits for flipped axes."""
        first_x, last_x = self.x_min + 1, self.x_min + self.nx
        ny_detector = self.detector_shape[0]
        low_y, high_y = ny_detector - self.y_min - self.ny + 1, ny_detector - self.y_min
        x_limits = f"{last_x}:{first_x}" if self.flip_x else f"{first_x}:{last_x}"
        y_limits = f"{low_y}:{high_y}" if self.flip_y else f"{high_y}:{low_y}"
        return f"[{x_limits},{y_limits}]"


@dataclass(frozen=True)
class Detector:
    """One sensor: its position in the focal plane and its amplifiers.

    ``centre_dvcs`` is the DVCS position (mm) of ``reference_pixel`` (x, y; 0-based, pixel centres at integers).

    Examples
    --------
    >>> import permil
    >>> detector = permil.load_camera("lsstcam")["R22_S11"]
    >>> detector.shape, detector.amplifier("C14").slices
    ((4004, 4096), (slice(2002, 4004, None), slice(2048, 2560, None)))
    """

    name: str
    id: int
    kind: str
    layout: str
    vendor: str
    serial: str
    raft_serial: str
    reb: str
    nx: int
    ny: int
    pixel_mm: float
    centre_dvcs: tuple[float, float]
    reference_pixel: tuple[float, float]
    yaw_deg: float
    z_mm: float
    amplifiers: tuple[Amplifier, ...] = field(repr=False)

    @property
    def raft(self) -> str:
        """Raft bay, for example ``R22``."""
        return self.name[:3]

    @property
    def slot(self) -> str:
        """Slot in the raft, for example ``S11``."""
        return self.name[4:]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the detector array."""
        return self.ny, self.nx

    def to_ccs(self, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Convert pixels of the assembled detector into the focal plane.

        Parameters
        ----------
        x, y : array_like
            Column and row, 0-based, pixel centres at integers.

        Returns
        -------
        x_mm, y_mm : ndarray
            Camera coordinate system (CCS), mm; NaN where masked.

        Raises
        ------
        InputError
            If the coordinates are not real numbers or have a unit other than pixel.

        Examples
        --------
        >>> import permil
        >>> detector = permil.load_camera("lsstcam")["R22_S11"]
        >>> x_mm, y_mm = detector.to_ccs(0, 0)
        >>> [round(float(x), 6) for x in detector.from_ccs(x_mm, y_mm)]
        [0.0, 0.0]
        """
        return detector_to_ccs(self, plain_array(x, name="x", unit="pixel"), plain_array(y, name="y", unit="pixel"))

    def from_ccs(self, x_mm: ArrayLike, y_mm: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Convert positions in the focal plane (CCS, mm) into pixels (x, y), also outside the detector; see `to_ccs`."""
        return ccs_to_detector(self, plain_array(x_mm, name="x_mm", unit="mm"), plain_array(y_mm, name="y_mm", unit="mm"))

    @classmethod
    def plain(cls, shape: tuple[int, int], *, pixel_mm: float = 0.01) -> Detector:
        """Return a detector that is only a grid of pixels: without amplifiers, centred on the origin of the focal plane."""
        middle = (shape[1] - 1) / 2, (shape[0] - 1) / 2
        return cls("", 0, "plain", "", "", "", "", "", shape[1], shape[0], pixel_mm, (0.0, 0.0), middle, 0.0, 0.0, ())

    def is_called(self, label: Any) -> bool:
        """Return whether a label is the name, number or serial number of this detector, in any spelling."""
        return label == self.name or detector_key(label) in keys_of(self.name, self.id, self.serial)

    @property
    def centre_pixel(self) -> tuple[float, float]:
        """Geometric centre of the array (x, y)."""
        return (self.nx - 1) / 2, (self.ny - 1) / 2

    def amplifier(self, key: str | int) -> Amplifier:
        """Return the amplifier with a name (``C14``), an extension name (``Segment14``) or an eotest number (5).

        Raises
        ------
        CameraError
            If the detector has no such amplifier.
        """
        wanted = key.strip().lower() if isinstance(key, str) else key
        if isinstance(wanted, str) and wanted.isdecimal():
            wanted = int(wanted)
        for amplifier in self.amplifiers:
            if wanted in (amplifier.name.lower(), amplifier.extname.lower(), amplifier.number):
                return amplifier
        names = [amplifier.name for amplifier in self.amplifiers]
        raise CameraError(
            f"detector {self.name} has no amplifier {key!r}",
            remedy=f"its amplifiers are {', '.join(names)}",
            value=key,
            allowed=names,
        )

    def amplifier_map(self) -> NDArray[np.int8]:
        """Return an array of the detector's shape with the index of the amplifier of each pixel."""
        indices = np.empty(self.shape, dtype=np.int8)
        for index, amplifier in enumerate(self.amplifiers):
            indices[amplifier.slices] = index
        return indices


@dataclass(frozen=True)
class ReferenceBox:
    """A bunch of pixels on which the beam is measured: centre in the trimmed raw segment, side in pixels."""

    detector: str
    amp: str
    row: int
    column: int
    box: int


@dataclass(frozen=True)
class Camera:
    """All detectors of a camera, by name.

    ``temperature_coefficient`` is the nominal relative change of the gains (e-/adu) per deg C of their readout board; None where it is not
    known. ``leds`` are the LEDs of the projector by rising wavelength.

    Examples
    --------
    >>> import permil
    >>> permil.load_camera("lsstcam").detector_at([0.0, 42.0], [0.0, 0.0]).tolist()
    ['R22_S11', 'R22_S21']
    """

    name: str
    title: str
    pixel_mm: float
    edge_mm: float
    midline_mm: float
    reference: ReferenceBox
    detectors: dict[str, Detector] = field(repr=False)
    temperature_coefficient: float | None = None
    leds: tuple[Led, ...] = ()

    def led(self, name: str) -> Led:
        """Return an LED by its name; one that the camera file does not list has neither band nor wavelength."""
        return next((led for led in self.leds if led.name == name), Led(name))

    def sorted_leds(self, names: Iterable[str]) -> list[str]:
        """Return names of LEDs in the order of the camera file, which is that of wavelengths; others follow."""
        order = [led.name for led in self.leds]
        return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))

    def __getitem__(self, label: Any) -> Detector:
        """Return a detector by its name (``R22_S11``), number or serial number in any spelling.

        Raises
        ------
        CameraError
            If the camera has no such detector.
        """
        detector = self.find(label)
        if detector is None:
            close = get_close_matches(str(label).upper(), self.detectors, n=1, cutoff=0.8)
            raise CameraError(
                f"camera {self.name} has no detector {label!r}",
                remedy=f"did you mean {close[0]}?" if close else "names look like R22_S11",
                value=label,
                allowed=sorted(self.detectors),
            )
        return detector

    def find(self, label: Any) -> Detector | None:
        """Return the detector with a label (see `permil.camera.model`), None if this camera has none."""
        if isinstance(label, str) and label in self.detectors:
            return self.detectors[label]
        name = self._names_by_key.get(detector_key(label))
        return None if name is None else self.detectors[name]

    @cached_property
    def _names_by_key(self) -> dict[str | int, str]:
        return {key: entry.name for entry in self.detectors.values() for key in keys_of(entry.name, entry.id, entry.serial)}

    @property
    def science(self) -> list[Detector]:
        """The science detectors in the order of their numbers."""
        return [detector for detector in self.detectors.values() if detector.kind == "science"]

    @cached_property
    def _bounds_ccs(self) -> tuple[NDArray[np.str_], FloatArray]:
        names, bounds = [], []
        for detector in self.detectors.values():
            corner_x, corner_y = detector_to_ccs(
                detector, np.array([-0.5, detector.nx - 0.5]), np.array([-0.5, detector.ny - 0.5])
            )
            names.append(detector.name)
            bounds.append((corner_x.min(), corner_x.max(), corner_y.min(), corner_y.max()))
        return np.array(names), np.array(bounds)

    def detector_at(self, x_ccs: ArrayLike, y_ccs: ArrayLike) -> NDArray[np.str_]:
        """Return the name of the detector that holds each CCS point, ``""`` if none does.

        Parameters
        ----------
        x_ccs, y_ccs
            Positions in mm, any shape that broadcasts.
        """
        x, y = np.broadcast_arrays(
            *(plain_array(axis, name=name, unit="mm") for name, axis in (("x_ccs", x_ccs), ("y_ccs", y_ccs)))
        )
        found = np.full(x.shape, "", dtype="U16")
        for name, (x_low, x_high, y_low, y_high) in zip(*self._bounds_ccs, strict=True):
            found[(x >= x_low) & (x < x_high) & (y >= y_low) & (y < y_high)] = name
        return found
