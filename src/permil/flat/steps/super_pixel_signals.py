"""First pass of the joint solution: every exposure of an LED, averaged over the super-pixels of each detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.table import Table

from permil.arrays import ArrayPool, Float32Array, FloatArray, IntArray
from permil.camera import Detector, shared_camera
from permil.camera.frames import detector_to_ccs
from permil.config import Config
from permil.engine import tell_part, threaded_map
from permil.errors import FlatError, InputError, PermilError
from permil.flat.signals_file import ELECTRONICS, SuperPixelSignals, write_signals
from permil.flat.superpixel import SuperPixelLayout, average_exposure, flattened, make_layout, size_in_pixels
from permil.isr.open_exposure import RowSample
from permil.isr.reduce import DetectorImage, reduce_file
from permil.isr.stage import detector_calibration
from permil.products import RunFolder, is_good, is_usable

PATTERN_EXPOSURES = 5
"""Exposures, the nearest to the middle of the detector, whose median is taken for its pixels' pattern."""

_MOST_KEPT_PIXELS = 2**22
"""Pixels of the largest images of `PATTERN_EXPOSURES` that stay in memory until their signals are taken."""


Measured = tuple[FloatArray, FloatArray, DetectorImage]
"""Signal and variance of an exposure, and its image without pixels."""


@dataclass(frozen=True)
class SignalsRequest:
    """All exposures of one LED that read one detector."""

    config: Config
    root: Path
    detector: str
    led: str
    paths: tuple[str, ...]
    obsids: tuple[str, ...]
    nearest: tuple[str, ...]
    fingerprint: str


def nearest_exposures(exposures: Table, detector: Detector) -> tuple[str, ...]:
    """Return the files of the exposures whose projector is nearest to the middle of a detector."""
    x_mm, y_mm = detector_to_ccs(detector, *detector.centre_pixel)
    distance = np.hypot(np.asarray(exposures["x_mm"]) - x_mm, np.asarray(exposures["y_mm"]) - y_mm)
    # Positions within a millimetre are as good as one another: images of one place come first, in the order of time.
    order = np.lexsort((np.asarray(exposures["mjd"]), np.asarray(exposures["position_id"]), np.round(distance)))
    return tuple(str(path) for path in exposures["path"][order[:PATTERN_EXPOSURES]])


def measure_detector(request: SignalsRequest) -> None:
    """Reduce every exposure of one detector and write its signals.

    Raises
    ------
    PermilError
        With the detector in the message if it names no file.
    """
    try:
        signals = _signals_of(request)
    except PermilError as error:
        if error.path is None:
            error.path = f"super-pixels of {request.detector}, LED {request.led}"
        raise
    path = RunFolder(request.root).super_pixels(request.led, request.detector)
    write_signals(path, signals, fingerprint=request.fingerprint, led=request.led)


def _signals_of(request: SignalsRequest) -> SuperPixelSignals:
    config, camera = request.config, shared_camera(request.config.camera)
    whole = detector_calibration(config, camera, RunFolder(request.root), request.detector)
    block = size_in_pixels(config.flat.super_pixel_mm, whole.detector.pixel_mm)
    # Levels that are smoothed over rows need all of them.
    step = 1 if config.isr.overscan == "smoothed" else max(1, block**2 // config.flat.joint.signal_pixels)
    sample = RowSample.of(whole, step)
    calibration = sample.calibration
    pool, kept = ArrayPool(), dict[str, DetectorImage]()

    def reduced(path: str) -> DetectorImage | InputError:
        try:
            return kept.pop(path, None) or reduce_file(
                path, camera, calibration, checksums=config.exposures.checksums, pool=pool, rows=sample.raw_rows
            )
        except InputError as error:
            return error

    def flat_exposure(path: str) -> Float32Array | InputError:
        image = reduced(path)
        if isinstance(image, InputError):
            return image
        if image.image.size <= _MOST_KEPT_PIXELS:
            kept[path] = image
        good = is_usable(image.mask) & np.isfinite(image.image)
        return flattened(image.image, good, block, block_rows=sample.detector_rows // block)

    layout = _layout(list(threaded_map(flat_exposure, request.nearest)), sample, whole.detector, block)
    shape = (len(request.paths), layout.row.size)
    signal, variance = (np.full(shape, np.nan, dtype=np.float32) for _ in range(2))
    temperatures: dict[int, tuple[float, ...]] = {}
    electronics = {name: np.full((len(request.paths), len(whole.detector.amplifiers)), np.nan) for name in ELECTRONICS}
    left_out: list[tuple[str, str]] = []

    def measure(path: str) -> Measured | str:
        """Return what is measured of an exposure, or why it cannot be used."""
        image = reduced(path)
        if isinstance(image, InputError):
            return image.what
        mean, expected, _ = average_exposure(
            image.image,
            image.mask,
            layout,
            noise_variance=image.read_noise**2,
            level_variance=image.level_variance,
            threshold=config.isr.rejection_threshold,
        )
        # The arrays of the pool are used again once nothing refers to them.
        return mean, expected, replace(image, image=np.empty((0, 0), np.float32), mask=np.empty((0, 0), np.int16))

    for number, measured in enumerate(threaded_map(measure, request.paths)):
        if isinstance(measured, str):
            left_out.append((request.paths[number], measured))
        else:
            signal[number], variance[number], image = measured
            temperatures[number] = image.thermometers
            for name, values in electronics.items():
                values[number] = getattr(image, name)
            left_out += [(request.paths[number], sentence) for sentence in image.damage]
        tell_part((number + 1) / len(request.paths))
    temperature = np.full((len(request.paths), max((len(each) for each in temperatures.values()), default=1)), np.nan)
    for number, each in temperatures.items():
        temperature[number] = each
    return SuperPixelSignals.of(
        request.detector,
        layout,
        list(request.obsids),
        signal=signal,
        variance=variance,
        left_out=tuple(left_out),
        temperature=temperature,
        amplifier=_amplifiers_of(layout, whole.detector),
        **electronics,
    )


def _amplifiers_of(layout: SuperPixelLayout, detector: Detector) -> IntArray:
    """Return the number of the amplifier in the middle of each super-pixel, shape (p,)."""
    amplifier_map, middle = detector.amplifier_map(), layout.block // 2
    rows, columns = (
        np.minimum(place * layout.block + middle, side - 1)
        for place, side in zip((layout.row, layout.column), amplifier_map.shape, strict=True)
    )
    return amplifier_map[rows, columns].astype(np.int64)


def _layout(
    flat_exposures: Sequence[Float32Array | InputError], sample: RowSample, detector: Detector, block: int
) -> SuperPixelLayout:
    images = [image for image in flat_exposures if not isinstance(image, InputError)]
    if not images:
        # Each is noted where its signals are measured.
        reason = min((str(error) for error in flat_exposures), default="there is none")
        raise FlatError(
            f"none of the exposures nearest to this detector can be read ({reason})", remedy="leave the damaged files out"
        )
    return make_layout(images, is_good(sample.calibration.static_mask), detector, block=block, rows=sample.detector_rows)
