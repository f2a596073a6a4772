"""Bias exposures: light in them, their mean after overscan subtraction (the superbias), and its structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import QTable, Table
from numpy.typing import NDArray

from permil.arrays import BoolArray, Float32Array, FloatArray, Int32Array, median
from permil.camera import Amplifier, Camera, Detector
from permil.config.isr import IsrConfig
from permil.errors import CalibrationError, InputError
from permil.excess_scatter import root_of_variance
from permil.exposures import Checksums, RawFile
from permil.exposures.segment_rows import read_rows
from permil.isr.calibration.calibration import Calibration
from permil.isr.calibration.gains import unit_gains
from permil.isr.exposure_group import OpenFiles
from permil.isr.overscan import OverscanOptions, lost_runs, overscan_columns, overscan_options
from permil.isr.photodiode import LeftOut
from permil.isr.streamed_stack import FileStack, ProbedFile
from permil.products import fingerprint_card, kind_card, write_image
from permil.products.fits import image_of_cells

LIGHT_SIGMA, LEAST_LIGHT = 3.0, 3.0
"""Standard errors, and electrons, above which bias exposures carry light."""

SUPERBIAS_FORMAT = 2
"""Version of the file's format. Increase it when older files lack something."""

_MOST_CELLS = 128
_PART_OF_ROWS = 0.1
_FEWEST_ROWS = 8
_CLIP = 6.0

_SUPERBIAS_IS_LIT = (
    "the bias exposures carry light: {:.1f} +- {:.1f} electrons more in their last active rows than in the parallel overscan; it is "
    "subtracted from every exposure: take biases with the shutter closed and the lamps off"
)


def bias_calibration(detector: Detector, *, overscan: OverscanOptions) -> Calibration:
    """Return the calibration of bias exposures: overscan subtracted, in adu, nothing flagged."""
    return Calibration(
        detector=detector,
        gains=unit_gains(detector),
        static_mask=np.zeros(detector.shape, dtype=np.int16),
        saturation=np.full(len(detector.amplifiers), np.inf),
        saturation_adu=np.inf,
        overscan=overscan,
    )


@dataclass(frozen=True)
class BiasLight:
    """Light in bias exposures: excess of the last active rows over the parallel overscan, which is dark, electrons.

    Parameters
    ----------
    light : ndarray, shape (n_files, n_amplifiers)
        Excess of each exposure and amplifier; NaN where a segment is blank or has no parallel overscan.
    """

    light: FloatArray

    @property
    def by_file(self) -> tuple[FloatArray, FloatArray]:
        """Mean over the amplifiers of each exposure, and its standard error from their scatter."""
        found = [mean_with_error(own) for own in self.light]
        return np.array([mean for mean, _ in found]), np.array([error for _, error in found])

    @property
    def is_lit(self) -> BoolArray:
        """Whether each exposure contains light."""
        return carries_light(*self.by_file)

    @property
    def mean(self) -> tuple[float, float]:
        """Mean over all exposures and amplifiers, and its standard error from the scatter of the amplifiers."""
        known = np.isfinite(self.light)
        count = known.sum(axis=0)
        by_amplifier = np.where(known, self.light, 0.0).sum(axis=0)[count > 0] / count[count > 0]
        return mean_with_error(by_amplifier)


def carries_light(light: FloatArray, error: FloatArray) -> BoolArray:
    """Return where light is significant; see `LIGHT_SIGMA`."""
    with np.errstate(invalid="ignore"):
        return (light > LEAST_LIGHT) & (light > LIGHT_SIGMA * error)


def mean_with_error(values: FloatArray) -> tuple[float, float]:
    """Return the mean of finite values and its standard error; NaN for fewer than three."""
    values = values[np.isfinite(values)]
    if values.size < 3:
        return np.nan, np.nan
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))


def bias_light(files: Sequence[RawFile], detector: Detector, *, overscan: OverscanOptions) -> BiasLight:
    """Compare the last active rows of bias exposures with their parallel overscan.

    Structure along rows and columns comes from the electronics and is the same in active rows and in the parallel overscan;
    the serial overscan is subtracted from each row. Only active rows contain light. Gains are the nominal ones.

    Parameters
    ----------
    files
        Open bias exposures of the detector.
    overscan
        Columns of the serial overscan that are used.
    """
    light = np.full((len(files), len(detector.amplifiers)), np.nan)
    for number, file in enumerate(files):
        parts: dict[int, list[Int32Array]] = {}
        for index, amplifier in enumerate(detector.amplifiers):
            if amplifier.parallel_overscan > 1:
                try:
                    if (found := _parts_of_segment(file, amplifier, overscan)) is not None:
                        parts[index] = found
                except InputError:
                    # The stack leaves it out.
                    break
        if parts:
            active, active_serial, dark, dark_serial = (_clipped_means(part) for part in zip(*parts.values(), strict=True))
            gain = np.array([detector.amplifiers[index].gain for index in parts])
            light[number, list(parts)] = gain * ((active - active_serial) - (dark - dark_serial))
    return BiasLight(light)


def _parts_of_segment(file: RawFile, amplifier: Amplifier, overscan: OverscanOptions) -> list[Int32Array] | None:
    """Return counts of the last active rows and of the parallel overscan, each in the active columns and in the serial overscan.

    None where rows hold no measurement.
    """
    n_rows = max(_FEWEST_ROWS, int(_PART_OF_ROWS * amplifier.ny))
    # The first rows of the overscan may hold deferred charge.
    skipped = amplifier.parallel_overscan // 2
    first = max(amplifier.ny - n_rows, 0)
    counts = np.asarray(read_rows(file, amplifier.name, slice(first, amplifier.ny_raw)), dtype=np.int32)
    columns, serial = amplifier.data_slices[1], overscan_columns(amplifier, overscan)
    if len(lost_runs(np.ascontiguousarray(counts), len(counts), columns, np.inf)):
        return None
    n_active = amplifier.ny - first
    return [part[:, chosen] for part in (counts[:n_active], counts[n_active + skipped :]) for chosen in (columns, serial)]


def _clipped_means(parts: Sequence[Int32Array]) -> FloatArray:
    """Return the mean of the counts of each part, without cosmic rays."""
    means = np.empty(len(parts))
    sizes = np.array([part.size for part in parts])
    for size in np.unique(sizes):
        # Segments of one size together: a median of few counts takes less time than its call.
        alike = np.flatnonzero(sizes == size)
        counts = np.array([parts[index].ravel() for index in alike.tolist()])
        deviation = np.abs(counts - median(counts, axis=1)[:, np.newaxis])
        limit = _CLIP * (1.4826 * median(deviation, axis=1)[:, np.newaxis] + 0.5)
        kept = deviation <= limit
        means[alike] = np.where(kept, counts, 0).sum(axis=1) / kept.sum(axis=1)
    return means


def build_superbias(
    paths: Sequence[str | Path],
    detector: Detector,
    camera: Camera,
    config: IsrConfig,
    output: Path,
    *,
    fingerprint: str = "",
    origin: Mapping[str, Any] | None = None,
    checksums: Checksums = "refuse",
) -> Path:
    """Make the superbias of a detector from its bias exposures and write it.

    Parameters
    ----------
    paths
        Raw bias files of this detector.
    output
        Path of the product: IMAGE and VARIANCE in adu, MASK, and tables AMPLIFIERS with level, read noise and structure, FRAMES with
        level and read noise of each exposure, and NOTES with files that are left out or have masked rows; CELLS is a small image.
    fingerprint
        Fingerprint of the inputs, for the header.
    origin
        Cards of the header that say where the exposures come from (`permil.products.origin_cards`).
    checksums
        See `permil.exposures.RawFile`.

    Returns
    -------
    pathlib.Path
        ``output``.

    Warns
    -----
    FileWarning
        For each bias exposure that is left out, with the reason.

    Raises
    ------
    CalibrationError
        If there is no bias exposure that can be read.
    OutputError
        If the product cannot be written.
    """
    calibration = bias_calibration(detector, overscan=overscan_options(config))
    files = [Path(path) for path in paths]
    with OpenFiles(files, camera, calibration, lambda _: None, with_light=False, checksums=checksums) as opened:
        light = _leave_out_lit(opened, calibration)
        stacked = opened.stack(lambda files: [1.0] * len(files), threshold=config.rejection_threshold, poisson=False)
        left_out = opened.left_out
        used = [file.raw_file.path for file in opened.files]
    if stacked is None:
        raise CalibrationError(
            f"there is no usable bias exposure of {detector.name}" + (f" ({left_out[0].reason})" if left_out else ""),
            path=left_out[0].path if left_out else None,
            remedy="add bias exposures to the roots, or set isr.bias to none",
            detector=detector.name,
        )
    stack = stacked.stack
    notes = [(str(entry.path), entry.reason) for entry in left_out]
    notes += [(str(used[file]), sentence) for file, sentence in stacked.damage]
    mean, error = light.mean
    if carries_light(np.array(mean), np.array(error)):
        notes.append((str(output), _SUPERBIAS_IS_LIT.format(mean, error)))
    write_image(
        output,
        stack.image,
        stack.mask,
        stack.variance,
        header=dict(origin or {})
        | {
            **kind_card("superbias"),
            "DETECTOR": (detector.name, "detector"),
            "CAMERA": (camera.name, "camera"),
            "NFRAMES": (stack.n_frames, "bias exposures"),
            "NLEFTOUT": (len(left_out), "bias exposures that could not be used"),
            "NREJECT": (stack.n_rejected, "measurements rejected as outliers"),
            "OVERSCAN": (config.overscan, "method of the overscan level"),
            "LIGHT": (mean if np.isfinite(mean) else None, "[electron] rows over parallel overscan"),
            "LIGHTERR": (error if np.isfinite(error) else None, "[electron] its error"),
            **fingerprint_card(fingerprint),
        },
        image_cards={"BUNIT": "adu"},
        extensions=[
            fits.BinTableHDU(_amplifier_table(stacked), name="AMPLIFIERS"),
            fits.BinTableHDU(_frame_table(stacked, used), name="FRAMES"),
            image_of_cells("CELLS", *cell_means(stack.image, _MOST_CELLS), "adu"),
            fits.BinTableHDU(Table(rows=notes or None, names=("path", "reason"), dtype=("U512", "U512")), name="NOTES"),
        ],
    )
    return output


def _leave_out_lit(opened: OpenFiles, calibration: Calibration) -> BiasLight:
    """Leave out bias exposures with light if they are a minority; return the light of the others."""
    light = bias_light([file.raw_file for file in opened.files], calibration.detector, overscan=calibration.overscan)
    lit = light.is_lit
    if 2 * np.count_nonzero(lit) >= lit.size:
        return light
    found = zip(opened.files, lit, *light.by_file, strict=True)
    opened.left_out += [_lit_bias(file, mean, error) for file, is_lit, mean, error in found if is_lit]
    opened.files = [file for file, is_lit in zip(opened.files, lit, strict=True) if not is_lit]
    return BiasLight(light.light[~lit])


def _lit_bias(file: ProbedFile, light: float, error: float) -> LeftOut:
    reason = f"it carries light: {light:.1f} +- {error:.1f} electrons more in its last active rows than in the parallel overscan"
    return LeftOut(file.raw_file.path, reason)


def _amplifier_table(stacked: FileStack) -> QTable:
    """Return overscan level, read noise, chi-square and structure of each amplifier."""
    stack, noise, amplifiers = stacked.stack, stacked.read_noise, stacked.stack.detector.amplifiers
    table = QTable(
        {
            "amp": [amplifier.name for amplifier in amplifiers],
            "overscan_level": stacked.overscan_level.mean(axis=0),
            "read_noise": np.sqrt((noise**2).mean(axis=0)),
            "read_noise_err": np.sqrt((np.nan_to_num(stacked.read_noise_err) ** 2).sum(axis=0)) / len(noise),
            "chi_square": stack.chi_square,
        }
    )
    structures = [measure_structure(stack.image[part], stack.variance[part]) for part in (a.slices for a in amplifiers)]
    for name in (each.name for each in fields(BiasStructure)):
        column = f"{name}_structure" if not name.endswith("_err") else f"{name[:-4]}_structure_err"
        table[column] = [getattr(structure, name) for structure in structures]
    return table


def _frame_table(stacked: FileStack, used: Sequence[Path]) -> Table:
    """Return overscan level and read noise of each exposure."""
    return Table(
        {
            "path": np.array([str(path) for path in used], dtype=np.str_),
            "overscan_level": stacked.overscan_level,
            "read_noise": stacked.read_noise,
        }
    )


@dataclass(frozen=True)
class BiasStructure:
    """Root mean squares of the structure of one amplifier beyond noise, with errors, adu.

    Attributes
    ----------
    pixels, pixels_err
        Of all pixels about their mean.
    rows, rows_err
        Of the means of rows.
    columns, columns_err
        Of the means of columns.
    """

    pixels: float
    pixels_err: float
    rows: float
    rows_err: float
    columns: float
    columns_err: float


def measure_structure(image: NDArray[np.floating], variance: NDArray[np.floating]) -> BiasStructure:
    """Measure the structure of the superbias of one amplifier.

    Parameters
    ----------
    image, variance : ndarray, shape (rows, columns)
        Superbias and its variance, adu; pixels without a value, and those far from the others (hot ones), do not count.

    Examples
    --------
    >>> import numpy as np
    >>> from permil.isr.bias_exposures import measure_structure
    >>> rng = np.random.default_rng(1)
    >>> image = 2.0 * rng.standard_normal((200, 1)) + 0.5 * rng.standard_normal((200, 60))
    >>> found = measure_structure(image, np.full(image.shape, 0.25))
    >>> round(found.rows, 1), found.columns < 0.3
    (1.9, True)
    """
    known = np.isfinite(image) & np.isfinite(variance)
    if not known.any():
        return BiasStructure(*(np.nan,) * 6)
    centre = median(image[known])
    known &= np.abs(image - centre) <= _CLIP * 1.4826 * max(float(median(np.abs(image[known] - centre))), 1e-3)
    values, noise = np.where(known, image, 0.0).astype(np.float64), np.where(known, variance, 0.0).astype(np.float64)
    found: dict[str, tuple[float, float]] = {}
    # Structure of rows and columns is shared by pixels, whose variance is as uncertain as theirs.
    shared = 0.0
    for name, axis in (("rows", 1), ("columns", 0), ("pixels", None)):
        count = known.astype(np.float64) if axis is None else known.sum(axis=axis).astype(np.float64)
        some = count > 0
        total, total_noise = (part if axis is None else part.sum(axis=axis) for part in (values, noise))
        means, mean_noise = total[some] / count[some], total_noise[some] / count[some] ** 2
        if means.size < 3:
            found[name] = (np.nan, np.nan)
            continue
        spread = float(means.var(ddof=1))
        error = spread * (2.0 / (means.size - 1)) ** 0.5
        found[name] = root_of_variance(
            spread - float(mean_noise.mean()), float(np.hypot(error, shared)) if axis is None else error
        )
        shared = float(np.hypot(shared, error))
    return BiasStructure(*found["pixels"], *found["rows"], *found["columns"])


def cell_means(image: NDArray[np.floating], most: int) -> tuple[Float32Array, int]:
    """Return the means of the finite pixels of square cells, at most ``most`` along either axis, and the side of a cell.

    Examples
    --------
    >>> import numpy as np
    >>> from permil.isr.bias_exposures import cell_means
    >>> cell_means(np.array([[1.0, 3.0, 5.0], [np.nan, 2.0, 5.0]]), 2)
    (array([[2., 5.]], dtype=float32), 2)
    """
    side = max(1, -(-max(image.shape) // most))
    known = np.isfinite(image)
    total, count = (
        np.add.reduceat(
            np.add.reduceat(part, np.arange(0, image.shape[0], side), axis=0), np.arange(0, image.shape[1], side), axis=1
        )
        for part in (np.where(known, image, 0.0).astype(np.float64), known.astype(np.float64))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, np.nan).astype(np.float32), side
