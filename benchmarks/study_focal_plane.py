"""Levels and gradients of all detectors of a focal plane against the truth, from simulated raw files with one image per pointing.

``python benchmarks/study_focal_plane.py --seeds 93101-93105 --work FOLDER`` simulates and reduces one campaign of 189 CCDs per seed (3,267
files of one LED, 12 GB, deleted afterwards; some seven processor minutes each) and prints chi-square with its degrees of freedom.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

from scipy import stats

from permil.camera import load_camera
from permil.config import load_config
from permil.pipeline import run_pipeline
from permil.products import RunFolder
from permil.simulate.stage import simulate_bench
from permil.truth import compare_with_truth

LED, CAMERA, SUPER_PIXEL_MM = "red", "lsstcam-bin8", 0.64
STAGES = ("index", "isr", "beam", "flat")


def main() -> None:
    """Simulate, reduce, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="93101-93105", help="first and last seed")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--keep", action="store_true", help="keep raw files and products")
    options = parser.parse_args()
    first, last = (int(number) for number in options.seeds.split("-"))
    chi_square, freedom = 0.0, 0
    for seed in range(first, last + 1):
        work, begin = options.work / str(seed), time.process_time()
        found = study_seed(work, seed)
        print(f"{seed}: {text_of(*found)}, {time.process_time() - begin:.0f} processor s", flush=True)
        chi_square, freedom = chi_square + found[0], freedom + found[1]
        if not options.keep:
            shutil.rmtree(work)
    print(f"together: {text_of(chi_square, freedom)}")


def study_seed(work: Path, seed: int) -> tuple[float, int]:
    """Simulate and reduce one campaign; return chi-square of the levels and gradients of all detectors, and its degrees of freedom."""
    work.mkdir(parents=True, exist_ok=True)
    settings = work / "simulate.yaml"
    campaign = {"preset": "focal-plane", "light": True, "seed": seed, "leds": [LED]}
    settings.write_text(json.dumps({"camera": CAMERA, "simulate": campaign, "output": str(work)}))
    simulate_bench(load_config(settings).simulate, work, workers=1)
    run_pipeline(load_config(work / "config.yaml", ["pipeline.workers=1"]), stages=STAGES)
    together = compare_with_truth(RunFolder(work), load_camera(CAMERA), super_pixel_mm=SUPER_PIXEL_MM).meta["planes"][LED]
    return float(together["chi_square"]), int(together["freedom"])


def text_of(chi_square: float, freedom: int) -> str:
    """Return chi-square, degrees of freedom and p-value."""
    return f"chi-square {chi_square:.1f} of {freedom}, p = {stats.chi2.sf(chi_square, freedom):.2g}"


if __name__ == "__main__":
    main()
