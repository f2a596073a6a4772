"""Every so many-th row of a detector, as a detector of its own: enough for means over many pixels, in a fraction of the time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from permil.camera.frames import segment_to_detector
from permil.isr.calibration import Calibration, Superbias


@dataclass(frozen=True)
class RowSample:
    """Some rows of a detector: the same raw rows of all segments, since these are read, and disturb each other, at the same time.

    Saturation spreads to neighbours within the sample only: what it does from a row that is not read has to be found as an outlier.

    Parameters
    ----------
    calibration
        Of a detector that consists of these rows.
    raw_rows
        Which rows of a raw segment they are; None for whole segments.
    detector_rows : ndarray of int, shape (n,)
        Row of the whole detector of each row of the sample.
    """

    calibration: Calibration
    raw_rows: slice | None
    detector_rows: NDArray[np.int64]

    @property
    def regular_rows(self) -> list[slice]:
        """Rows of the detector, in their order, as slices: the two sides of a detector that is read from both need not go on regularly."""
        steps = np.diff(self.detector_rows)
        found, begin = [], 0
        while begin < self.detector_rows.size:
            step = int(steps[begin]) if begin < steps.size else 1
            same = steps[begin:] == step
            end = begin + 1 + (int(np.argmin(same)) if not same.all() else same.size)
            found.append(slice(int(self.detector_rows[begin]), int(self.detector_rows[end - 1]) + 1, step))
            begin = end
        return found

    @classmethod
    def of(cls, calibration: Calibration, step: int) -> RowSample:
        """Return the sample of every ``step``-th row; overscan levels that are smoothed over rows are not those of the whole then."""
        detector = calibration.detector
        if step == 1:
            return cls(calibration, None, np.arange(detector.ny))
        begin = step // 2
        in_detector = []
        for amplifier in detector.amplifiers:
            raw_rows = np.arange(begin, amplifier.ny, step)
            in_detector.append(np.sort(segment_to_detector(amplifier, np.zeros(raw_rows.size), raw_rows)[1]).astype(np.int64))
        detector_rows = np.unique(np.concatenate(in_detector))
        amplifiers = tuple(
            replace(amplifier, ny=rows.size, parallel_overscan=0, y_min=int(np.searchsorted(detector_rows, rows[0])))
            for amplifier, rows in zip(detector.amplifiers, in_detector, strict=True)
        )
        bias = calibration.superbias
        sampled = replace(
            calibration,
            detector=replace(detector, ny=detector_rows.size, amplifiers=amplifiers),
            static_mask=calibration.static_mask[detector_rows],
            superbias=None if bias is None else Superbias(bias.image[detector_rows], bias.variance[detector_rows]),
        )
        return cls(sampled, slice(begin, detector.amplifiers[0].ny, step), detector_rows)
