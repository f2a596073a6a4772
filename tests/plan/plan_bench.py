"""A toy camera whose detectors are those of a mosaic of squares, for plans and for campaigns of arrays."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from permil.camera import Amplifier, Camera, Detector, ReferenceBox
from permil.flat.joint import DetectorSignals, ExposureList, logarithm_of
from permil.plan.positions import planned_points
from permil.plan.prediction import cell_places, plateau

SIDE = 160
PIXEL_MM = 0.1
PITCH_MM = 16.5


def toy_camera(columns=3, rows=3, *, read_noise=0.0):
    """Rafts R00, R01 ... along CCS X, each one column of detectors S00, S01 ... along CCS Y."""
    amplifier = Amplifier(
        name="C10", number=1, extname="Segment10", prescan=0, nx=SIDE, ny=SIDE, serial_overscan=0, parallel_overscan=0, x_min=0,
        y_min=0, flip_x=False, flip_y=False, detector_shape=(SIDE, SIDE), gain=1.0, read_noise=read_noise, saturation=1e5,
    )  # fmt: skip
    detectors = {}
    for column in range(columns):
        for row in range(rows):
            x, y = PITCH_MM * (column - (columns - 1) / 2), PITCH_MM * (row - (rows - 1) / 2)
            name = f"R0{column}_S0{row}"
            detectors[name] = Detector(
                name=name, id=len(detectors), kind="science", layout="toy", vendor="toy", serial="", raft_serial="", reb=f"Reb{row}",
                nx=SIDE, ny=SIDE, pixel_mm=PIXEL_MM, centre_dvcs=(y, x), reference_pixel=((SIDE - 1) / 2, (SIDE - 1) / 2), yaw_deg=0,
                z_mm=0.0, amplifiers=(amplifier,),
            )  # fmt: skip
    middle = f"R0{columns // 2}_S0{rows // 2}"
    reference = ReferenceBox(detector=middle, amp="C10", row=80, column=80, box=30)
    return Camera("toy", "toy", PIXEL_MM, 0.0, 0.0, reference, detectors)


def planned_positions(plan, camera):
    return [point.position for point in planned_points(plan, camera)]


def carry_out(positions, camera, rng, *, electrons=3e4, photodiode_noise=2e-3, fwhm=140.0, drift=0.0, cells=16):
    """Take the images of a plan: signals of super-pixels, an uneven beam, a photodiode with noise and drift; and the true response."""
    images = np.repeat(np.arange(len(positions)), [position.images for position in positions])
    x, y = (np.array([getattr(positions[number], name) for number in images]) for name in ("x_mm", "y_mm"))
    log_scale = 1e-3 * rng.standard_normal(images.size)
    reading = log_scale + photodiode_noise * rng.standard_normal(images.size)
    exposures = ExposureList(x, y, reading + drift, np.arange(images.size, dtype=float))
    structure = gaussian_filter(rng.standard_normal((200, 200)), 4.0, mode="wrap")
    structure *= 3e-3 / structure.std()
    detectors, responses = [], {}
    for detector in camera.science:
        seen = np.array([number for number, image in enumerate(images) if detector.name in positions[image].read])
        place_x, place_y = cell_places(detector, cells)
        ux, uy = place_x - x[seen, None], place_y - y[seen, None]
        response = 0.01 * rng.standard_normal(cells**2)
        uneven = map_coordinates(structure, np.array([ux, uy]) / 1.5 + 100, order=3, mode="grid-wrap")
        log_mean = np.log(plateau(fwhm)(ux, uy)) + uneven + log_scale[seen, None] + response
        mean = electrons * (SIDE / cells) ** 2 * np.exp(log_mean)
        signal = mean + np.sqrt(mean) * rng.standard_normal(mean.shape)
        detectors.append(DetectorSignals(detector.name, place_x, place_y, seen, *logarithm_of(signal, mean)))
        responses[detector.name] = response
    return exposures, detectors, responses


def random_places(seed, count, half_width):
    return [tuple(float(x) for x in place) for place in np.random.default_rng(seed).uniform(-half_width, half_width, (count, 2))]
