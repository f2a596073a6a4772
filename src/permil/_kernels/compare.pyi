import numpy as np
from numpy.typing import NDArray

from permil.compare.stars.response import StarShapes

def circle_part(u: float, v: float, radius: float) -> float: ...
def draw_star(shapes: StarShapes, light: NDArray[np.float64]) -> None: ...
def fill_kernels(shapes: StarShapes, of_star: NDArray[np.float64], of_glow: NDArray[np.float64]) -> float: ...
def predict_stars(
    shapes: StarShapes,
    excess: NDArray[np.float32],
    potential: NDArray[np.float32],
    unseen: NDArray[np.float64],
    templates: NDArray[np.float64],
    instruments: NDArray[np.float64],
) -> None: ...
def spread_weights(
    shapes: StarShapes,
    cell: int,
    shape: tuple[int, int],
    unseen: NDArray[np.float64],
    weights: NDArray[np.float64],
    maps: NDArray[np.float32],
) -> None: ...
def weigh_flat(
    shapes: StarShapes,
    excess: NDArray[np.float64],
    variance: NDArray[np.float64],
    usable: NDArray[np.bool_],
    seen: NDArray[np.float64],
    spread: NDArray[np.float64],
    lost: NDArray[np.float64],
) -> None: ...
def radial_sums(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    level: NDArray[np.float64],
    tile: NDArray[np.int64],
    tiles: int,
    axes: NDArray[np.float64],
    width: float,
) -> NDArray[np.float64]: ...
def give_order(numbers: NDArray[np.float32], ascending: NDArray[np.float64], rows: NDArray[np.float64]) -> None: ...
