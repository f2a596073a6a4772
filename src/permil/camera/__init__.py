"""Where a pixel is: focal plane, detectors, amplifiers and frames. Facts live in ``permil/cameras/*.yaml``."""

from permil.camera.camera import Camera
from permil.camera.load import camera_names, load_camera, shared_camera
from permil.camera.model import Amplifier, Detector, ReferenceBox
from permil.camera.names import detector_key, is_bay_and_slot

__all__ = [
    "Amplifier",
    "Camera",
    "Detector",
    "ReferenceBox",
    "camera_names",
    "detector_key",
    "is_bay_and_slot",
    "load_camera",
    "shared_camera",
]
