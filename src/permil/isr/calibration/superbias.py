"""Superbias: make it as the mean of bias exposures after overscan subtraction, detect light in them, find and read its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, Table

from permil.arrays import BoolArray, Float32Array, FloatArray, Int32Array, median, parse_unit, unit_factor
from permil.camera import Amplifier, Camera, Detector
from permil.camera.model import serial_key
from permil.config.isr import IsrConfig
from permil.errors import CalibrationError, InputError
from permil.exposures import Checksums, RawFile
from permil.exposures.file_names import is_fits_name
from permil.exposures.segment_rows import read_rows
from permil.isr.calibration.bias_structure import BiasStructure, cell_means, measure_structure
from permil.isr.calibration.calibration import Calibration, Superbias
from permil.isr.calibration.gains import Gains, unit_gains
from permil.isr.calibration.masks import Mask
from permil.isr.exposure_group import OpenFiles
from permil.isr.overscan import OverscanOptions, lost_runs, overscan_columns, overscan_options
from permil.isr.photodiode import LeftOut
from permil.isr.streamed_stack import ProbedFile
from permil.products import (
    FINGERPRINT_CARD,
    KIND_CARD,
    ImageProduct,
    MaskPlane,
    Sensor,
    check_sensor,
    known_variance,
    product_kind,
    read_any_image,
    sensor_statements,
    whole_file,
    write_image,
)
from permil.products.fits import image_of_cells
from permil.products.images import read_headers
from permil.products.sensor_identity import card_of, label_in


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


LIGHT_SIGMA, LEAST_LIGHT = 3.0, 3.0
"""Standard errors, and electrons, above which bias exposures carry light."""

SUPERBIAS_FORMAT = 2
"""Version of the file's format. Increase it when older files lack something."""
_MOST_CELLS = 128
_PART_OF_ROWS = 0.1
_FEWEST_ROWS = 8
_CLIP = 6.0


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


_SUPERBIAS_IS_LIT = (
    "the bias exposures carry light: {:.1f} +- {:.1f} electrons more in their last active rows than in the parallel overscan; it is "
    "subtracted from every exposure: take biases with the shutter closed and the lamps off"
)


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
        light = bias_light([file.raw_file for file in opened.files], detector, overscan=calibration.overscan)
        lit = light.is_lit
        if 2 * np.count_nonzero(lit) < lit.size:
            # A minority is left out.
            found = zip(opened.files, lit, *light.by_file, strict=True)
            opened.left_out += [_lit_bias(file, mean, error) for file, is_lit, mean, error in found if is_lit]
            opened.files = [file for file, is_lit in zip(opened.files, lit, strict=True) if not is_lit]
            light = BiasLight(light.light[~lit])
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
    stack, noise = stacked.stack, stacked.read_noise
    notes = [(str(entry.path), entry.reason) for entry in left_out]
    notes += [(str(used[file]), sentence) for file, sentence in stacked.damage]
    mean, error = light.mean
    if carries_light(np.array(mean), np.array(error)):
        notes.append((str(output), _SUPERBIAS_IS_LIT.format(mean, error)))
    table = QTable(
        {
            "amp": [amplifier.name for amplifier in detector.amplifiers],
            "overscan_level": stacked.overscan_level.mean(axis=0),
            "read_noise": np.sqrt((noise**2).mean(axis=0)),
            "read_noise_err": np.sqrt((np.nan_to_num(stacked.read_noise_err) ** 2).sum(axis=0)) / len(noise),
            "chi_square": stack.chi_square,
        }
    )
    structures = [measure_structure(stack.image[part], stack.variance[part]) for part in (a.slices for a in detector.amplifiers)]
    for name in (each.name for each in fields(BiasStructure)):
        table[f"{name}_structure" if not name.endswith("_err") else f"{name[:-4]}_structure_err"] = [
            getattr(structure, name) for structure in structures
        ]
    frames = Table(
        {
            "path": np.array([str(path) for path in used], dtype=np.str_),
            "overscan_level": stacked.overscan_level,
            "read_noise": noise,
        }
    )
    write_image(
        output,
        stack.image,
        stack.mask,
        stack.variance,
        header=dict(origin or {})
        | {
            KIND_CARD: ("superbias", "what this is"),
            "DETECTOR": (detector.name, "detector"),
            "CAMERA": (camera.name, "camera"),
            "NFRAMES": (stack.n_frames, "bias exposures"),
            "NLEFTOUT": (len(left_out), "bias exposures that could not be used"),
            "NREJECT": (stack.n_rejected, "measurements rejected as outliers"),
            "OVERSCAN": (config.overscan, "method of the overscan level"),
            "LIGHT": (mean if np.isfinite(mean) else None, "[electron] rows over parallel overscan"),
            "LIGHTERR": (error if np.isfinite(error) else None, "[electron] its error"),
            FINGERPRINT_CARD: (fingerprint, "what this was made from"),
        },
        image_cards={"BUNIT": "adu"},
        extensions=[
            fits.BinTableHDU(table, name="AMPLIFIERS"),
            fits.BinTableHDU(frames, name="FRAMES"),
            image_of_cells("CELLS", *cell_means(stack.image, _MOST_CELLS), "adu"),
            fits.BinTableHDU(Table(rows=notes or None, names=("path", "reason"), dtype=("U512", "U512")), name="NOTES"),
        ],
    )
    return output


def _lit_bias(file: ProbedFile, light: float, error: float) -> LeftOut:
    reason = f"it carries light: {light:.1f} +- {error:.1f} electrons more in its last active rows than in the parallel overscan"
    return LeftOut(file.raw_file.path, reason)


def superbias_notes(path: Path) -> list[str]:
    """Return the notes of a superbias: files that were left out, and files with masked rows."""
    # The images stay unread.
    with whole_file(path), fits.open(path) as hdus:
        return [f"{row['path']}: {row['reason']}" for row in hdus["NOTES"].data] if "NOTES" in hdus else []


_LARGEST_SUPERBIAS = 1000.0
"""Upper limit of the median structure of a bias, adu; bias levels are some 20,000."""


def read_superbias(
    path: Path, detector: Detector, *, camera: Camera | None = None, gains: Gains | None = None
) -> tuple[Superbias, Mask]:
    """Read a superbias of permil or of another program.

    Parameters
    ----------
    camera
        Camera that translates the numbers and serial numbers of detectors in files of other programs.
    gains
        Electrons per adu, for a superbias in electrons.

    Returns
    -------
    superbias, mask
        Image and variance in adu and adu^2, 0 where missing; planes NO_DATA there, BAD where it is not usable.

    Raises
    ------
    InputError
        If the file cannot be read.
    CalibrationError
        If it is of another detector or size, is not a superbias, has a unit that cannot be converted, or still contains the bias level.
    """
    sensor = Sensor(detector.name, camera=camera)
    product = read_any_image(path, sensor=sensor, shape=detector.shape, purpose="a superbias", with_extensions=False)
    _check_superbias(product, detector, sensor, path)
    variance, _ = known_variance(product.variance, product.mask)
    image, variance = (np.asarray(plane, dtype=np.float32) for plane in (product.image, variance))
    factor = _adu_per_unit(product, detector, gains, path)
    image, variance = image * factor, variance * factor**2
    known = image[np.isfinite(image)]
    level = float(median(known)) if known.size else 0.0
    if abs(level) > _LARGEST_SUPERBIAS:
        raise CalibrationError(
            f"the superbias has a median of {level:.0f} adu: it still contains the bias level",
            path=path,
            remedy="give the mean of bias exposures after overscan subtraction, or set isr.bias to auto",
            value=level,
        )
    missing = ~np.isfinite(image) | ~np.isfinite(variance)
    unusable = (product.mask & int(MaskPlane.BAD | MaskPlane.SAT)) != 0
    mask = np.where(missing, np.int16(MaskPlane.NO_DATA), np.where(unusable, np.int16(MaskPlane.BAD), np.int16(0)))
    image, variance = (np.where(missing, np.float32(0), array) for array in (image, variance))
    return Superbias(image, variance), mask


def _check_superbias(product: ImageProduct, detector: Detector, sensor: Sensor, path: Path) -> None:
    statements = sensor_statements(product.header, product.image_header, camera=sensor.camera)
    check_sensor(sensor, statements, path, what="the superbias", kind=CalibrationError)
    kind = product_kind(product.header, product.image_header)
    if kind not in ("", "superbias", "bias", "zero"):
        raise CalibrationError(
            f"this is a {kind}, not a superbias", path=path, remedy="name a superbias, auto or none in isr.bias", value=kind
        )
    if product.image.shape != detector.shape:
        raise CalibrationError(
            f"the superbias is that of {detector.name} with {product.image.shape} pixels, not {detector.shape}",
            path=path,
            remedy="give the superbias of this detector and camera",
            value=product.image.shape,
            detector=detector.name,
        )


def _adu_per_unit(product: ImageProduct, detector: Detector, gains: Gains | None, path: Path) -> Float32Array:
    """Return the factor of each pixel of a superbias to adu; without a unit it is in adu."""
    stated = str(card_of(product.image_header, "BUNIT") or card_of(product.header, "BUNIT") or "adu")
    factor = np.ones(detector.shape, dtype=np.float32)
    try:
        unit = parse_unit(stated)
        if unit is not None and unit.is_equivalent(u.electron):
            if gains is None or gains.source == "none":
                raise InputError(
                    f"the superbias is in {stated}", remedy="give one in adu, or the gains (isr.gains)", value=stated
                )
            scale = unit_factor(unit, u.electron, name="the superbias")
            for amplifier, gain in zip(detector.amplifiers, gains.gain, strict=True):
                factor[amplifier.slices] = scale / gain
        else:
            factor *= np.float32(unit_factor(unit or u.dimensionless_unscaled, u.adu, name="the superbias"))
    except InputError as error:
        raise CalibrationError(error.what, path=path, remedy=error.remedy, **error.data) from error
    return factor


def check_superbias_serial(source: str, detector: Detector, camera: Camera, serial: str) -> None:
    """Check that the superbias in the configuration belongs to the sensor that was read out.

    Parameters
    ----------
    source
        See `superbias_path`.
    serial
        Serial number in the raw files, empty if it is not known.

    Raises
    ------
    CalibrationError
        If the superbias has another serial number.
    InputError
        If it cannot be read.
    """
    path = superbias_path(source, detector, None)
    if path is None or not serial:
        return
    place = Sensor(detector.name, camera=camera)
    stated = [sensor_statements(header, camera=camera) for header in read_headers(path)]
    # Headers of other sensors in the same file do not count.
    own = [
        statements for statements in stated if place.verdict(entry for entry in statements if entry.kind != "serial") is not False
    ]
    for statement in (entry for statements in own for entry in statements):
        if statement.kind == "serial" and serial_key(statement.label) != serial_key(serial):
            raise CalibrationError(
                f"the superbias is of sensor {statement.label}, the exposures of {detector.name} are of {serial}",
                path=path,
                remedy="give a superbias of the sensor that was read out, or set isr.bias to auto",
                value=str(statement.label),
                detector=detector.name,
            )


def superbias_path(source: str, detector: Detector, made: Path | None) -> Path | None:
    """Return the path of the superbias of a detector; None if none is used.

    Parameters
    ----------
    source
        ``isr.bias``: a file, a folder, ``auto`` or ``none``.
    made
        The product of this run, for ``isr.bias: auto``.

    Raises
    ------
    CalibrationError
        If this run should make it and has not, or several files of a folder match.
    InputError
        If a folder holds none of this detector.
    """
    if source == "none":
        return None
    if source != "auto":
        path = Path(source)
        return _superbias_in(path, detector) if path.is_dir() else path
    if made is None:
        raise CalibrationError(
            f"there is no bias exposure of {detector.name}",
            remedy="add bias exposures to the roots, name a superbias in isr.bias, or set isr.bias to none",
            detector=detector.name,
        )
    return made


def _superbias_in(folder: Path, detector: Detector) -> Path:
    """Return the superbias of a detector in a folder: the file with the detector in its name, in any spelling.

    Raises
    ------
    CalibrationError
        If several files match.
    InputError
        If no file matches.
    """
    usual = folder / f"superbias_{detector.name}.fits"
    if usual.is_file():
        return usual
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and is_fits_name(path.name)]
    found = [path for path in files if detector.is_called(label_in(path.name))]
    if len(found) > 1:
        named = [path for path in found if path.name.lower().startswith("superbias")]
        found = named or found
    if len(found) > 1:
        raise CalibrationError(
            f"several files may be the superbias of {detector.name}: {', '.join(path.name for path in found)}",
            path=folder,
            remedy="keep one of them there, or name it in isr.bias",
            detector=detector.name,
        )
    if not found:
        raise InputError(
            f"there is no superbias of {detector.name}",
            path=folder,
            remedy=f"put superbias_{detector.name}.fits there, or set isr.bias to auto",
            detector=detector.name,
        )
    return found[0]
