"""The control photodiode: select exposures with a usable reading, and set the scale of a stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from permil.arrays import BoolArray, FloatArray, plain_array
from permil.errors import PhotodiodeError

# A reading that differs from the light by this many robust sigma, and by more than the floor, is excluded from the scale of a stack.
_OUTLIER_SIGMA = 5.0
_OUTLIER_FLOOR = 5e-3


@dataclass(frozen=True)
class LeftOut:
    """An exposure that is not used, with the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class PhotodiodeSelection:
    """Exposures that can be normalised.

    Parameters
    ----------
    used
        Whether each exposure is used, shape (n_exposures,).
    photodiode
        Divisors; all 1 if the photodiode is not used.
    left_out
        The other exposures.
    """

    used: BoolArray
    photodiode: FloatArray
    left_out: tuple[LeftOut, ...]


def select_by_photodiode(
    readings: Sequence[float | None] | FloatArray, paths: Sequence[str | Path], *, normalise: bool = True
) -> PhotodiodeSelection:
    """Select the exposures whose photodiode reading is a positive number.

    Parameters
    ----------
    readings
        Photodiode per exposure; None, NaN, infinite, zero and negative readings are unusable.
    paths
        Their files.
    normalise
        False (``isr.photodiode: none``): use all exposures, with divisor 1.

    Raises
    ------
    PhotodiodeError
        If there are exposures and none has a usable reading.
    """
    values = plain_array(readings, name="photodiode readings", ndim=1)
    if not normalise:
        return PhotodiodeSelection(np.ones(values.size, dtype=bool), np.ones(values.size), ())
    used = np.isfinite(values) & (values > 0)
    if values.size and not used.any():
        raise PhotodiodeError(
            f"none of {values.size} exposures has a usable photodiode reading (first: {values[0]})",
            path=paths[0],
            remedy="set isr.photodiode to none to continue without normalisation (the products record this)",
            value=values.tolist(),
        )
    left_out = tuple(
        LeftOut(Path(path), "photodiode reading is missing" if np.isnan(reading) else f"photodiode reading is {reading:g}")
        for path, reading, good in zip(paths, values, used, strict=True)
        if not good
    )
    return PhotodiodeSelection(used, values, left_out)


@dataclass(frozen=True)
class PhotodiodeScale:
    """Scale of a stack from the photodiode readings of its frames.

    Parameters
    ----------
    factor
        Factor from a stack at the mean light to the signal at the mean photodiode reading.
    error
        Relative standard error of the scale, from the scatter of light over photodiode; NaN for fewer than two readings.
    mean
        Mean reading of the frames that set the scale.
    outliers
        Frames whose reading contradicts their light; they are excluded from the scale.
    """

    factor: float
    error: float
    mean: float
    outliers: tuple[int, ...]


def photodiode_scale(light: ArrayLike, photodiode: ArrayLike) -> PhotodiodeScale:
    """Compare light and photodiode of the frames of one stack.

    The scale is ``sum(light) / sum(photodiode)``, the best estimate for photon noise; with at least three frames, a frame that differs
    from the median ratio by 5 robust sigma (and 0.5 %) is left out of both sums.

    Parameters
    ----------
    light
        Relative light per frame, from the frames themselves.
    photodiode
        Readings, positive.

    Raises
    ------
    PhotodiodeError
        If there is no frame, or a light or reading is not a positive number.
    """
    amounts = plain_array(light, name="light", ndim=1)
    readings = plain_array(photodiode, name="photodiode readings", shape=amounts.shape)
    positive = np.isfinite(amounts) & np.isfinite(readings) & (amounts > 0) & (readings > 0)
    if not positive.size or not positive.all():
        raise PhotodiodeError(
            f"{np.count_nonzero(~positive)} of {positive.size} frames have no positive light or photodiode reading",
            remedy="leave these exposures out",
        )
    ratio = amounts / readings
    deviation = np.abs(ratio / np.median(ratio) - 1)
    limit = max(_OUTLIER_SIGMA * 1.4826 * float(np.median(deviation)), _OUTLIER_FLOOR)
    good = deviation <= limit if ratio.size >= 3 else np.ones(ratio.size, dtype=bool)
    count = int(good.sum())
    mean = float(readings[good].mean())
    factor = float(amounts[good].mean() / amounts.mean())
    error = float(ratio[good].std(ddof=1) / ratio[good].mean() / np.sqrt(count)) if count > 1 else np.nan
    return PhotodiodeScale(factor, error, mean, tuple(int(frame) for frame in np.flatnonzero(~good)))
