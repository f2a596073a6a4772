from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from permil.exposures.segment_rows import CodedRows
from permil.isr.calibration.calibration import Placement, SegmentGroup
from permil.isr.stack import Averages, NoiseTest, RowFit
from permil.isr.streamed_stack import FrameRows, RowSamples, Spread, Steps

PLANES: dict[str, int]

def add_rows(
    coded: CodedRows,
    rows: NDArray[np.int64],
    first_index: int,
    group: SegmentGroup,
    frames: FrameRows,
    measure: bool,
    spread: Spread,
    noise_variance: NDArray[np.float64],
    test: NoiseTest,
    out: Averages,
    squares: NDArray[np.float32],
) -> tuple[int, int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]: ...
def average_doubtful(
    places: NDArray[np.int64],
    sums: NDArray[np.float64],
    noise_variance: NDArray[np.float64],
    test: NoiseTest,
    out: Averages,
    squares: NDArray[np.float32],
) -> None: ...
def finish_rows(test: NoiseTest, place: Placement, out: Averages, squares: NDArray[np.float32], fit: RowFit) -> None: ...
def reduce_coded(
    coded: CodedRows,
    rows: tuple[int, int],
    group: SegmentGroup,
    gain: NDArray[np.float64],
    dead: NDArray[np.bool_],
    levels: NDArray[np.float64],
    first_y: NDArray[np.int64],
    image: NDArray[np.float32],
    mask: NDArray[np.int16],
) -> tuple[int, bool, NDArray[np.int64]]: ...
def reduce_segments(
    counts: Sequence[NDArray[np.int32]],
    rows: tuple[int, int],
    group: SegmentGroup,
    gain: NDArray[np.float64],
    levels: NDArray[np.float64],
    image: NDArray[np.float32],
    mask: NDArray[np.int16],
) -> tuple[int, bool, NDArray[np.int64]]: ...
def reduce_first_segment(
    counts: Sequence[NDArray[np.int32]],
    rows: tuple[int, int],
    group: SegmentGroup,
    gain: NDArray[np.float64],
    levels: NDArray[np.float64],
    image: NDArray[np.float32],
    mask: NDArray[np.int16],
) -> tuple[int, bool, NDArray[np.int64]]: ...
def probe_rows(
    coded: CodedRows,
    rows: NDArray[np.int64],
    group: SegmentGroup,
    gain: NDArray[np.float64],
    steps: Steps,
    samples: RowSamples,
) -> int: ...
def row_medians(
    counts: NDArray[np.int32],
    columns: tuple[int, int],
    measured: NDArray[np.bool_],
    step: int,
    medians: NDArray[np.float64],
    deviations: NDArray[np.float64],
) -> int: ...
def clip_rows(
    counts: NDArray[np.int32],
    columns: tuple[int, int],
    measured: NDArray[np.bool_],
    centre: NDArray[np.float64],
    limit: float,
    kept: NDArray[np.int64],
    total: NDArray[np.float64],
    squares: NDArray[np.float64],
) -> None: ...
def find_lost(counts: NDArray[np.int32], n_rows: int, columns: tuple[int, int], saturation_adu: float) -> NDArray[np.int64]: ...
