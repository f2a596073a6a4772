from typing import Any

import numpy as np
from numpy.typing import NDArray

def divide(
    signal: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.integer],
    beam: NDArray[np.float32],
    photodiode: float,
    response: NDArray[np.float32],
    response_variance: NDArray[np.float32],
    planes: NDArray[np.int16],
) -> None: ...
def fill_weights(
    signal: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.integer],
    beam: NDArray[np.float32],
    beam_error: NDArray[np.float32],
    light: tuple[float, float, float],
    weights: NDArray[np.float32],
) -> None: ...
def add_pointing(
    signal: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.integer],
    beam: NDArray[np.float32],
    beam_error: NDArray[np.float32],
    light: tuple[float, float, float],
    first: NDArray[np.float32],
    sums: NDArray[np.float32],
    count: NDArray[np.int16],
    all_planes: NDArray[np.int16],
    any_planes: NDArray[np.int16],
) -> None: ...
def flag_outliers(
    image: NDArray[np.float32],
    mask: NDArray[np.int16],
    beam: NDArray[np.float32],
    reference: NDArray[np.float32],
    bounds: NDArray[np.int64],
    first_row: int,
    scale: float,
    noise: NDArray[np.float32],
    limit: float,
    variance: NDArray[np.float32],
) -> int: ...
def interpolate(nodes: NDArray[np.float32], first: int, step: int, image: NDArray[np.float32]) -> None: ...
def add_to_blocks(
    image: NDArray[Any], good: NDArray[np.bool_] | None, size: int, block_rows: NDArray[np.int64], sums: NDArray[np.float64]
) -> None: ...
def add_to_cells(
    response: NDArray[np.float32],
    variance: NDArray[np.float32],
    good: NDArray[np.bool_],
    cells: NDArray[np.int64],
    sums: NDArray[np.float64],
) -> None: ...
