"""What the measured 16-amplifier scan prefers, from an independent Gaussian process fit of the two main models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from scipy import linalg

from permil.camera import frames, load_camera

LENGTH_MM = 15.0


@pytest.fixture(scope="module")
def scan(shared_data: Path):
    table = Table.read(shared_data / "ccob_scan_red_12x12_16amps.ecsv")
    detector = load_camera("lsstcam")["R22_S11"]
    pixels = [frames.segment_to_detector(detector.amplifier(number), 256, 1000) for number in range(1, 17)]
    places = np.array([frames.detector_to_ccs(detector, *pixel) for pixel in pixels])
    amplifier = np.asarray(table["amp"]) - 1
    projector = np.column_stack([table["x_mm"], table["y_mm"]])
    return np.log(np.asarray(table["signal"])), (places - places.mean(axis=0))[amplifier], projector, amplifier


def left_over(scan, signs):
    """Rms of the residual of a sum of Gaussian processes of ``sign * place - projector``, a gain for each amplifier."""
    logarithm, place, projector, amplifier = scan
    covariance = 6e-4**2 * np.eye(len(logarithm))
    for sign in signs:
        u = sign * place - projector
        distance = np.sqrt(3.0) * np.sqrt(((u[:, None] - u) ** 2).sum(axis=2)) / LENGTH_MM
        covariance += 0.05**2 * (1 + distance) * np.exp(-distance)
    gains = np.eye(16)[amplifier]
    factor = linalg.cho_factor(covariance)
    projected = linalg.cho_solve(factor, np.column_stack([gains, logarithm]))
    gain = np.linalg.solve(gains.T @ projected[:, :-1], gains.T @ projected[:, -1])
    weighted = projected[:, -1] - projected[:, :-1] @ gain
    return np.sqrt(np.mean((6e-4**2 * weighted) ** 2))


def test_the_scan_wants_an_upright_beam_and_a_reflected_pattern(scan):
    upright, reversed_, both = left_over(scan, [1]), left_over(scan, [-1]), left_over(scan, [1, -1])
    assert upright < 0.5 * reversed_
    assert both < 0.1 * upright
    assert both < 6e-4
