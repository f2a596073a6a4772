"""The exposures of a campaign in order of time: beam scan, biases and pointings, with positions, counters and file names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np

from permil.camera import Camera, Detector, frames
from permil.errors import PositionError
from permil.exposures import file_names

Position = tuple[float, float]

# Aims of the real pointings in mm from the reference pixel, along x and y of the detector: low, middle, high. They are the pixels
# (1024, 2048, 3072) x (1001, 2002, 3003) of an E2V and (1018, 2036, 3054) x (1000, 2000, 3000) of an ITL, of 10 um.
_AIMS_MM = {
    "E2V": ((-10.235, 0.005, 10.245), (-10.005, 0.005, 10.015)),
    "ITL": ((-10.185, -0.005, 10.175), (-10.005, -0.005, 9.995)),
}
_LOW, _MIDDLE, _HIGH = range(3)
_ORDER = ((_LOW, _HIGH), (_HIGH, _HIGH), (_MIDDLE, _MIDDLE), (_LOW, _LOW), (_HIGH, _LOW))

POINTINGS_PER_DETECTOR = len(_ORDER)
"""Pointings of each detector."""


def scan_centre(camera: Camera) -> Position:
    """Return the CCS position (mm) of the middle of the reference amplifier, the centre of beam scans."""
    detector = camera[camera.reference.detector]
    amplifier = detector.amplifier(camera.reference.amp)
    x, y = frames.detector_to_ccs(detector, amplifier.x_min + amplifier.nx / 2, amplifier.y_min + amplifier.ny / 2)
    return float(x), float(y)


def scan_positions(centre: Position, *, size: int, width: float) -> list[Position]:
    """Return the positions of a beam scan, X slow and Y fast, CCS mm rounded to a micrometre."""
    steps = np.linspace(-width / 2, width / 2, size)
    return [(_micrometre(centre[0] + x), _micrometre(centre[1] + y)) for x in steps for y in steps]


def pointing_positions(detector: Detector) -> list[Position]:
    """Return the five positions of the pointings of a detector in order, CCS mm rounded to a micrometre.

    The aims are the middles of the quadrants and the centre: upper left, upper right, centre, lower left, lower right in the
    detector frame, at the same distances in mm for every pixel size; for a cut-out, at its own quarters.
    """
    along_x, along_y = _AIMS_MM.get(detector.vendor, _quarter_points(detector))
    if max(*along_x, *along_y) > min(detector.nx, detector.ny) * detector.pixel_mm / 2:
        along_x, along_y = _quarter_points(detector)
    aims = np.array([(along_x[i], along_y[j]) for i, j in _ORDER]) / detector.pixel_mm + detector.reference_pixel
    x, y = frames.detector_to_ccs(detector, aims[:, 0], aims[:, 1])
    return [(_micrometre(first), _micrometre(second)) for first, second in zip(x, y, strict=True)]


def _quarter_points(detector: Detector) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return aims (mm from the reference pixel) at the quarters of the array along x and y."""
    sides = zip((detector.nx, detector.ny), detector.reference_pixel, strict=True)
    along_x, along_y = (
        tuple((fraction * side - reference) * detector.pixel_mm for fraction in (0.25, 0.5, 0.75)) for side, reference in sides
    )
    return along_x, along_y


def _micrometre(coordinate: float) -> float:
    # Adding zero turns minus zero into zero, as in folder names.
    return round(float(coordinate), 3) + 0.0


def select_detectors(camera: Camera, rafts: Sequence[str], detectors: Sequence[str]) -> tuple[Detector, ...]:
    """Return the science detectors of the given rafts (all if none is given), restricted to ``detectors`` unless it is empty.

    Raises
    ------
    PositionError
        If a raft or detector does not exist, or no detector is left.
    """
    science = camera.science
    for what, named, known in (
        ("raft", rafts, {detector.raft for detector in science}),
        ("detector", detectors, {detector.name for detector in science}),
    ):
        for name in named:
            if name not in known:
                raise PositionError(
                    f"camera {camera.name} has no science {what} {name!r}",
                    remedy=f"choose among {', '.join(sorted(known)[:24])}",
                    value=name,
                    allowed=sorted(known),
                )
    chosen = tuple(
        detector
        for detector in science
        if (not rafts or detector.raft in rafts) and (not detectors or detector.name in detectors)
    )
    if not chosen:
        raise PositionError(
            f"none of the detectors {', '.join(detectors)} lies in the rafts {', '.join(rafts)}",
            remedy="name detectors of these rafts, or other rafts",
            value=tuple(detectors),
        )
    return chosen


def scanned_detectors(camera: Camera, detectors: Sequence[str]) -> tuple[Detector, ...]:
    """Return the detectors that the scan reads out: those of the reference detector's readout board, restricted as above."""
    reference = camera[camera.reference.detector]
    return tuple(
        detector
        for detector in camera.science
        if detector.raft == reference.raft
        and detector.reb == reference.reb
        and (not detectors or detector.name in detectors or detector.name == reference.name)
    )


LED_SETTINGS: dict[str, tuple[float, float]] = {
    "uv": (0.1, 0.03),
    "blue": (0.006, 0.08),
    "red": (0.009, 0.07),
    "nm750": (0.01, 0.13),
    "nm850": (0.01, 0.09),
    "nm960": (0.01, 0.32),
}
"""Current (A) and exposure time (s) of each LED in the production campaigns."""

READOUT_SECONDS = 3.0
"""Time from the end of one exposure to the start of the next."""

_START = datetime(2019, 10, 28, 19, 0, 0, tzinfo=UTC)
_LABORATORY_TIME = timezone(timedelta(hours=-7))
_MJD_ZERO = datetime(1858, 11, 17, tzinfo=UTC)
_FIRST_RUN, _FIRST_JOB, _JOB_STEP = 6840, 48024, 33


@dataclass(frozen=True)
class PlannedExposure:
    """One exposure of the campaign.

    Attributes
    ----------
    kind
        ``scan``, ``pointing`` or ``bias``.
    run, job
        Names of the folders of its run.
    led
        LED; for a bias, the last one used (``""`` before the first).
    point, image
        Index of the position in its list, and of the image there. For a bias: 0 and its index.
    test_sequence
        Counter within the run, TSEQNUM.
    commanded
        Position in the folder's name, CCS mm; for a bias, the last position of the stage.
    target
        Detector that a pointing aims at, else ``""``.
    detectors
        Names of the detectors that are read out.
    end
        End of the exposure, UTC.
    sequence
        Counter of the day, SEQNUM.
    exposure_time
        Seconds.
    current
        LED current, A.
    phase
        Fraction of the campaign's exposures before this one, from 0 to 1.
    compressed
        Whether the files are RICE-compressed.
    """

    kind: str
    run: str
    job: str
    led: str
    point: int
    image: int
    test_sequence: int
    commanded: Position
    target: str
    detectors: tuple[str, ...]
    end: datetime
    sequence: int
    exposure_time: float
    current: float
    phase: float
    compressed: bool

    @property
    def day(self) -> str:
        """DAYOBS: the date in the laboratory."""
        return self.end.astimezone(_LABORATORY_TIME).strftime("%Y%m%d")

    @property
    def obsid(self) -> str:
        """OBSID, for example ``MC_C_20191028_005273``."""
        return file_names.observation_id(self.day, self.sequence)

    @property
    def folder(self) -> str:
        """Folder of the exposure below the root of raw files."""
        if self.kind == "bias":
            name = file_names.bias_folder(self.test_sequence)
        else:
            name = file_names.CcobFolder(self.led, *self.commanded, self.test_sequence).name
        return str(file_names.run_folder(self.run, self.job) / name)

    def file(self, detector: str) -> str:
        """Return the path of one detector's file below the root of raw files."""
        return f"{self.folder}/{file_names.file_name(self.obsid, detector)}"

    @property
    def identity(self) -> tuple[str | int, ...]:
        """A unique name of the exposure for its random numbers, independent of the rest of the campaign."""
        return self.kind, self.led if self.kind != "bias" else "", self.target, self.point, self.image


def modified_julian_date(moment: datetime) -> float:
    """Return the MJD of a moment."""
    return (moment - _MJD_ZERO) / timedelta(days=1)


def sequence_in_test(*, point: int, led: int, image: int, leds: int, images: int) -> int:
    """Return TSEQNUM: points outermost, then LEDs, then images."""
    return (point * leds + led) * images + image


@dataclass
class CampaignPlan:
    """The content of a campaign, and the sequence of its exposures with folders, counters and clock.

    Attributes
    ----------
    leds
        LEDs in the order of exposure.
    science
        Detectors with pointings.
    scanned
        Detectors that the scan reads out.
    scan
        Positions of the scan.
    images, biases
        Images per pointing and LED; biases before the pointings of a run.
    whole_raft
        Pointings read all detectors of the raft, and each raft is a run; otherwise one run reads the target only.
    compression
        ``none``, ``rice`` or ``sample``.
    """

    leds: tuple[str, ...]
    science: tuple[Detector, ...]
    scanned: tuple[Detector, ...]
    scan: tuple[Position, ...]
    images: int
    biases: int
    whole_raft: bool
    compression: str

    def exposures(self) -> list[PlannedExposure]:
        """Return all exposures in order of time: the scan, then biases and pointings."""
        self._exposures: list[PlannedExposure] = []
        self._of_day: Counter[str] = Counter()
        self._run, self._moment = 0, _START
        self._add_run("scan", [("", position) for position in self.scan], _names_of(self.scanned), images=1)
        pointed = {detector.name for detector in self.science}
        only_scanned = tuple(detector for detector in self.scanned if detector.name not in pointed)
        for number, detectors in enumerate(self._runs()):
            self._add_biases(self.biases, _names_of((*only_scanned, *detectors) if number == 0 else detectors))
            points = [(detector.name, position) for detector in detectors for position in pointing_positions(detector)]
            self._add_run("pointing", points, _names_of(detectors) if self.whole_raft else None, images=self.images)
        last = max(len(self._exposures) - 1, 1)
        return [replace(exposure, phase=index / last) for index, exposure in enumerate(self._exposures)]

    def _runs(self) -> list[tuple[Detector, ...]]:
        if not self.whole_raft:
            return [self.science]
        rafts = sorted({detector.raft for detector in self.science})
        return [tuple(detector for detector in self.science if detector.raft == raft) for raft in rafts]

    def _add_run(
        self, kind: str, points: Sequence[tuple[str, Position]], detectors: tuple[str, ...] | None, *, images: int
    ) -> None:
        """Add the exposures of all points of a run; without ``detectors`` each point reads its target."""
        for point, (target, position) in enumerate(points):
            for number, led in enumerate(self.leds):
                for image in range(images):
                    self._add(
                        kind,
                        led,
                        image=image,
                        point=point % POINTINGS_PER_DETECTOR if kind == "pointing" else point,
                        test_sequence=sequence_in_test(point=point, led=number, image=image, leds=len(self.leds), images=images),
                        commanded=position,
                        target=target,
                        detectors=(target,) if detectors is None else detectors,
                    )
        self._run += 1

    def _add_biases(self, count: int, detectors: tuple[str, ...]) -> None:
        """Add biases to the next run; stage and LED cards keep the values of the last exposure."""
        last = self._exposures[-1]
        for image in range(count):
            places: dict[str, Any] = {"commanded": last.commanded, "target": "", "detectors": detectors}
            self._add("bias", last.led, image=image, point=0, test_sequence=image, **places)

    def _add(self, kind: str, led: str, *, image: int, **fields: Any) -> None:
        current, light_seconds = LED_SETTINGS[led]
        seconds = 0.0 if kind == "bias" else light_seconds
        self._moment += timedelta(seconds=READOUT_SECONDS + seconds)
        first_of_led = kind != "bias" and all(led != exposure.led for exposure in self._exposures[: len(self.leds)])
        exposure = PlannedExposure(
            kind=kind,
            run=f"{_FIRST_RUN + self._run}D",
            job=f"{_FIRST_JOB + _JOB_STEP * self._run}",
            led=led,
            image=image,
            end=self._moment,
            sequence=0,
            exposure_time=seconds,
            current=current,
            phase=0.0,
            compressed=self.compression == "rice" or (self.compression == "sample" and first_of_led),
            **fields,
        )
        self._of_day[exposure.day] += 1
        self._exposures.append(replace(exposure, sequence=self._of_day[exposure.day]))


def _names_of(detectors: Sequence[Detector]) -> tuple[str, ...]:
    return tuple(detector.name for detector in detectors)
