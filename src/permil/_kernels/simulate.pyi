import numpy as np
from numpy.typing import NDArray

from permil.simulate.electronics import Electronics

def fill_normal(state: NDArray[np.uint64], output: NDArray[np.float64]) -> None: ...
def draw_charge(
    light: NDArray[np.float32],
    level: float,
    dark: NDArray[np.float32],
    state: NDArray[np.uint64],
    charge: NDArray[np.float32],
) -> None: ...
def add_photon_noise(mean: NDArray[np.float64], state: NDArray[np.uint64], charge: NDArray[np.float32]) -> None: ...
def convert_charge(
    charge: NDArray[np.float32],
    full_well: NDArray[np.float64],
    gain: NDArray[np.float64],
    curvature: NDArray[np.float64],
) -> None: ...
def read_out(
    counts: NDArray[np.float32],
    electronics: Electronics,
    drift: NDArray[np.float32],
    noise: NDArray[np.float64],
    prescan: int,
    state: NDArray[np.uint64],
    raw: NDArray[np.int32],
) -> None: ...
def compress_rows(pixels: NDArray[np.int32], heap: NDArray[np.uint8], descriptors: NDArray[np.int32]) -> int: ...
def beam_at_points(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    knots: NDArray[np.float64],
    spacing: float,
    shape: NDArray[np.float64],
    levels: NDArray[np.float64],
) -> None: ...
def beam_on_grid(
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    knots: NDArray[np.float64],
    spacing: float,
    shape: NDArray[np.float64],
    levels: NDArray[np.float32],
) -> None: ...
def add_cores(
    light: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    xx: NDArray[np.float64],
    yy: NDArray[np.float64],
    xy: NDArray[np.float64],
) -> None: ...
def add_round(
    light: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    sigma: float,
) -> None: ...
def move_charge(
    charge: NDArray[np.float64],
    shift_x: NDArray[np.float64],
    shift_y: NDArray[np.float64],
    displacement: NDArray[np.float64],
    diffusion: NDArray[np.float64],
    moved: NDArray[np.float64],
) -> None: ...
