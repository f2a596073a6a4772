"""The solver `joint` on the files of one detector: its flat at full resolution, from every exposure that lights it.

Beam and scales are those of the joint solution, so that each pixel is a weighted mean of signal over light. Positions with several images
are stacked as pointings are; a single exposure is compared, pixel by pixel, with the median response of a few exposures of this detector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np

from permil.arrays import ArrayPool, Float32Array
from permil.camera import Camera, shared_camera
from permil.engine import background_calls, report_part, threaded_map
from permil.errors import FlatError, InputError, RawFormatError
from permil.flat.combine import STRIP_ROWS, DetectorFlat, combine_detector
from permil.flat.divide import sampling_step
from permil.flat.joint.file import read_errors, read_light
from permil.flat.joint.light import ExposureLight, JointLight, mean_light
from permil.flat.pointings import LitExposure, LitImage, LitStack
from permil.flat.shared_errors import KnownErrors
from permil.flat.signals import SuperPixelSignals, read_signals
from permil.flat.steps.exposures import LEAVES_OUT, PART_OF_EXPOSURES, FlatRequest, PointingGroup, require_pointings
from permil.flat.steps.flat_files import keep_pointing
from permil.flat.superpixel import median_image
from permil.isr import Calibration, LeftOut
from permil.isr.exposure_group import stack_group
from permil.isr.inputs import detector_calibration
from permil.isr.open_exposure import FEW_PIXELS, OpenExposure, RowSample, Strip, strips_of
from permil.products import RunFolder, is_usable

NOTHING_USABLE = "none of its super-pixels can be used: their pixels are saturated, masked or without data"

FEWEST_FOR_STACK = 3
"""Number of images at one position from which on outliers are found among them."""

Single = tuple[PointingGroup, int]
"""A group, and the number of an exposure in it."""

OPEN_TOGETHER = 6
"""Number of single exposures open at a time, and added while the sums of some rows are in the cache."""


def joint_light(path: Path) -> JointLight:
    """Return the light of a joint solution, read once per process while its file is unchanged."""
    return _light(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _light(path: Path, _changed: int) -> JointLight:
    return read_light(path)


def joint_detector(request: FlatRequest) -> tuple[DetectorFlat, list[LeftOut]]:
    """Return the flat of one detector on its own scale, and the exposures that were left out."""
    folder, config = RunFolder(request.root), request.config
    path = folder.joint(request.led)
    light = joint_light(path).averaged_over(shared_camera(config.camera)[request.detector].pixel_mm)
    errors, budget = read_errors(path, request.detector)
    damaged: dict[Path, str] = {}
    while True:
        detector = _Detector(request, folder, light, damaged)
        try:
            with background_calls() as later:
                flat = combine_detector(
                    _with_progress(detector.batches(), sum(len(group.paths) for group in request.groups)),
                    KnownErrors(errors.covariance),
                    detector.calibration.detector,
                    led=request.led,
                    super_pixel_mm=config.flat.super_pixel_mm,
                    common_variance=detector.calibration.superbias_variance,
                    remove_steps=config.flat.remove_amplifier_steps,
                    keep=keep_pointing(request, later),
                )
        except RawFormatError as error:
            # Some of its rows are in the sums already: start again without it.
            if error.path is None or Path(error.path) in damaged:
                raise
            damaged[Path(error.path)] = error.what
            continue
        whole = replace(flat, modes=errors.modes, remainder=errors.remainder, halves=errors.halves, budget=budget)
        return whole, detector.noted


def _with_progress(
    batches: Iterator[list[LitStack] | list[LitExposure]], n_exposures: int
) -> Iterator[list[LitStack] | list[LitExposure]]:
    """Yield batches, and report the completed fraction of the exposures."""
    done = 0
    for batch in batches:
        done += sum(each.pointing.exposures for each in batch)
        yield batch
        # The caller has released it too.
        del batch
        report_part(PART_OF_EXPOSURES * min(done / n_exposures, 1.0))


class _Detector:
    """The exposures of one detector, and the light expected on it."""

    def __init__(self, request: FlatRequest, folder: RunFolder, light: JointLight, damaged: Mapping[Path, str]) -> None:
        self.request, self.light, self.damaged = request, light, damaged
        self.noted: list[LeftOut] = []
        self.used = 0
        self.camera: Camera = shared_camera(request.config.camera)
        self.calibration: Calibration = detector_calibration(request.config, self.camera, folder, request.detector)
        self.signals: SuperPixelSignals = read_signals(folder.super_pixels(request.led, request.detector))
        self.row_of = {str(obsid): row for row, obsid in enumerate(self.signals.obsid)}
        self.amplifier_map = self.calibration.detector.amplifier_map()
        self.sampled = RowSample.of(self.calibration, sampling_step(self.calibration.detector.shape))
        self.checksums = request.config.exposures.checksums
        self.threshold = request.config.isr.rejection_threshold
        # Exposures of the reference stay open, with their light, until the flat takes them.
        self.ready: dict[Path, OpenExposure] = {}
        self.lights: dict[str, Callable[[slice, slice], Float32Array]] = {}

    def batches(self) -> Iterator[list[LitStack] | list[LitExposure]]:
        """Yield stacks one by one, and single exposures a few together."""
        reference = None
        try:
            for is_stack, groups in groupby(self.request.groups, key=lambda group: len(group.paths) >= FEWEST_FOR_STACK):
                if is_stack:
                    yield from self._stacks(groups)
                    continue
                reference = self.reference() if reference is None else reference
                singles = [(group, number) for group in groups for number in range(len(group.paths))]
                yield from self._single_exposures(singles, reference)
        finally:
            for exposure in self.ready.values():
                exposure.close()
        require_pointings(self.used, self.request, self.noted)

    def _stacks(self, groups: Iterable[PointingGroup]) -> Iterator[list[LitStack]]:
        """Yield stacks one at a time, since at full size each takes hundreds of megabytes; they share one buffer."""
        pool = ArrayPool()
        for group in groups:
            try:
                batch = [self._stack(group, pool)]
            except LEAVES_OUT as error:
                self.noted += group.left_out(error)
                continue
            self.used += 1
            yield batch
            del batch

    def _single_exposures(self, singles: Sequence[Single], reference: Float32Array) -> Iterator[list[LitExposure]]:
        """Yield single exposures with their light, a few together; the next ones are opened meanwhile."""
        opened: set[OpenExposure] = set()

        def open_one(single: Single) -> OpenExposure | LeftOut:
            exposure = self._open(single)
            if isinstance(exposure, OpenExposure):
                opened.add(exposure)
            return exposure

        try:
            with closing(threaded_map(open_one, singles, depth=OPEN_TOGETHER)) as exposures:
                for first in range(0, len(singles), OPEN_TOGETHER):
                    # Taken one by one, in their order.
                    some = [(single, next(exposures)) for single in singles[first : first + OPEN_TOGETHER]]
                    lit = [self._lit(*single, each, reference) for single, each in some if isinstance(each, OpenExposure)]
                    self.used += len(lit)
                    yield lit
                    del lit
                    for _, each in some:
                        if isinstance(each, LeftOut):
                            self.noted.append(each)
                        else:
                            self.noted += [LeftOut(each.path, sentence) for sentence in each.damage]
                            each.close()
                            opened.discard(each)
        finally:
            for exposure in opened:
                exposure.close()

    def _lit(self, group: PointingGroup, number: int, exposure: OpenExposure, reference: Float32Array) -> LitExposure:
        obsid = group.obsids[number]
        known = self.light.exposures[obsid]
        light = self.lights.pop(obsid) if obsid in self.lights else self.light_of([obsid], known)
        return LitExposure(
            group.pointing(1, scale_error=known.error, photodiode=group.photodiodes[number]),
            exposure,
            self.sampled,
            light,
            scale=self.light.scale_on(self.request.detector, obsid),
            reference=reference,
            threshold=self.threshold,
        )

    def _open(self, single: Single) -> OpenExposure | LeftOut:
        """Open an exposure; return the reason if it cannot be used."""
        group, number = single
        path = Path(group.paths[number])
        if (exposure := self.ready.pop(path, None)) is not None:
            return exposure
        if path in self.damaged:
            return LeftOut(path, self.damaged[path])
        if not np.isfinite(self.signals.signal[self.row_of[group.obsids[number]]]).any():
            return LeftOut(path, NOTHING_USABLE)
        try:
            return OpenExposure(path, self.camera, self.calibration, self.sampled, checksums=self.checksums)
        except InputError as error:
            return LeftOut(path, error.what)

    def light_of(self, obsids: Sequence[str], exposure: ExposureLight) -> Callable[[slice, slice], Float32Array]:
        """Return a function of rows and columns of the detector that returns the beam; NaN where there is too little light.

        It contains the steps of amplifiers, averaged over exposures of one position.
        """
        dark = ~self.signals.footprint(self.row_of[obsids[0]], self.request.config.flat.joint.least_signal)
        detector, block = self.calibration.detector, self.signals.block
        on_pixels = self.light.on_detector(detector, exposure)
        steps = self.light.log_amplifiers(self.request.detector, obsids, len(detector.amplifiers))

        def light(rows: slice, columns: slice) -> Float32Array:
            beam = on_pixels(rows, columns)
            block_rows = np.arange(detector.ny)[rows] // block
            block_columns = np.arange(detector.nx)[columns] // block
            if dark[block_rows[0] : block_rows[-1] + 1].any():
                beam[dark[block_rows[:, None], block_columns]] = np.nan
            if steps is not None:
                beam *= np.exp(steps).astype(np.float32)[self.amplifier_map[rows, columns]]
            return beam

        if detector.nx * detector.ny > FEW_PIXELS:
            return light
        whole = light(slice(None), slice(None))
        return lambda rows, columns: whole[rows, columns]

    def _stack(self, group: PointingGroup, pool: ArrayPool) -> LitStack:
        """Return the stack of one position; its scales are those of the joint solution, not the photodiode's."""
        exposures = [self.light.exposures[obsid] for obsid in group.obsids]
        scales = [self.light.scale_on(self.request.detector, obsid) for obsid in group.obsids]
        stacked = stack_group(
            group.paths,
            scales,
            self.camera,
            self.calibration,
            threshold=self.threshold,
            checksums=self.checksums,
            pool=pool,
        )
        self.noted += [*stacked.left_out, *stacked.damaged]
        stack = stacked.stack
        scale_error = float(np.sqrt(np.sum(np.square([exposure.error for exposure in exposures])))) / len(exposures)
        beam = self.light_of(group.obsids, mean_light(exposures))(slice(None), slice(None))
        # The errors of the beam are all in the covariance of the joint solution.
        exact = np.broadcast_to(np.float32(0), beam.shape)
        reading_of = dict(zip(map(Path, group.paths), group.photodiodes, strict=True))
        readings = [reading_of[path] for path in stacked.used]
        image = LitImage(stack.image, stack.variance, stack.mask, beam, exact, stacked.photodiode, scale_error)
        pointing = group.pointing(
            len(readings), scale_error=scale_error, photodiode=float(np.mean(readings)), chi_square=stack.mean_chi_square
        )
        return LitStack(pointing, image, stack.n_rejected)

    def reference(self) -> Float32Array:
        """Return the median response of a few exposures.

        Raises
        ------
        FlatError
            If none of them can be used.
        """
        places = {path: (group, number) for group in self.request.groups for number, path in enumerate(group.paths)}
        median = np.full(self.calibration.detector.shape, np.nan, dtype=np.float32)
        # Unusable exposures are noted when they are read for the flat.
        for path in self.request.nearest:
            if path in places and isinstance(exposure := self._open(places[path]), OpenExposure):
                self.ready[exposure.path] = exposure
        exposures = list(self.ready.values())
        if not exposures:
            raise FlatError(
                "none of the exposures nearest to this detector can be used", remedy="check the exposures that were left out"
            )
        lights = [self._light(*places[str(exposure.path)]) for exposure in exposures]

        def respond(strip: Strip) -> None:
            responses = [_response(*each, strip) for each in zip(exposures, lights, strict=True)]
            for run, rows in zip(strip.runs, strip.own_rows, strict=True):
                median[run] = median_image([response[rows] for response in responses])

        strips = strips_of(self.calibration.detector, rows=STRIP_ROWS, neighbours=self.calibration.saturation_grow)
        for _ in threaded_map(respond, strips):
            pass
        return median

    def _light(self, group: PointingGroup, number: int) -> Callable[[slice], Float32Array]:
        """Return a function of rows of the detector that returns the light, electrons for response 1."""
        obsid = group.obsids[number]
        beam = self.lights[obsid] = self.light_of([obsid], self.light.exposures[obsid])
        scale = np.float32(self.light.scale_on(self.request.detector, obsid))
        return lambda rows: scale * beam(rows, slice(None))


def _response(exposure: OpenExposure, light: Callable[[slice], Float32Array], strip: Strip) -> Float32Array:
    """Return the response of the rows of a strip; NaN for neighbours and unusable pixels."""
    image, mask = exposure.read(strip)
    response = np.full(image.shape, np.nan, dtype=np.float32)
    for run, rows in zip(strip.runs, strip.own_rows, strict=True):
        with np.errstate(invalid="ignore", divide="ignore"):
            response[rows] = np.where(is_usable(mask[rows]), image[rows] / light(run), np.nan)
    return response
