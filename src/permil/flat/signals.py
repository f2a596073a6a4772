"""Signals of detectors on super-pixels, to which the joint solution is fitted: measured from the exposures of an LED, written, and read.

`measure_detector` averages every exposure of a detector over its super-pixels, `StoredDetectors` loads detectors on request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from permil.arrays import ArrayPool, BoolArray, Float32Array, FloatArray, IntArray
from permil.camera import Detector, shared_camera
from permil.camera.frames import detector_to_ccs
from permil.config import Config
from permil.engine import report_part, threaded_map
from permil.errors import FlatError, InputError, PermilError
from permil.flat.joint.data import DetectorSignals, logarithm_of
from permil.flat.superpixel import SuperPixelLayout, average_exposure, flattened, make_layout, size_in_pixels
from permil.isr.inputs import detector_calibration
from permil.isr.open_exposure import RowSample
from permil.isr.reduce import DetectorImage, reduce_file
from permil.products import RunFolder, fingerprint_card, is_good, is_usable, provenance, whole_file, write_hdus

SIGNALS_FORMAT = 2
"""Version of the file's format. Increase it when older files lack something."""
ELECTRONICS = ("overscan_level", "read_noise", "read_noise_err")
"""Quantities of each exposure and amplifier."""


@dataclass(frozen=True)
class SuperPixelSignals:
    """Signals of one detector on super-pixels, as written.

    Parameters
    ----------
    detector : str
        Its name.
    obsid : ndarray of str, shape (e,)
        Exposures.
    signal, variance : ndarray, shape (e, p)
        Electrons; NaN where too many pixels are lost.
    row, column : ndarray of int, shape (p,)
        Places on the grid of super-pixels.
    x_mm, y_mm : ndarray, shape (p,)
        Places, CCS.
    shape : tuple of int
        Of that grid.
    block : int
        Side of a super-pixel in pixels.
    left_out : tuple
        Path and reason of files that could not be used.
    temperature : ndarray, shape (e, thermometers)
        Of the readout board, deg C; NaN where there is none. By default there are none.
    amplifier : ndarray of int, shape (p,)
        Number of the amplifier of each super-pixel. By default all are of the first.
    overscan_level, read_noise, read_noise_err : ndarray, shape (e, amplifiers)
        Mean overscan level, adu, and read noise with its error, electrons, of the rows that were read; NaN for files that could not be
        used. By default there are no amplifiers.
    """

    detector: str
    obsid: NDArray[np.str_]
    signal: Float32Array
    variance: Float32Array
    row: IntArray
    column: IntArray
    x_mm: FloatArray
    y_mm: FloatArray
    shape: tuple[int, int]
    block: int
    left_out: tuple[tuple[str, str], ...] = ()
    temperature: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    amplifier: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    overscan_level: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    read_noise: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    read_noise_err: FloatArray = field(default_factory=lambda: np.empty((0, 0)))

    def __post_init__(self) -> None:
        """Fill unknown values."""
        if not self.temperature.size:
            object.__setattr__(self, "temperature", np.full((len(self.obsid), 1), np.nan))
        if not self.amplifier.size:
            object.__setattr__(self, "amplifier", np.zeros(len(self.row), dtype=np.int64))
        for name in ELECTRONICS:
            if not getattr(self, name).size:
                object.__setattr__(self, name, np.full((len(self.obsid), 0), np.nan))

    @classmethod
    def of(cls, detector: str, layout: SuperPixelLayout, obsid: list[str], **arrays: Any) -> SuperPixelSignals:
        """Return the signals on the super-pixels of a layout."""
        return cls(
            detector=detector,
            obsid=np.array(obsid, dtype=np.str_),
            row=layout.row,
            column=layout.column,
            x_mm=layout.x_mm,
            y_mm=layout.y_mm,
            shape=layout.shape,
            block=layout.block,
            **arrays,
        )

    def lit(self, least_signal: float, exposures: slice = slice(None)) -> BoolArray:
        """Return where there is enough light in some exposures, shape (e, p).

        The mean signal of the super-pixels beside one decides, not its own: near the limit only upward noise would be kept.
        """
        signal = self.signal[exposures]
        grid = np.full((len(signal), self.shape[0] + 2, self.shape[1] + 2), np.nan, dtype=signal.dtype)
        grid[:, self.row + 1, self.column + 1] = signal
        total, count = (_sums_beside(part) for part in (np.nan_to_num(grid), np.isfinite(grid).astype(np.float32)))
        with np.errstate(invalid="ignore", divide="ignore"):
            beside = np.where(count > 0, total / count, grid[:, 1:-1, 1:-1])
            return (beside[:, self.row, self.column] >= least_signal) & (signal > 0)

    def footprint(self, exposure: int, least_signal: float) -> BoolArray:
        """Return the super-pixels of the grid that an exposure lights, including neighbours without a signal (too few good pixels)."""
        is_lit, has_signal = np.zeros(self.shape, dtype=bool), np.zeros(self.shape, dtype=bool)
        is_lit[self.row, self.column] = self.lit(least_signal, slice(exposure, exposure + 1))[0]
        has_signal[self.row, self.column] = np.isfinite(self.signal[exposure])
        is_beside = _sums_beside(np.pad(is_lit, 1)[None].astype(np.float32))[0] > 0
        return is_lit | (~has_signal & is_beside)

    def to_detector(self, number_of: dict[str, int], least_signal: float) -> DetectorSignals:
        """Return the signals in the form of the solver, without exposures that are unknown to it or have too little light.

        Parameters
        ----------
        number_of
            Number of each exposure in the list of exposures.
        least_signal
            Electrons below which signals are not used.
        """
        lit = self.lit(least_signal)
        known = np.array([str(obsid) in number_of for obsid in self.obsid], dtype=bool)
        rows = np.flatnonzero(known & lit.any(axis=1))
        numbers = np.array([number_of[str(self.obsid[row])] for row in rows], dtype=np.int64)
        signal = np.where(lit[rows], self.signal[rows].astype(np.float64), np.nan)
        logarithm, variance = logarithm_of(signal, self.variance[rows].astype(np.float64))
        return DetectorSignals(self.detector, self.x_mm, self.y_mm, numbers, logarithm, variance)


def _sums_beside(grid: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the sum over the eight neighbours of each inner cell, shape (e, rows - 2, columns - 2)."""
    rows = grid[:, :-2] + grid[:, 1:-1] + grid[:, 2:]
    return rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] - grid[:, 1:-1, 1:-1]


def write_signals(path: Path, signals: SuperPixelSignals, *, fingerprint: str, led: str) -> None:
    """Write signals.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    header = provenance(
        {
            **fingerprint_card(fingerprint),
            "DETECTOR": (signals.detector, "detector"),
            "LED": (led, "LED"),
            "ROWS": (signals.shape[0], "rows of super-pixels"),
            "COLUMNS": (signals.shape[1], "columns of super-pixels"),
            "BLOCKPIX": (signals.block, "side of a super-pixel, pixels"),
        }
    )
    places = Table({name: getattr(signals, name) for name in ("row", "column", "x_mm", "y_mm", "amplifier")})
    electronics = {name: values for name in ELECTRONICS if (values := getattr(signals, name)).size}
    left_out = Table(rows=list(signals.left_out) or None, names=("path", "reason"), dtype=("U512", "U512"))
    write_hdus(
        path,
        [
            fits.PrimaryHDU(header=header),
            fits.ImageHDU(signals.signal, name="SIGNAL"),
            fits.ImageHDU(signals.variance, name="VARIANCE"),
            fits.BinTableHDU(Table({"obsid": signals.obsid, "temperature": signals.temperature} | electronics), name="EXPOSURES"),
            fits.BinTableHDU(places, name="SUPERPIXELS"),
            fits.BinTableHDU(left_out, name="LEFT_OUT"),
        ],
    )


def read_signals(path: Path) -> SuperPixelSignals:
    """Read signals.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    try:
        with whole_file(path), fits.open(path, memmap=False) as hdus:
            header, places = hdus[0].header, hdus["SUPERPIXELS"].data
            left_out, exposures = hdus["LEFT_OUT"].data, hdus["EXPOSURES"].data
            return SuperPixelSignals(
                detector=str(header["DETECTOR"]),
                obsid=np.array(exposures["obsid"], dtype=np.str_),
                signal=np.array(hdus["SIGNAL"].data, dtype=np.float32).reshape(-1, len(places)),
                variance=np.array(hdus["VARIANCE"].data, dtype=np.float32).reshape(-1, len(places)),
                row=np.array(places["row"], dtype=np.int64),
                column=np.array(places["column"], dtype=np.int64),
                x_mm=np.array(places["x_mm"], dtype=np.float64),
                y_mm=np.array(places["y_mm"], dtype=np.float64),
                shape=(int(header["ROWS"]), int(header["COLUMNS"])),
                block=int(header["BLOCKPIX"]),
                temperature=_by_exposure(exposures, "temperature"),
                amplifier=np.array(places["amplifier"], dtype=np.int64),
                left_out=tuple((str(row["path"]), str(row["reason"])) for row in left_out),
                **{name: _by_exposure(exposures, name) for name in ELECTRONICS if name in exposures.names},
            )
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"cannot be read as super-pixel signals ({error})", path=path, remedy="make the flat again") from error


def _by_exposure(exposures: Any, name: str) -> FloatArray:
    """Return a column of numbers as an array with one row for each exposure."""
    return np.array(exposures[name], dtype=np.float64).reshape(len(exposures), -1)


_MOST_KEPT_BYTES = 2**28
"""Memory for signals that are kept after reading: those of a focal plane with some twenty exposures of each detector."""


class StoredDetectors(Sequence[DetectorSignals]):
    """Detectors whose signals are read on request, and kept in memory up to a limit; beyond it, one detector at a time.

    Parameters
    ----------
    paths
        Their files.
    number_of, least_signal
        See `SuperPixelSignals.to_detector`.
    """

    def __init__(self, paths: Sequence[Path], number_of: dict[str, int], least_signal: float) -> None:
        self._paths = list(paths)
        self._number_of = number_of
        self._least_signal = least_signal
        self._kept: dict[Path, DetectorSignals] = {}
        self._layouts: dict[Path, SuperPixelSignals] = {}

    def __len__(self) -> int:
        """Return the number of detectors."""
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> DetectorSignals: ...

    @overload
    def __getitem__(self, index: slice) -> StoredDetectors: ...

    def __getitem__(self, index: int | slice) -> DetectorSignals | StoredDetectors:
        """Return the signals of a detector, or some of the detectors."""
        if isinstance(index, slice):
            return self.only(range(len(self))[index])
        path = self._paths[index]
        kept = self._kept.get(path)
        if kept is None:
            signals = read_signals(path)
            kept = signals.to_detector(self._number_of, self._least_signal)
            none = np.empty((0, len(signals.row)), dtype=np.float32)
            self._layouts[path] = replace(signals, signal=none, variance=none)
            if sum(map(_bytes_of, self._kept.values())) + _bytes_of(kept) <= _MOST_KEPT_BYTES:
                self._kept[path] = kept
        return kept

    def only(self, indices: Iterable[int]) -> StoredDetectors:
        """Return some of the detectors, with their kept signals."""
        chosen = StoredDetectors([self._paths[index] for index in indices], self._number_of, self._least_signal)
        chosen._kept = {path: self._kept[path] for path in chosen._paths if path in self._kept}
        chosen._layouts = {path: self._layouts[path] for path in chosen._paths if path in self._layouts}
        return chosen

    def layout(self, index: int) -> SuperPixelSignals:
        """Return a detector as written, without its signals."""
        path = self._paths[index]
        if path not in self._layouts:
            _ = self[index]
        return self._layouts[path]

    def layouts(self) -> Iterator[SuperPixelSignals]:
        """Yield all detectors as written, without their signals."""
        return map(self.layout, range(len(self)))


def _bytes_of(detector: DetectorSignals) -> int:
    return int(detector.log_signal.nbytes + detector.variance.nbytes)


PATTERN_EXPOSURES = 5
"""Number of exposures nearest to the middle of the detector whose median is the pattern of its pixels."""

_MOST_KEPT_PIXELS = 2**22
"""Largest images, in pixels, that are kept in memory from the pattern to the signals."""


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
    images = _Images(request)
    layout = _layout(list(threaded_map(images.flattened, request.nearest)), images)
    threshold, count = request.config.isr.rejection_threshold, len(request.paths)

    def measure(path: str) -> Measured | str:
        """Return the signals of an exposure, or the reason why it cannot be used."""
        image = images.read(path)
        if isinstance(image, InputError):
            return image.what
        mean, expected, _ = average_exposure(
            image.image,
            image.mask,
            layout,
            noise_variance=image.read_noise**2,
            level_variance=image.level_variance,
            threshold=threshold,
        )
        # The arrays of the pool are used again once nothing refers to them.
        return mean, expected, replace(image, image=np.empty((0, 0), np.float32), mask=np.empty((0, 0), np.int16))

    signal, variance = (np.full((count, layout.row.size), np.nan, dtype=np.float32) for _ in range(2))
    electronics = {name: np.full((count, len(images.detector.amplifiers)), np.nan) for name in ELECTRONICS}
    temperatures: dict[int, tuple[float, ...]] = {}
    left_out: list[tuple[str, str]] = []
    for number, (path, measured) in enumerate(zip(request.paths, threaded_map(measure, request.paths), strict=True)):
        if isinstance(measured, str):
            left_out.append((path, measured))
        else:
            signal[number], variance[number], image = measured
            temperatures[number] = image.thermometers
            for name, values in electronics.items():
                values[number] = getattr(image, name)
            left_out += [(path, sentence) for sentence in image.damage]
        report_part((number + 1) / count)
    temperature = np.full((count, max((len(each) for each in temperatures.values()), default=1)), np.nan)
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
        amplifier=_amplifiers_of(layout, images.detector),
        **electronics,
    )


class _Images:
    """Reduced images of one detector on a sample of its rows.

    Small images from which the pattern is made are kept until their signals are taken.
    """

    def __init__(self, request: SignalsRequest) -> None:
        self._config, self._camera = request.config, shared_camera(request.config.camera)
        calibration = detector_calibration(self._config, self._camera, RunFolder(request.root), request.detector)
        self.detector = calibration.detector
        self.block = size_in_pixels(self._config.flat.super_pixel_mm, self.detector.pixel_mm)
        # Levels that are smoothed over rows need all of them.
        smoothed = self._config.isr.overscan == "smoothed"
        self.sample = RowSample.of(calibration, 1 if smoothed else max(1, self.block**2 // self._config.flat.joint.signal_pixels))
        self._pool, self._kept = ArrayPool(), dict[str, DetectorImage]()

    def read(self, path: str) -> DetectorImage | InputError:
        """Return the image of a file, or why it cannot be read."""
        try:
            return self._kept.pop(path, None) or reduce_file(
                path,
                self._camera,
                self.sample.calibration,
                checksums=self._config.exposures.checksums,
                pool=self._pool,
                rows=self.sample.raw_rows,
            )
        except InputError as error:
            return error

    def flattened(self, path: str) -> Float32Array | InputError:
        """Return the image of a file over the means of its super-pixels, or why it cannot be read."""
        image = self.read(path)
        if isinstance(image, InputError):
            return image
        if image.image.size <= _MOST_KEPT_PIXELS:
            self._kept[path] = image
        good = is_usable(image.mask) & np.isfinite(image.image)
        return flattened(image.image, good, self.block, block_rows=self.sample.detector_rows // self.block)


def _amplifiers_of(layout: SuperPixelLayout, detector: Detector) -> IntArray:
    """Return the number of the amplifier in the middle of each super-pixel, shape (p,)."""
    amplifier_map, middle = detector.amplifier_map(), layout.block // 2
    rows, columns = (
        np.minimum(place * layout.block + middle, side - 1)
        for place, side in zip((layout.row, layout.column), amplifier_map.shape, strict=True)
    )
    return amplifier_map[rows, columns].astype(np.int64)


def _layout(flat_exposures: Sequence[Float32Array | InputError], images: _Images) -> SuperPixelLayout:
    """Lay super-pixels over the detector, with the pattern of some exposures from `_Images.flattened`.

    Raises
    ------
    FlatError
        If none of the exposures can be read.
    """
    readable = [image for image in flat_exposures if not isinstance(image, InputError)]
    if not readable:
        # Each is noted where its signals are measured.
        reason = min((str(error) for error in flat_exposures), default="there is none")
        raise FlatError(
            f"none of the exposures nearest to this detector can be read ({reason})", remedy="leave the damaged files out"
        )
    sample, good = images.sample, is_good(images.sample.calibration.static_mask)
    return make_layout(readable, good, images.detector, block=images.block, rows=sample.detector_rows)
