"""Exposures of one detector: from the truth of the bench to raw segments."""

from __future__ import annotations

import numpy as np

from permil.arrays import FloatImage, IntArray, IntegerImage
from permil.camera import Detector, frames
from permil.simulate.bench import Bench, ExposureTruth
from permil.simulate.brighter_fatter import repel_charge, strength
from permil.simulate.campaign import READOUT_SECONDS, PlannedExposure, Position
from permil.simulate.defects import REFERENCE_ELECTRONS
from permil.simulate.electronics import convert_charge, cosmic_rays, digitise, draw_charge
from permil.simulate.headers import dark_time
from permil.simulate.projector import weather_on_detector
from permil.simulate.randoms import generator, normal_state


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

    def raw_segments(self, exposure: PlannedExposure, truth: ExposureTruth) -> IntegerImage:
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
        draw_charge(light, truth.electrons, self._dark(exposure, rng, light.shape), state, counts)
        counts[self._nonlinear] *= 1 - self._nonlinear_loss * counts[self._nonlinear] / np.float32(REFERENCE_ELECTRONS)
        if self._repulsion:
            self._repel(counts)
        convert_charge(counts, amplifiers.full_well, gain, amplifiers.curvature)
        settings = config.electronics
        drifts = (settings.offset_drift_adu, settings.row_drift_adu) if config.effects.offset_drift else (0.0, 0.0)
        return digitise(counts, amplifiers, gain, detector.amplifiers[0].prescan, drifts, rng, state)

    def _pixels_of(self, kind: str) -> tuple[tuple[IntArray, ...], FloatImage]:
        """Return the places in raw segments of the single-pixel defects of a kind, and their strengths."""
        own = [defect for defect in self._bench.sensors.defects(self._detector) if defect.kind == kind]
        rows, columns = (np.array([getattr(defect, axis) for defect in own], dtype=np.int64) for axis in ("y", "x"))
        return self._places(rows, columns), np.array([defect.strength for defect in own], dtype=np.float32)

    def _with_jumps(self, light: FloatImage, names: tuple[str | int, ...]) -> FloatImage:
        """Return the light with that of unstable pixels at one of their two levels."""
        if not self._unstable_rms.size:
            return light
        signs = generator(self._bench.config.seed, "unstable", *names).choice(
            np.array([-1, 1], dtype=np.float32), self._unstable_rms.size
        )
        light = light.copy()
        light[self._unstable] *= 1 + signs * self._unstable_rms
        return light

    def _repel(self, charge: FloatImage) -> None:
        """Apply the brighter-fatter effect to the charge in raw segments, in place, across the borders of amplifiers as well."""
        image = np.empty(self._detector.shape, dtype=np.float32)
        for amplifier, segment in zip(self._detector.amplifiers, charge, strict=True):
            image[amplifier.slices] = frames.place_segment(amplifier, segment)
        repel_charge(image, self._repulsion)
        charge[:] = self._segments(image)

    def _illuminate(self, exposure: PlannedExposure, truth: ExposureTruth) -> FloatImage:
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

    def _weather(self, truth: ExposureTruth) -> FloatImage:
        """Return the factor of the light in raw segments."""
        window = self._bench.config.beam.half_window_mm
        return self._segments(weather_on_detector(truth.weather, self._detector, truth.beam_centre, half_window=window))

    def _flat_of(self, led: str) -> FloatImage:
        if led != self._flat_led:
            self._flat = self._bench.sensors.response(self._detector, led)
            self._flat /= np.float32(self._scales[led])
            self._flat_led = led
        return self._flat

    def _dark(self, exposure: PlannedExposure, rng: np.random.Generator, shape: tuple[int, ...]) -> FloatImage:
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

    def _segments(self, image: FloatImage) -> FloatImage:
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
