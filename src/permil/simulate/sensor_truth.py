"""The true response of all sensors of the bench, and their defects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from permil.camera import Camera, Detector
from permil.config.simulate import SimulateConfig
from permil.products import MaskPlane
from permil.simulate import sensor
from permil.simulate.randoms import generator


class SensorTruth:
    """Response, defects and masks of the sensors of a camera, as a configuration and its seed make them."""

    def __init__(self, config: SimulateConfig, camera: Camera) -> None:
        self._config = config
        self._camera = camera

    def _random(self, *names: str | int) -> np.random.Generator:
        return generator(self._config.seed, *names)

    def response(self, detector: Detector, led: str) -> NDArray[np.float32]:
        """Return the response of a detector, before it is put on the composite scale, shape (ny, nx)."""
        settings = self._config.sensor
        patterns = self._patterns(detector, led)
        mean = self._mean_response(detector, led)
        common, own = self._random("prnu", detector.name), self._random("prnu", detector.name, led)
        response = np.empty(detector.shape, dtype=np.float32)
        for rows in sensor.strips(detector):
            response[rows] = mean * sensor.evaluate(detector, rows, patterns)
            if self._config.effects.prnu:
                response[rows] *= sensor.pixel_response(
                    response[rows].shape, common, own, rms=settings.prnu_rms, correlation=settings.prnu_correlation
                )
        for rows, columns, left in self.bad_columns(detector):
            response[rows, columns] *= np.float32(left)
        return response

    def _mean_response(self, detector: Detector, led: str) -> float:
        if not self._config.effects.detector_response:
            return 1.0
        common, own = self._random("response", detector.name), self._random("response", detector.name, led)
        return sensor.detector_response(detector.vendor, led, common, own, rms=self._config.sensor.detector_rms)

    def _patterns(self, detector: Detector, led: str) -> list[sensor.Pattern]:
        settings, effects, name = self._config.sensor, self._config.effects, detector.name
        patterns: list[sensor.Pattern] = []
        if effects.response_gradient:
            patterns.append(sensor.smooth_gradient(detector, self._random("gradient", name), rms=settings.gradient_rms))
        if effects.tree_rings:
            rms = settings.tree_ring_rms * sensor.TREE_RING_FACTOR[led]
            patterns.append(sensor.tree_rings(detector, self._random("rings", name), rms=rms, width=settings.tree_ring_width_mm))
        if effects.edge_rolloff:
            patterns.append(sensor.edge_rolloff(detector, depth=settings.edge_depth, scale=settings.edge_scale_mm))
        if effects.midline:
            patterns.append(sensor.midline_loss(detector, depth=settings.midline_depth, scale=settings.midline_scale_mm))
        if effects.dust and settings.dust_spots:
            rng = self._random("dust", name)
            patterns.append(sensor.dust_shadows(detector, rng, spots=settings.dust_spots, depth=settings.dust_depth))
        if effects.annealing and led in sensor.ANNEALING_FACTOR:
            amplitude = settings.annealing_amplitude * sensor.ANNEALING_FACTOR[led]
            rng = self._random("annealing", name)
            patterns.append(sensor.annealing_pattern(rng, amplitude=amplitude, period=settings.annealing_period_mm))
        return patterns

    def bad_columns(self, detector: Detector) -> list[tuple[slice, slice, float]]:
        """Return the bad columns of a detector: rows, columns, and the response that is left."""
        count = self._config.sensor.bad_columns if self._config.effects.bad_columns else 0
        return sensor.bad_columns(detector, self._random("bad columns", detector.name), count=count)

    def hot_pixels(self, detector: Detector) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return rows and columns, shape (2, n), of the hot pixels of a detector, and their electrons per s."""
        count = self._config.sensor.hot_pixels if self._config.effects.hot_pixels else 0
        rng = self._random("hot pixels", detector.name)
        return sensor.hot_pixels(detector, rng, count=count, rate=self._config.sensor.hot_pixel_rate)

    def mask(self, detector: Detector) -> NDArray[np.int32]:
        """Return the true mask of a detector: BAD, EDGE and MIDLINE, shape (ny, nx)."""
        mask = np.zeros(detector.shape, dtype=np.int32)
        edge = int(np.ceil(self._camera.edge_mm / detector.pixel_mm))
        mask[:edge] = mask[-edge:] = MaskPlane.EDGE
        mask[:, :edge] = mask[:, -edge:] = MaskPlane.EDGE
        middle = int(np.ceil(self._camera.midline_mm / detector.pixel_mm))
        for border in {amplifier.y_min for amplifier in detector.amplifiers} - {0}:
            mask[border - middle : border + middle] |= MaskPlane.MIDLINE
        for rows, columns, _ in self.bad_columns(detector):
            mask[rows, columns] |= MaskPlane.BAD
        (rows_hot, columns_hot), _ = self.hot_pixels(detector)
        mask[rows_hot, columns_hot] |= MaskPlane.BAD
        return mask
