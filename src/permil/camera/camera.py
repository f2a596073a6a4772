"""A camera: all of its detectors, by any of their names and by their places."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from permil.arrays import FloatArray, plain_array
from permil.camera.frames import detector_to_ccs
from permil.camera.model import Detector, Led, ReferenceBox, detector_key, keys_of
from permil.errors import CameraError


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
