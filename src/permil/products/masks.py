"""Mask planes: defined once, written into every product as ``MP_*`` cards (the number of the bit)."""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from astropy.io.fits import Header
    from numpy.typing import NDArray


class MaskPlane(IntFlag):
    """What can be said of a pixel."""

    BAD = 1
    """Defect: dead, hot, bad column, or listed in the defect table."""
    SAT = 2
    """Saturated in the exposures that were used."""
    NO_DATA = 4
    """Nothing was measured here (outside the beam's known area, or all exposures rejected)."""
    EDGE = 8
    """In the zone along the outer edge of the sensor, where charge is displaced."""
    MIDLINE = 16
    """Along the line between the two halves of the sensor."""
    REJECTED = 32
    """At least one exposure was rejected as an outlier; the rest is good."""
    SUSPECT = 64
    """Usable with care: scatters more than its noise model allows."""


UNUSABLE = MaskPlane.BAD | MaskPlane.SAT | MaskPlane.NO_DATA
"""Planes whose pixels carry no measurement."""

NOT_GOOD = UNUSABLE | MaskPlane.EDGE | MaskPlane.MIDLINE | MaskPlane.SUSPECT
"""Planes that are left out of medians, scales and statements about quality."""


def add_mask_cards(header: Header) -> None:
    """Name the planes in a header: ``MP_SAT = 1`` says that bit 1 (value 2) means ``SAT``."""
    for plane in MaskPlane:
        name = f"MP_{plane.name}"
        # Eight characters are the limit of a FITS keyword; longer names go by their first letters.
        header[name[:8]] = (plane.value.bit_length() - 1, f"mask bit of plane {plane.name}")


def is_good(mask: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return where a mask has none of the planes of `NOT_GOOD`."""
    return (mask & int(NOT_GOOD)) == 0


def is_usable(mask: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return where a mask has none of the planes of `UNUSABLE`."""
    return (mask & int(UNUSABLE)) == 0
