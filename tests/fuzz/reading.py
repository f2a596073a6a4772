"""Everything that reads raw files, on one damaged file: what must hold whatever is in it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from permil.beam.stage import box_signals
from permil.camera import Camera, ReferenceBox
from permil.config.isr import IsrConfig
from permil.engine.call import forget_peak, peak_memory
from permil.errors import FileWarning, PermilError
from permil.exposures import RawFile, assemble, read_exposure, read_raw
from permil.exposures.files import assemble_file
from permil.exposures.hdu import BLOCK
from permil.exposures.segment_rows import read_rows
from permil.isr.bias_exposures import build_superbias
from permil.isr.box import BoxSignal
from permil.isr.calibration.calibration import Calibration
from permil.isr.exposure_group import stack_group
from permil.isr.inputs import load_calibration
from permil.isr.open_exposure import OpenExposure, RowSample, strips_of
from permil.isr.reduce import reduce_file
from permil.products import read_image

from .files import DETECTOR, LAYOUTS, RawBytes, raw_bytes, small_camera, true_pixels
from .mutations import mutated

ACCEPTED, REPORTED, REFUSED = "accepted", "accepted with a warning", "refused"
LARGEST_GROWTH = 96 * 2**20
"""Bytes of memory that the work on one file of 100 kbyte may take; the content of a gzip file is limited to 16 Mbyte."""
LONGEST = 5.0
"""Seconds of the processor that one file may take."""


class BrokenError(AssertionError):
    """What must hold does not."""


@dataclass(frozen=True)
class Verdict:
    """What became of a damaged file: by `read_raw`, and what was wrong with that ("" if nothing)."""

    layout: str
    damage: str
    outcome: str
    reason: str
    seconds: float
    growth: int
    fault: str = ""


class Bench:
    """Good files, what is made of them, and the readers.

    Parameters
    ----------
    folder
        For temporary files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.camera: Camera = small_camera(folder)
        self.detector = self.camera[DETECTOR]
        self.truth = true_pixels(self.camera, 0)
        self.files: dict[str, RawBytes] = {layout: raw_bytes(self.camera, layout) for layout in LAYOUTS}
        self.path = folder / "MC_C_20191028_000000_R44_SW1.fits"
        self._check_readers()
        self.config = IsrConfig(bias="none", gains="nominal", rejection_threshold=np.inf)
        self.others = []
        for seed in (1, 2):
            self.others.append(folder / f"MC_C_20191028_{seed:06d}_R44_SW1.fits")
            self.others[-1].write_bytes(raw_bytes(self.camera, "RICE by rows", seed=seed).content)
        self.calibration: Calibration = load_calibration(self.detector, self.camera, self.config)
        self.boxes = [ReferenceBox(DETECTOR, self.detector.amplifiers[3].name, 10, 8, 6)]
        self.path.write_bytes(self.files["plain"].content)
        self.expected = {name: use() for name, use in self.uses().items()}
        self.path.unlink()
        self.without = {"stack": self._stack(self.others), "superbias": self._superbias(self.others)}

    def _check_readers(self) -> None:
        """Check that the files are read as they were written before anything is done to them."""
        for layout, raw in self.files.items():
            self.path.write_bytes(raw.content)
            for found in (self._segments("refuse"), self._rows("refuse")):
                for name, pixels in found.items():
                    np.testing.assert_array_equal(pixels, self._true_part(name, pixels), err_msg=f"{layout}, {name}")
        self.path.unlink()

    def uses(self) -> dict[str, Callable[[], np.ndarray]]:
        """Return what the pipeline makes of a file."""
        return {
            "assembly": self._assembled,
            "reduction": self._reduced,
            "rows of the reduction": self._reduced_rows,
            "nodes": self._nodes,
            "strips": self._strips,
            "stack": lambda: self._stack([self.others[0], self.path, self.others[1]]),
            "superbias": lambda: self._superbias([self.others[0], self.path, self.others[1]]),
        }

    def examine(self, number: int, seed: int) -> Verdict:
        """Damage a file and read it in every way.

        The damage depends on seed and number alone.
        """
        random = np.random.default_rng([seed, number])
        layout = list(LAYOUTS)[int(random.integers(len(LAYOUTS)))]
        content, damage = mutated(self.files[layout], random)
        self.path.write_bytes(content)
        forget_peak()
        before, begin = peak_memory(), time.process_time()
        outcome, reason, fault = "", "", ""
        try:
            outcome, reason = self._read()
            names = list(self.uses())
            self._use(names[number % len(names)], outcome)
        except BrokenError as error:
            fault = str(error)
        except Exception as error:  # noqa: BLE001 - whatever comes out of a reader is what is looked for
            fault = f"{type(error).__name__}: {error}"
        finally:
            self.path.unlink(missing_ok=True)
        seconds, growth = time.process_time() - begin, peak_memory() - before
        if not fault and seconds > LONGEST:
            fault = f"took {seconds:.1f} s"
        if not fault and growth > LARGEST_GROWTH:
            fault = f"took {growth / 2**20:.0f} MiB"
        return Verdict(layout, damage, outcome, reason, seconds, growth, fault)

    def _read(self) -> tuple[str, str]:
        """Read the file with sums compared and without; return what became of it, and why."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for read in (lambda: read_exposure(self.path, self.camera), lambda: self._rows("off"), lambda: self._segments("off")):
                self._tried(read)
            caught.clear()
            whole = self._tried(lambda: self._segments("refuse"))
            rows = self._tried(lambda: self._rows("refuse"))
        foreign = [warning for warning in caught if not issubclass(warning.category, FileWarning)]
        if foreign:
            raise BrokenError(f"warned as {foreign[0].category.__name__}: {foreign[0].message}")
        reported = [str(warning.message) for warning in caught]
        for found in (whole, rows):
            if isinstance(found, PermilError):
                continue
            changed = [name for name, pixels in found.items() if not np.array_equal(pixels, self._true_part(name, pixels))]
            if changed and not reported and self._has_sums():
                raise BrokenError(f"pixels of {', '.join(changed)} changed without a word")
        if isinstance(whole, PermilError):
            return REFUSED, whole.what
        return (REPORTED, reported[0]) if reported else (ACCEPTED, "")

    def _tried(self, read: Callable[[], object]) -> object:
        """Return what a reader returns, or its error if that is one of ours."""
        try:
            return read()
        except PermilError as error:
            _raise_overrun(error)
            return error

    def _segments(self, checksums: str) -> dict[str, np.ndarray]:
        return dict(read_raw(self.path, self.camera, checksums=checksums).segments)

    def _rows(self, checksums: str) -> dict[str, np.ndarray]:
        with RawFile(self.path, self.camera, checksums=checksums) as raw_file:
            return {name: read_rows(raw_file, name, slice(1, None, 5)) for name in list(self.truth)[::3]}

    def _true_part(self, name: str, pixels: np.ndarray) -> np.ndarray:
        return self.truth[name] if pixels.shape == self.truth[name].shape else self.truth[name][1::5]

    def _has_sums(self) -> bool:
        """Return whether each segment still states a sum."""
        try:
            with RawFile(self.path, self.camera, checksums="off") as raw_file:
                headers = [header for header in raw_file.headers if b"Segment" in header]
        except PermilError:
            return True
        return all(b"DATASUM =" in header or b"CHECKSUM=" in header for header in headers)

    def _use(self, name: str, outcome: str) -> None:
        """Let the pipeline use the file; what comes out is that of the true pixels, or that without the file."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = self.uses()[name]()
            except PermilError as error:
                _raise_overrun(error)
                if name in self.without:
                    raise BrokenError(f"one damaged file ended the {name}") from None
                if outcome == ACCEPTED:
                    raise BrokenError(f"{name} refuses what is read without a word") from None
                return
        reported = [warning for warning in caught if issubclass(warning.category, FileWarning)]
        # Nodes look at one segment alone, which may be sound.
        expected = self.without[name] if outcome == REFUSED and name in self.without else self.expected[name]
        if outcome != REPORTED and not reported and not np.array_equal(found, expected, equal_nan=True):
            raise BrokenError(f"the {name} changed without a word")

    def _assembled(self) -> np.ndarray:
        out = self.folder / "assembled.fits"
        assemble_file(self.path, out, self.camera)
        assert out.stat().st_size % BLOCK == 0
        return assemble(read_raw(self.path, self.camera))

    def _reduced(self) -> np.ndarray:
        return reduce_file(self.path, self.camera, self.calibration).image

    def _reduced_rows(self) -> np.ndarray:
        sample = RowSample.of(self.calibration, 4)
        return reduce_file(self.path, self.camera, sample.calibration, rows=sample.raw_rows).image

    def _nodes(self) -> np.ndarray:
        threshold = self.config.rejection_threshold
        signals: list[BoxSignal] = box_signals(self.path, self.boxes, self.camera, self.calibration, threshold=threshold)
        return np.array([[signal.signal, signal.error] for signal in signals])

    def _strips(self) -> np.ndarray:
        sample = RowSample.of(self.calibration, 4)
        with OpenExposure(self.path, self.camera, self.calibration, sample) as exposure:
            strips = strips_of(self.detector, rows=8, neighbours=exposure.neighbours)
            return np.concatenate([exposure.read(strip)[0].copy() for strip in strips])

    def _stack(self, paths: list[Path]) -> np.ndarray:
        return stack_group(paths, [1.0] * len(paths), self.camera, self.calibration, normalise=False).stack.image

    def _superbias(self, paths: list[Path]) -> np.ndarray:
        out = self.folder / "superbias.fits"
        return read_image(build_superbias(paths, self.detector, self.camera, self.config, out)).image


def _raise_overrun(error: PermilError) -> None:
    """Raise BrokenError if the cause of an error is an index that a checked kernel refused."""
    if "outside its row" in str(error.__cause__):
        raise BrokenError(f"reads out of bounds: {error.__cause__}") from error
