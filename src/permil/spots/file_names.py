"""Parse file names of spot exposures: exposure, detector, exposure time and projector position.

Names of the spot measurements of 2019 have the form
``MC_C_20191030_000363_R22_S11_15.0s_0.1x_-3.5y_processed_grid.fits``; detectors are also written ``R22-S11`` or ``r22_s11``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from permil.exposures.file_names import parse_file_name

_EXPOSURE = re.compile(r"[A-Z]{2}_[A-Z]_\d{8}_\d{6}")
_DETECTOR = re.compile(r"(?<![A-Z])(R\d\d)[_-]?(S[\dGW]\d)(?!\d)", re.IGNORECASE)
_NUMBER = r"([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"
_CONDITIONS = re.compile(rf"_{_NUMBER}s_{_NUMBER}x_{_NUMBER}y(?:_|\.|$)")


def exposure_key(name: str) -> str:
    """Normalise the name of an exposure: the number ``3019103000363`` is ``MC_C_20191030_000363``."""
    numbered = parse_file_name(f"{name}-R22-S11-det094.fits") if name.isdigit() else None
    return numbered.obsid if numbered else name


@dataclass(frozen=True)
class NameFacts:
    """Information in a file name; empty or NaN if absent."""

    exposure: str
    detector: str
    exposure_time: float
    projector_x: float
    projector_y: float


def facts_of_name(path: str | Path) -> NameFacts:
    """Parse a file name."""
    name = Path(path).name
    exposure, detector, conditions = _EXPOSURE.search(name), _DETECTOR.search(name), _CONDITIONS.search(name)
    seconds, x, y = (float(entry) for entry in conditions.groups()) if conditions else (np.nan,) * 3
    return NameFacts(
        exposure=exposure.group() if exposure else "",
        detector="_".join(detector.groups()).upper() if detector else "",
        exposure_time=seconds,
        projector_x=x,
        projector_y=y,
    )
