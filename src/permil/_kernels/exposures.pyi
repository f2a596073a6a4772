import numpy as np
from numpy.typing import NDArray

from permil.exposures.segment_rows import CodedRows

def decode_tile(
    words: NDArray[np.uint32], start: int, stop: int, pixels: NDArray[np.int32], block: int, pixel_bytes: int
) -> bool: ...
def decode_image(
    words: NDArray[np.uint32],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    image: NDArray[np.int32],
    tile_shape: tuple[int, int],
    block: int,
    pixel_bytes: int,
) -> int: ...
def decode_rows(coded: CodedRows, pixels: NDArray[np.int32]) -> int: ...
def sum_words(words: NDArray[np.uint32]) -> int: ...
def overrun(words: NDArray[np.uint32]) -> None: ...
