from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

def predict(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    centres: NDArray[np.float64],
    scales: NDArray[np.float64],
    counts: NDArray[np.int64],
    places: NDArray[np.float64],
    vector: NDArray[np.float64],
    frames: NDArray[np.float64],
    weather: NDArray[np.float64],
) -> NDArray[np.float64]: ...
def evaluate(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    counts: NDArray[np.int64],
    places: NDArray[np.float64],
    coefficients: NDArray[np.float64],
) -> NDArray[np.float64]: ...
def profile_response(
    difference: NDArray[np.float64], weights: NDArray[np.float64], threshold: float
) -> tuple[NDArray[np.float64], float]: ...
def slopes_along(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    centres: NDArray[np.float64],
    counts: NDArray[np.int64],
    places: NDArray[np.float64],
    vector: NDArray[np.float64],
    result: NDArray[np.float64],
) -> None: ...
def add_gradient(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    residual: NDArray[np.float64],
    weights: NDArray[np.float64],
    centres: NDArray[np.float64],
    counts: NDArray[np.int64],
    places: NDArray[np.float64],
    vector: NDArray[np.float64],
    further: NDArray[np.int64],
    parts: NDArray[np.float64],
    frames: NDArray[np.float64],
    gradient: NDArray[np.float64],
) -> None: ...
def mark_windows(
    bounds: NDArray[np.float64],
    centres: NDArray[np.float64],
    counts: NDArray[np.int64],
    places: NDArray[np.float64],
    further: NDArray[np.int64],
    lit: NDArray[np.bool_],
    windows: NDArray[np.int64],
    marked: NDArray[np.bool_],
) -> None: ...
def sum_tile(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    weights: NDArray[np.float64],
    centres: NDArray[np.float64],
    counts: NDArray[np.int64],
    places: NDArray[np.float64],
    vector: NDArray[np.float64],
    further: NDArray[np.int64],
    parts: NDArray[np.float64],
    frames: NDArray[np.float64],
    windows: NDArray[np.int64],
    positions: NDArray[np.int64],
    sums: NDArray[np.float64],
    moments: NDArray[np.float64],
    blocks: NDArray[np.float64],
) -> None: ...
def add_blocks(
    matrix: NDArray[np.float64],
    blocks: NDArray[np.float64],
    windows: NDArray[np.int64],
    counts: NDArray[np.int64],
    further: NDArray[np.int64],
    parts: NDArray[np.float64],
    low: int,
    high: int,
) -> None: ...
def subtract_rows(matrix: NDArray[np.float64], product: NDArray[np.float64], columns: NDArray[np.int64], first: int) -> None: ...
def mirror_upper(matrix: NDArray[np.float64]) -> None: ...
def medians(images: Sequence[NDArray[np.float32]], result: NDArray[np.float32]) -> None: ...
def divide_blocks(
    image: NDArray[np.float32],
    good: NDArray[np.bool_],
    mean: NDArray[np.float64],
    block: int,
    block_rows: NDArray[np.int64],
    result: NDArray[np.float32],
) -> None: ...
def average(
    image: NDArray[np.float32],
    mask: NDArray[np.int16],
    pattern: NDArray[np.float32],
    block: int,
    limits: NDArray[np.int64],
    noise: NDArray[np.float64],
    limit: float,
    signals: NDArray[np.float64],
    kept: NDArray[np.int64],
) -> int: ...
