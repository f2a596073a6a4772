"""What is exposed, in which order, and what it is called: the beam scan and the pointings, as real campaigns do them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone

from permil.camera import Detector
from permil.exposures import file_names
from permil.simulate.targets import POINTINGS_PER_DETECTOR, Position, pointing_positions

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
        LED; of a bias, the one that was lit last (``""`` before the first).
    point, image
        Number of the position in its list, and of the image there. Of a bias: 0 and its number.
    test_sequence
        Counter within the run, TSEQNUM.
    commanded
        Position in the folder's name, CCS mm; of a bias, where the stage was left.
    target
        Detector that a pointing aims at, else ``""``.
    detectors
        Names of the detectors that are read.
    end
        End of the exposure, UTC.
    sequence
        Counter of the day, SEQNUM.
    exposure_time
        Seconds.
    current
        LED current, A.
    phase
        Place in the campaign, 0 at its start and 1 at its end.
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
        """What tells this exposure from all others, whatever else the campaign holds: the name of its random numbers."""
        return self.kind, self.led if self.kind != "bias" else "", self.target, self.point, self.image


def modified_julian_date(moment: datetime) -> float:
    """Return the MJD of a moment."""
    return (moment - _MJD_ZERO) / timedelta(days=1)


def sequence_in_test(*, point: int, led: int, image: int, leds: int, images: int) -> int:
    """Return TSEQNUM: points outermost, then LEDs, then images."""
    return (point * leds + led) * images + image


@dataclass(frozen=True)
class CampaignPlan:
    """What a campaign consists of.

    Attributes
    ----------
    leds
        LEDs in the order of exposure.
    science
        Detectors that are pointed at.
    scanned
        Detectors that the scan reads.
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
        """Return all exposures in the order of time: the scan, then the pointings, biases first."""
        builder = _Builder(self.leds, self.compression)
        builder.run("scan", [("", position) for position in self.scan], _names_of(self.scanned), images=1)
        pointed = {detector.name for detector in self.science}
        only_scanned = tuple(detector for detector in self.scanned if detector.name not in pointed)
        for number, detectors in enumerate(self._runs()):
            builder.biases(self.biases, _names_of((*only_scanned, *detectors) if number == 0 else detectors))
            points = [(detector.name, position) for detector in detectors for position in pointing_positions(detector)]
            builder.run("pointing", points, _names_of(detectors) if self.whole_raft else None, images=self.images)
        return builder.finished()

    def _runs(self) -> list[tuple[Detector, ...]]:
        if not self.whole_raft:
            return [self.science]
        rafts = sorted({detector.raft for detector in self.science})
        return [tuple(detector for detector in self.science if detector.raft == raft) for raft in rafts]


class _Builder:
    """Puts exposures one after the other: folders, counters, clock."""

    def __init__(self, leds: tuple[str, ...], compression: str) -> None:
        self._leds = leds
        self._compression = compression
        self._exposures: list[PlannedExposure] = []
        self._runs = 0
        self._moment = _START
        self._of_day: dict[str, int] = {}

    def run(self, kind: str, points: Sequence[tuple[str, Position]], detectors: tuple[str, ...] | None, *, images: int) -> None:
        """Add the exposures of all points of a run; without ``detectors`` each point reads its target."""
        for point, (target, position) in enumerate(points):
            for number, led in enumerate(self._leds):
                for image in range(images):
                    self._add(
                        kind,
                        led,
                        position,
                        (target,) if detectors is None else detectors,
                        point=point % POINTINGS_PER_DETECTOR if kind == "pointing" else point,
                        image=image,
                        counter=sequence_in_test(point=point, led=number, image=image, leds=len(self._leds), images=images),
                        target=target,
                    )
        self._runs += 1

    def biases(self, count: int, detectors: tuple[str, ...]) -> None:
        """Add biases to the run that comes next; the stage and the LED's cards stay as the last exposure left them."""
        last = self._exposures[-1]
        for image in range(count):
            self._add("bias", last.led, last.commanded, detectors, point=0, image=image, counter=image, target="")

    def _add(
        self,
        kind: str,
        led: str,
        position: Position,
        detectors: tuple[str, ...],
        *,
        point: int,
        image: int,
        counter: int,
        target: str,
    ) -> None:
        current, light_seconds = LED_SETTINGS[led]
        seconds = 0.0 if kind == "bias" else light_seconds
        self._moment += timedelta(seconds=READOUT_SECONDS + seconds)
        first_of_led = kind != "bias" and all(led != exposure.led for exposure in self._exposures[: len(self._leds)])
        exposure = PlannedExposure(
            kind=kind,
            run=f"{_FIRST_RUN + self._runs}D",
            job=f"{_FIRST_JOB + _JOB_STEP * self._runs}",
            led=led,
            point=point,
            image=image,
            test_sequence=counter,
            commanded=position,
            target=target,
            detectors=detectors,
            end=self._moment,
            sequence=0,
            exposure_time=seconds,
            current=current,
            phase=0.0,
            compressed=self._compression == "rice" or (self._compression == "sample" and first_of_led),
        )
        self._of_day[exposure.day] = self._of_day.get(exposure.day, 0) + 1
        self._exposures.append(replace(exposure, sequence=self._of_day[exposure.day]))

    def finished(self) -> list[PlannedExposure]:
        """Return all exposures, each with its place in the campaign."""
        last = max(len(self._exposures) - 1, 1)
        return [replace(exposure, phase=index / last) for index, exposure in enumerate(self._exposures)]


def _names_of(detectors: Sequence[Detector]) -> tuple[str, ...]:
    return tuple(detector.name for detector in detectors)
