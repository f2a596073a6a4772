"""Raw counts to electrons on the detector: overscan, superbias, crosstalk, linearity, gain, masks, stacks."""

from permil.isr.box import BoxSignal, measure_box
from permil.isr.calibration.calibration import Calibration, Superbias
from permil.isr.calibration.gains import Gains
from permil.isr.calibration.linearity import LinearityCurve
from permil.isr.overscan import Overscan, OverscanOptions, measure_overscan
from permil.isr.photodiode import LeftOut, PhotodiodeSelection, photodiode_scale, select_by_photodiode
from permil.isr.reduce import DetectorImage, reduce_file
from permil.isr.stack import Stack, frame_light

__all__ = [
    "BoxSignal",
    "Calibration",
    "DetectorImage",
    "Gains",
    "LeftOut",
    "LinearityCurve",
    "Overscan",
    "OverscanOptions",
    "PhotodiodeSelection",
    "Stack",
    "Superbias",
    "frame_light",
    "measure_box",
    "measure_overscan",
    "photodiode_scale",
    "reduce_file",
    "select_by_photodiode",
]
