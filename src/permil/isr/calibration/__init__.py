"""Calibration of a detector: gains, linearity, crosstalk, masks and superbias, read from files or measured."""

from permil.isr.calibration.calibration import Calibration, Superbias

__all__ = ["Calibration", "Superbias"]
