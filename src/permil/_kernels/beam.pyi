import numpy as np
from numpy.typing import NDArray

def fill_image(
    image: NDArray[np.float32],
    origin: NDArray[np.float64],
    matrix: NDArray[np.float64],
    half_planes: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    start: NDArray[np.float64],
    step: float,
) -> None: ...
def values_at(
    points: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    start: NDArray[np.float64],
    step: float,
    values: NDArray[np.float64],
) -> None: ...
