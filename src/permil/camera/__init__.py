"""Where a pixel is: focal plane, detectors, amplifiers and frames. Facts live in ``permil/cameras/*.yaml``."""

from permil.camera.load import camera_names, load_camera, shared_camera
from permil.camera.model import Amplifier, Camera, Detector, ReferenceBox

__all__ = ["Amplifier", "Camera", "Detector", "ReferenceBox", "camera_names", "load_camera", "shared_camera"]
