"""What a run will need, said before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from permil.camera import Camera
from permil.config import Config
from permil.errors import OutputError
from permil.exposures import BIAS, POINTING, SCAN, Index
from permil.products import RunFolder


def estimate(config: Config, camera: Camera, folder: RunFolder, index: Index, *, workers: int) -> str:
    """Return what the run will need; see that the disk has it.

    Raises
    ------
    OutputError
        If the disk cannot hold the products.
    """
    pointings, scans, biases = (index.select(purpose=purpose) for purpose in (POINTING, SCAN, BIAS))
    flats = {(str(row["led"]), str(row["detector"])) for row in pointings}
    aimed = {
        (str(row["led"]), str(row["detector"]), int(row["position_id"])) for row in pointings if row["aimed"] == row["detector"]
    }
    images = len(flats) + len(set(biases["detector"])) + (len(aimed) if config.flat.keep_pointings else 0)
    pixels = max((detector.nx * detector.ny for detector in camera.detectors.values()), default=0)
    need = 12.5 * pixels * images
    free = shutil.disk_usage(_existing(folder.root)).free
    if need > free:
        raise OutputError(
            f"the products need about {need / 1e9:.0f} GB, the disk has {free / 1e9:.0f} GB free",
            path=folder.root,
            remedy="choose another output folder, fewer detectors (flat.detectors), or set flat.keep_pointings=false",
            value=need,
            allowed=free,
        )
    # Measured on two cores of 2 to 3 GHz: a fixed cost per file and a cost per pixel.
    per_file = 0.01 + 4e-8 * pixels
    seconds = (per_file * (len(pointings) + len(biases)) + 0.02 * len(scans)) / workers + 0.5 * len(flats)
    return f"this run will take about {_duration(seconds)} and {max(need, 1e6) / 1e9:.2g} GB of disk, if nothing is there yet"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
