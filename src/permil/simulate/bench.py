"""The bench: the truth of a simulated campaign, built from the configuration and the seed, and the raw segments of its exposures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from permil._kernels import simulate as kernels
from permil.arrays import Float32Array, FloatArray, Int32Array, IntArray
from permil.camera import Camera, Detector, frames, load_camera
from permil.config.simulate import SimulateConfig
from permil.errors import ConfigError
from permil.simulate import electronics, projector
from permil.simulate.campaign import (
    READOUT_SECONDS,
    CampaignPlan,
    PlannedExposure,
    Position,
    scan_centre,
    scan_positions,
    scanned_detectors,
    select_detectors,
)
from permil.simulate.electronics import Electronics, cosmic_rays, digitise, repel_charge, strength
from permil.simulate.headers import dark_time
from permil.simulate.projector import BeamTruth, ProjectorStage, weather_on_detector, weather_series
from permil.simulate.randoms import generator, normal_state
from permil.simulate.sensor import REFERENCE_ELECTRONS, SensorTruth

_DEFERRED_PIXELS = 12


@dataclass(frozen=True)
class ExposureTruth:
    """True and recorded conditions of one exposure.

    Attributes
    ----------
    electrons
        Electrons per pixel at the beam's maximum where the flat is 1; 0 for a bias.
    photodiode
        Recorded photodiode reading; of a bias, the stale one.
    photodiode_response
        Response of the photodiode relative to nominal, without the noise of the reading.
    lamp
        Position of the lamp, in the stage's axes, mm.
    recorded
        Recorded position of the lamp, CCS mm.
    beam_centre
        Position of the beam's centre, CCS mm.
    weather
        Coefficients of the patterns `permil.simulate.projector.WEATHER_TERMS` in the light.
    sensor_temperature
        Deg C.
    """

    electrons: float
    photodiode: float
    photodiode_response: float
    lamp: Position
    recorded: Position
    beam_centre: Position
    weather: tuple[float, ...]
    sensor_temperature: float


class Bench:
    """The truth of a simulation: beams, lamp, stage, sensors, amplifiers and exposures.

    Parameters
    ----------
    config
        Section ``simulate``.
    sensors
        Response of the sensors; by default drawn from the configuration and its seed.

    Raises
    ------
    CameraError
        If there is no such camera.
    PositionError
        If a raft or detector is not in the camera.
    ConfigError
        If no beam has the levels of the configuration, or more gains should step than there are.
    """

    def __init__(self, config: SimulateConfig, *, sensors: SensorTruth | None = None) -> None:
        self.config = config
        self.camera: Camera = load_camera(config.camera)
        self.science = select_detectors(self.camera, config.rafts, config.detectors)
        self.scanned = scanned_detectors(self.camera, config.detectors)
        self.sensors = sensors or SensorTruth(config, self.camera)
        self.leds: tuple[str, ...] = tuple(dict.fromkeys(config.leds))
        self._gain_steps = electronics.gain_steps(config.seed, self.read, config.gain_steps) if config.effects.gain_steps else {}
        self._beams = {led: self._make_beam(led) for led in self.leds}

    @property
    def read(self) -> tuple[Detector, ...]:
        """All detectors that are read out, in the order of the camera."""
        names = {detector.name for detector in (*self.science, *self.scanned)}
        return tuple(detector for detector in self.camera.science if detector.name in names)

    def _random(self, *names: str | int) -> np.random.Generator:
        return generator(self.config.seed, *names)

    def _size(self, effect: str, size: float) -> float:
        """Return the size of an effect, 0 if it is switched off."""
        return size if getattr(self.config.effects, effect) else 0.0

    @cached_property
    def exposures(self) -> list[PlannedExposure]:
        """All exposures in order of time."""
        campaign = self.config.campaign
        positions = scan_positions(scan_centre(self.camera), size=campaign.scan_size, width=campaign.scan_width_mm)
        if campaign.scan_order == "random":
            positions = [positions[number] for number in self._random("scan order").permutation(len(positions))]
        return CampaignPlan(
            leds=self.leds,
            science=self.science,
            scanned=self.scanned,
            scan=tuple(positions),
            images=campaign.images,
            biases=campaign.biases,
            whole_raft=campaign.readout == "raft",
            compression=campaign.compression,
        ).exposures()

    @cached_property
    def stage(self) -> ProjectorStage:
        """The projector's stage."""
        stage, effects = self.config.stage, self.config.effects
        return ProjectorStage(
            jitter=self._size("jitter", stage.jitter_um * 1e-3),
            readback=self._size("jitter", stage.readback_um * 1e-3),
            recorded=stage.recorded,
            offset=stage.offset_mm if effects.offset else (0.0, 0.0),
            rotation=self._size("rotation", stage.rotation_mrad * 1e-3),
            added=stage.folder_before_offset_mm or (0.0, 0.0),
        )

    def exposure_truths(self) -> list[ExposureTruth]:
        """Return the truth of each exposure of `exposures`."""
        truths: list[ExposureTruth] = []
        for exposure, response, weather in zip(self.exposures, self._photodiode_responses(), self._weather(), strict=True):
            if exposure.kind == "bias":
                # Neither lamp nor stage is used: the cards keep the values of the last exposure.
                sensor_temperature = self._sensor_temperature(exposure)
                truths.append(replace(truths[-1], electrons=0.0, sensor_temperature=sensor_temperature))
            else:
                truths.append(self._exposure_truth(exposure, float(response), tuple(weather.tolist())))
        return truths

    def _photodiode_responses(self) -> FloatArray:
        """Return the response of the photodiode in each exposure, relative to nominal."""
        settings, at = self.config.lamp, self.config.lamp.photodiode_step_at
        return projector.photodiode_response(
            self._random("photodiode"),
            np.array([exposure.phase for exposure in self.exposures]),
            np.array([exposure.kind != "scan" if at == "pointings" else exposure.phase >= at for exposure in self.exposures]),
            drift=self._size("photodiode_drift", settings.photodiode_drift),
            walk=self._size("photodiode_walk", settings.photodiode_walk),
            step=self._size("photodiode_step", settings.photodiode_step),
        )

    def _weather(self) -> FloatArray:
        """Return the coefficients of the weather's patterns in each exposure."""
        return weather_series(
            self._random("weather"),
            np.array([self._seconds(exposure) for exposure in self.exposures]),
            rms=self._size("weather", self.config.weather.rms),
            correlation_s=self.config.weather.correlation_s,
        )

    def _seconds(self, exposure: PlannedExposure) -> float:
        """Return the time since the first exposure, s."""
        return (exposure.end - self.exposures[0].end).total_seconds()

    def _exposure_truth(self, exposure: PlannedExposure, photodiode_response: float, weather: tuple[float, ...]) -> ExposureTruth:
        settings, rng = self.config.lamp, self._random("lamp", *exposure.identity)
        relative_light = projector.light(
            rng,
            self._random("lamp phase", exposure.led).uniform(0, 2 * np.pi),
            phase=exposure.phase,
            instability=self._size("led_instability", settings.led_instability),
            drift=self._size("led_drift", settings.led_drift),
        )
        reading = projector.photodiode_reading(
            rng,
            relative_light * photodiode_response,
            nominal=projector.PHOTODIODE[exposure.led],
            noise=self._size("photodiode_noise", settings.photodiode_noise),
        )
        place = self.stage.lamp(exposure.commanded, self._random("stage", exposure.kind, exposure.target, exposure.point))
        return ExposureTruth(
            electrons=settings.electrons * relative_light,
            photodiode=reading,
            photodiode_response=photodiode_response,
            lamp=place,
            recorded=self.stage.record(exposure.commanded, place, self._random("readback", *exposure.identity)),
            beam_centre=self.stage.beam_centre(place),
            weather=weather,
            sensor_temperature=self._sensor_temperature(exposure),
        )

    def _sensor_temperature(self, exposure: PlannedExposure) -> float:
        """Return the temperature of the sensors, deg C."""
        return float(self._random("sensor temperature", *exposure.identity).normal(-98.95, 0.03))

    def board_temperature(self, detector: Detector, exposure: PlannedExposure) -> float:
        """Return the temperature of a detector's readout board above its reference, deg C."""
        settings = self.config.electronics
        phase = self._random("board phase", *electronics.board_of(detector)).uniform(0, 2 * np.pi)
        amplitude = self._size("temperature_drift", settings.temperature_amplitude)
        return float(amplitude * np.sin(2 * np.pi * self._seconds(exposure) / settings.temperature_period_s + phase))

    def board_coefficient(self, detector: Detector) -> float:
        """Return the relative change of the counts of a detector per deg C of its readout board."""
        settings, rng = self.config.electronics, self._random("board coefficient", *electronics.board_of(detector))
        return float(settings.temperature_coefficient + settings.temperature_coefficient_rms * rng.standard_normal())

    def counts_factor(self, detector: Detector, exposure: PlannedExposure) -> float:
        """Return the counts of a detector over those at the reference temperature of its board in the middle of the campaign."""
        rms = self._size("board_drift", self.config.electronics.board_drift)
        drift = rms * self._random("board drift", *electronics.board_of(detector)).standard_normal() * (exposure.phase - 0.5)
        warming = self.board_coefficient(detector) * self.board_temperature(detector, exposure)
        return float((1.0 + warming) * (1.0 + drift))

    def beam(self, led: str) -> BeamTruth:
        """Return the beam of an LED."""
        return self._beams[led]

    def _make_beam(self, led: str) -> BeamTruth:
        beam, shape = self.config.beam, self._random("beam shape", led)
        try:
            return BeamTruth(
                self._random("beam structure", led),
                edge=beam.edge,
                corner=beam.corner,
                half_window=beam.half_window_mm,
                size=float(1.0 + beam.led_size_rms * shape.standard_normal()),
                ellipticity=float(beam.ellipticity * shape.uniform(-1, 1)),
                ring_radius=beam.ring_radius_mm,
                ring_break=self._size("ring", beam.ring_break_per_mm),
                structure_rms=self._size("structure", beam.structure_rms),
                structure_sigma=beam.structure_sigma_mm,
            )
        except ValueError as error:
            raise ConfigError(str(error), remedy="change simulate.beam.edge and simulate.beam.corner") from error

    def gains(self, detector: Detector) -> FloatArray:
        """Return the true gains of a detector's amplifiers, electrons per adu."""
        nominal = np.array([amplifier.gain for amplifier in detector.amplifiers])
        scatter = self._random("gain", detector.name).standard_normal(nominal.size)
        return np.asarray(nominal * (1.0 + self._size("gain_scatter", self.config.electronics.gain_rms) * scatter))

    def gain_steps(self, detector: Detector) -> FloatArray:
        """Return the relative gain step of each amplifier of a detector during the campaign, 0 for most."""
        return self._gain_steps.get(detector.name, np.zeros(len(detector.amplifiers)))

    def is_after_gain_steps(self, exposure: PlannedExposure) -> bool:
        """Return whether an exposure is taken after the gain steps."""
        return exposure.phase >= self.config.gain_steps.at

    def gains_in(self, detector: Detector, exposure: PlannedExposure) -> FloatArray:
        """Return the gains of a detector's amplifiers in an exposure, including board temperature and steps."""
        steps = self.gain_steps(detector) if self.is_after_gain_steps(exposure) else 0.0
        return np.asarray(self.gains(detector) * (1.0 + steps) / self.counts_factor(detector, exposure))

    def electronics(self, detector: Detector) -> Electronics:
        """Return the amplifiers of a detector."""
        settings, effects, amplifiers = self.config.electronics, self.config.effects, detector.amplifiers
        count = len(amplifiers)
        noise = np.array([amplifier.read_noise for amplifier in amplifiers])
        noise = noise * (1.0 + settings.read_noise_rms * self._random("read noise", detector.name).standard_normal(count))
        wells = np.array([amplifier.saturation for amplifier in amplifiers])
        scatter = self._random("linearity", detector.name).standard_normal(count)
        bend = (settings.curvature + settings.curvature_rms * scatter) / settings.curvature_level_adu
        coupling = electronics.crosstalk_matrix(
            detector,
            self._random("crosstalk", detector.name),
            coefficient=settings.crosstalk,
            rms=settings.crosstalk_rms,
        )
        tail = settings.deferred_fraction * np.exp(-np.arange(_DEFERRED_PIXELS) / settings.deferred_pixels)
        return Electronics(
            gain=self.gains(detector),
            read_noise=noise if effects.read_noise else np.zeros(count),
            full_well=wells if effects.saturation else np.full(count, np.inf),
            curvature=bend if effects.nonlinearity else np.zeros(count),
            crosstalk=coupling if effects.crosstalk else np.zeros((count, count)),
            bias=self._bias(detector),
            deferred=tail if effects.deferred_charge else np.zeros(0),
        )

    def _bias(self, detector: Detector) -> Float32Array:
        settings, rng = self.config.electronics, self._random("bias", detector.name)
        levels = settings.bias_level_adu + settings.bias_level_rms_adu * rng.standard_normal(len(detector.amplifiers))
        size = self._size("bias_structure", settings.bias_structure_adu)
        first = detector.amplifiers[0]
        bias = np.empty((len(detector.amplifiers), first.ny_raw, first.nx_raw), dtype=np.float32)
        for number, amplifier in enumerate(detector.amplifiers):
            bias[number] = np.float32(levels[number]) + electronics.bias_pattern(amplifier, rng, size=size)
        return bias


@dataclass(frozen=True)
class BenchRecipe:
    """The inputs of a bench: a small object from which every worker process builds its own bench."""

    config: SimulateConfig

    def build(self) -> Bench:
        """Return the bench."""
        return Bench(self.config)


@lru_cache(maxsize=2)
def bench_of(recipe: BenchRecipe) -> Bench:
    """Return the bench of a recipe, built once per process."""
    return recipe.build()


class ExposedDetector:
    """One detector on the bench, with everything that is the same in all exposures.

    Parameters
    ----------
    bench
        The truth.
    detector
        The detector.
    scales
        Median response for each LED, the scale of composite flats.
    """

    def __init__(self, bench: Bench, detector: Detector, scales: dict[str, float]) -> None:
        self._bench = bench
        self._detector = detector
        self._scales = scales
        self._electronics = bench.electronics(detector)
        hot_places, self._hot_rates = bench.sensors.hot_pixels(detector)
        self._hot = self._places(*hot_places)
        self._unstable, self._unstable_rms = self._pixels_of("unstable")
        self._nonlinear, self._nonlinear_loss = self._pixels_of("nonlinear")
        self._repulsion = strength(bench.config.sensor.brighter_fatter) if bench.config.effects.brighter_fatter else 0.0
        self._lit: tuple[str, Position] | None = None
        self._light = np.empty(0, dtype=np.float32)
        self._flat_led = ""
        self._flat = np.empty(0, dtype=np.float32)

    def raw_segments(self, exposure: PlannedExposure, truth: ExposureTruth) -> Int32Array:
        """Return the raw segments of one exposure, shape (n, ny_raw, nx_raw)."""
        config, detector, amplifiers = self._bench.config, self._detector, self._electronics
        names = (detector.name, *exposure.identity)
        state = normal_state(config.seed, "pixels", *names)
        rng = generator(config.seed, "readout", *names)
        light = self._illuminate(exposure, truth)
        if truth.electrons and any(truth.weather):
            light = light * self._weather(truth)
        light = self._with_jumps(light, names)
        counts = np.empty_like(light)
        gain = self._bench.gains_in(detector, exposure)
        # Photon noise is normal of variance equal to the mean: after the read noise indistinguishable from that of Poisson.
        kernels.draw_charge(light, truth.electrons, self._dark(exposure, rng, light.shape), state, counts)
        counts[self._nonlinear] *= 1 - self._nonlinear_loss * counts[self._nonlinear] / np.float32(REFERENCE_ELECTRONS)
        if self._repulsion:
            self._repel(counts)
        kernels.convert_charge(counts, amplifiers.full_well, gain, amplifiers.curvature)
        settings = config.electronics
        drifts = (settings.offset_drift_adu, settings.row_drift_adu) if config.effects.offset_drift else (0.0, 0.0)
        return digitise(counts, amplifiers, gain, detector.amplifiers[0].prescan, drifts, rng, state)

    def _pixels_of(self, kind: str) -> tuple[tuple[IntArray, ...], Float32Array]:
        """Return the places in raw segments of the single-pixel defects of a kind, and their strengths."""
        own = [defect for defect in self._bench.sensors.defects(self._detector) if defect.kind == kind]
        rows, columns = (np.array([getattr(defect, axis) for defect in own], dtype=np.int64) for axis in ("y", "x"))
        return self._places(rows, columns), np.array([defect.strength for defect in own], dtype=np.float32)

    def _with_jumps(self, light: Float32Array, names: tuple[str | int, ...]) -> Float32Array:
        """Return the light with that of unstable pixels at one of their two levels."""
        if not self._unstable_rms.size:
            return light
        signs = generator(self._bench.config.seed, "unstable", *names).choice(
            np.array([-1, 1], dtype=np.float32), self._unstable_rms.size
        )
        light = light.copy()
        light[self._unstable] *= 1 + signs * self._unstable_rms
        return light

    def _repel(self, charge: Float32Array) -> None:
        """Apply the brighter-fatter effect to the charge in raw segments, in place, across the borders of amplifiers as well."""
        image = np.empty(self._detector.shape, dtype=np.float32)
        for amplifier, segment in zip(self._detector.amplifiers, charge, strict=True):
            image[amplifier.slices] = frames.place_segment(amplifier, segment)
        repel_charge(image, self._repulsion)
        charge[:] = self._segments(image)

    def _illuminate(self, exposure: PlannedExposure, truth: ExposureTruth) -> Float32Array:
        """Return beam times flat in raw segments; images of one pointing share it."""
        key = (exposure.led, truth.beam_centre) if truth.electrons else ("", (0.0, 0.0))
        if key != self._lit:
            if truth.electrons:
                beam = self._bench.beam(exposure.led).on_detector(self._detector, truth.beam_centre)
                self._light = self._segments(np.multiply(beam, self._flat_of(exposure.led), out=beam))
            else:
                first = self._detector.amplifiers[0]
                self._light = np.zeros((len(self._detector.amplifiers), first.ny, first.nx), dtype=np.float32)
            self._lit = key
        return self._light

    def _weather(self, truth: ExposureTruth) -> Float32Array:
        """Return the factor of the light in raw segments."""
        window = self._bench.config.beam.half_window_mm
        return self._segments(weather_on_detector(truth.weather, self._detector, truth.beam_centre, half_window=window))

    def _flat_of(self, led: str) -> Float32Array:
        if led != self._flat_led:
            self._flat = self._bench.sensors.response(self._detector, led)
            self._flat /= np.float32(self._scales[led])
            self._flat_led = led
        return self._flat

    def _dark(self, exposure: PlannedExposure, rng: np.random.Generator, shape: tuple[int, ...]) -> Float32Array:
        """Return electrons without light, in raw segments."""
        config, seconds = self._bench.config, dark_time(exposure)
        rate = config.sensor.dark_current if config.effects.dark_current else 0.0
        dark = np.full(shape, rate * seconds, dtype=np.float32)
        np.add.at(dark, self._hot, self._hot_rates * seconds)
        if config.effects.cosmic_rays:
            # On average a pixel waits for half of the readout.
            rays = cosmic_rays(
                self._detector, rng, rate=config.electronics.cosmic_ray_rate, seconds=seconds + READOUT_SECONDS / 2
            )
            if rays:
                rows, columns, electrons = (np.array(column) for column in zip(*rays, strict=True))
                np.add.at(dark, self._places(rows, columns), electrons)
        return dark

    def _segments(self, image: Float32Array) -> Float32Array:
        """Return a detector array as trimmed raw segments, shape (n, ny, nx) of a segment."""
        return np.stack([frames.take_segment(amplifier, image) for amplifier in self._detector.amplifiers])

    def _places(self, rows: IntArray, columns: IntArray) -> tuple[IntArray, ...]:
        """Return amplifier, row and column in the trimmed raw segments of detector pixels."""
        owners = frames.amplifier_at(self._detector, columns, rows)
        places = [
            frames.detector_to_segment(self._detector.amplifiers[owner], column, row)
            for owner, row, column in zip(owners, rows, columns, strict=True)
        ]
        column_row = np.array(places, dtype=np.int64).reshape(-1, 2)
        return owners, column_row[:, 1], column_row[:, 0]
