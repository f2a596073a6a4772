"""Camera geometry: focal plane, detectors, amplifiers and coordinate frames, read from ``permil/cameras/*.yaml``."""

from permil.camera.load import camera_names, load_camera, shared_camera
from permil.camera.model import Amplifier, Camera, Detector, Led, ReferenceBox, detector_key, is_bay_and_slot

__all__ = [
    "Amplifier",
    "Camera",
    "Detector",
    "Led",
    "ReferenceBox",
    "camera_names",
    "detector_key",
    "is_bay_and_slot",
    "load_camera",
    "shared_camera",
]
