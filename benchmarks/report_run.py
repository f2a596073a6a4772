"""Write the products of a focal plane with the writers of the products, and time the report on them: pages per second, size of the index.

python benchmarks/report_run.py FOLDER [--leds N] [--camera lsstcam-bin8] [--workers N]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from astropy.table import Table

from permil.camera import Camera, Detector, frames, load_camera
from permil.engine import LocalProcesses, session
from permil.products import write_table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "report"))

import synthetic_run

LEDS = ("uv", "blue", "red", "nm750", "nm850", "nm960")
_NAMES = ("obsid", "detector", "led", "purpose", "photodiode", "x_mm", "y_mm", "mjd")


def campaign(detectors: list[Detector], leds: tuple[str, ...]) -> Table:
    """Return an index: a scan that nine detectors watch, and three pointings at each detector, read by it alone."""
    rows, mjd = [], 59000.0
    for led in leds:
        places = [("scan", x, y, detectors[:9]) for x in np.linspace(-300, 300, 12) for y in np.linspace(-300, 300, 12)]
        for detector in detectors:
            x, y = frames.detector_to_ccs(detector, *detector.centre_pixel)
            places += [("pointing", float(x) + dx, float(y), [detector]) for dx in (-10.0, 0.0, 10.0)]
        for number, (purpose, x, y, readers) in enumerate(places):
            mjd += 30 / 86400
            rows += [(f"{led}{number:04d}", each.name, led, purpose, 4.2, x, y, mjd) for each in readers]
    return Table(rows=rows, names=_NAMES)


def write_products(root: Path, camera: Camera, leds: tuple[str, ...], count: int) -> synthetic_run.SyntheticRun:
    """Write flats of ``count`` detectors and all LEDs, without truth."""
    detectors = list(camera.science)[:count]
    written = synthetic_run.write_run(root, camera, leds=leds, detectors=[each.name for each in detectors], has_truth=False)
    write_table(written.folder.exposures, campaign(detectors, leds))
    return written


def main() -> None:
    """Write what is not there, make the report, print its costs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--leds", type=int, default=1)
    parser.add_argument("--detectors", type=int, default=189)
    parser.add_argument("--camera", default="lsstcam-bin8")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    camera, leds, root = load_camera(options.camera), LEDS[: options.leds], options.folder
    if not root.exists():
        write_products(root, camera, leds, options.detectors)
    config = synthetic_run.Config(camera=camera.name, output=root)
    folder = synthetic_run.RunFolder(root)
    begin = time.perf_counter()
    with session(LocalProcesses(options.workers)) as opened:
        synthetic_run.make_pages(config, camera, folder)
        for record in opened.take_records():
            spent = sum(measure.cpu_seconds for measure in record.measures)
            print(f"{record.description}: {len(record.measures)} calls, {spent:.1f} processor seconds")
    print(f"{time.perf_counter() - begin:.1f} s, index {folder.report.stat().st_size / 1e6:.2f} MB")
    pages = list((folder.report.parent / "detectors").rglob("*.html"))
    print(f"{sum(page.stat().st_size for page in pages) / 1e6 / max(len(pages), 1):.3f} MB a page")


if __name__ == "__main__":
    main()
