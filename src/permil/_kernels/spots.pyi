import numpy as np
from numpy.typing import NDArray

from permil.spots.background import Background, RowErrors, RowNoise
from permil.spots.flux_model import FluxEquations

def add_measurements(
    spot: NDArray[np.int64],
    exposure: NDArray[np.int64],
    index: NDArray[np.int32],
    values: NDArray[np.float64],
    weight: NDArray[np.float64],
    residual: NDArray[np.float64],
    factor: NDArray[np.float64],
    exposures: int,
    equations: FluxEquations,
) -> None: ...
def sum_circles(
    signal: NDArray[np.float32],
    variance: NDArray[np.float32],
    usable: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radii: NDArray[np.float64],
    row_errors: RowErrors,
    flux: NDArray[np.float64],
    squared: NDArray[np.float64],
    area: NDArray[np.float64],
    shared: NDArray[np.float64],
) -> None: ...
def measure_moments(
    signal: NDArray[np.float32],
    variance: NDArray[np.float32],
    usable: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    sigma: float,
    largest_sigma: float,
    largest_shift: float,
    reach: float,
    background_error: NDArray[np.float64],
    row_errors: RowErrors,
    parameters: NDArray[np.float64],
    covariance: NDArray[np.float64],
) -> None: ...
def fit_boxes(
    signal: NDArray[np.float32],
    free: NDArray[np.bool_],
    row_edges: NDArray[np.int64],
    column_edges: NDArray[np.int64],
    centres_y: NDArray[np.float64],
    centres_x: NDArray[np.float64],
    row_noise: RowNoise,
    level: NDArray[np.float64],
    error: NDArray[np.float64],
    answer: NDArray[np.float64],
    row_answer: NDArray[np.float64],
) -> None: ...
def propagate(
    background: Background,
    derivatives: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    row_edges: NDArray[np.int64],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    nearest_row: NDArray[np.int64],
    nearest_column: NDArray[np.int64],
    first_row: NDArray[np.int64],
    answer: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> None: ...
def bin_pixels(
    signal: NDArray[np.float32], usable: NDArray[np.bool_], binned: NDArray[np.float32], empty: NDArray[np.bool_]
) -> None: ...
def clear_discs(free: NDArray[np.bool_], x: NDArray[np.float64], y: NDArray[np.float64], radius: float) -> None: ...
def planes_in_discs(
    mask: NDArray[np.int16] | NDArray[np.int32],
    usable: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius: float,
    planes: NDArray[np.int64],
    unusable: NDArray[np.bool_],
) -> None: ...
