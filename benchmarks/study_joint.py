"""The joint solution against the truth, from raw files: prints the tables of docs/theory/joint.md.

Campaigns of the preset ``mini`` (12 x 12 scan and pointings of one raft, binned by 8) with 2 per mil photodiode noise are simulated,
reduced by both solvers and compared with the true flats. ``aligned`` has the preset's stage; ``misaligned`` a stage offset of (5, -7) mm,
2 mrad rotation and 10 um jitter that no header records; ``drift`` a photodiode that drifts by 2 per mil during the campaign.

    OMP_NUM_THREADS=1 python benchmarks/study_joint.py --case aligned --seeds 2001-2010 --work FOLDER
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from permil.camera import Detector, load_camera
from permil.config import Config, load_config
from permil.exposures.files import read_index
from permil.flat.difference import difference_of_products
from permil.flat.superpixel import block_sums, super_pixels
from permil.pipeline import run_pipeline, simulate_run
from permil.products import RunFolder, read_image, read_table
from permil.simulate.bench import Bench

FloatArray = NDArray[np.float64]

LED, SCANNED, SUPER_PIXEL_MM = "red", "R22_S11", 0.64
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "aligned": {},
    "misaligned": {"stage": {"offset_mm": [5.0, -7.0], "rotation_mrad": 2.0, "jitter_um": 10.0, "recorded": False}},
    "drift": {"lamp": {"photodiode_drift": 2e-3}},
}
NEAR_MAXIMUM = 0.9


@dataclass(frozen=True)
class DetectorFigures:
    """One flat over the truth, relative: per mil, but the ratio to the photon floor and the pulls."""

    seed: int
    case: str
    solver: str
    detector: str
    rms: float
    rms_common_scale: float
    rms_without_plane: float
    photon_floor: float
    chi_square: float
    gradient_x: float
    gradient_y: float
    gradient_x_err: float
    gradient_y_err: float


@dataclass(frozen=True)
class StageFigures:
    """What the solution says of the stage: found minus true, and the stated error."""

    seed: int
    case: str
    centre_x_um: float
    centre_x_err: float
    centre_y_um: float
    centre_y_err: float
    rotation_mrad: float
    rotation_err: float
    position_error_um: float


def main() -> None:
    """Simulate, reduce, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", choices=CASES, default="aligned")
    parser.add_argument("--seeds", default="2001-2010")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--solvers", default="joint,divide")
    options = parser.parse_args()
    first, last = (int(number) for number in options.seeds.split("-"))
    for seed in range(first, last + 1):
        for figures in study_seed(options.work / f"{options.case}_{seed}", seed, options.case, options.workers, options.solvers):
            with (options.work / f"{options.case}.jsonl").open("a") as stream:
                stream.write(json.dumps(asdict(figures)) + "\n")
    print_tables(options.work / f"{options.case}.jsonl")


def study_seed(work: Path, seed: int, case: str, workers: int, solvers: str) -> Iterator[DetectorFigures | StageFigures]:
    """Simulate one campaign and yield its figures for each solver; the raw files are deleted at the end."""
    lamp = {
        "photodiode_noise": 2e-3,
        "photodiode_drift": 0.0,
        "photodiode_walk": 0.0,
        "photodiode_step": 0.0,
        **CASES[case].get("lamp", {}),
    }
    simulate = {"preset": "mini", "seed": seed, "leds": [LED], **CASES[case], "lamp": lamp}
    common = {"camera": "lsstcam-bin8", "seed": seed, "pipeline": {"workers": workers}}
    work.mkdir(parents=True, exist_ok=True)
    settings = work / "simulate.yaml"
    settings.write_text(json.dumps({**common, "simulate": simulate, "output": str(work / "bench")}))
    planned = load_config(settings)
    simulate_run(planned)
    bench = Bench(planned.simulate)
    for solver in solvers.split(","):
        out = work / solver
        config = load_config(
            work / "bench" / "config.yaml", [f"output={out}", f"flat.solver={solver}", f"pipeline.workers={workers}"]
        )
        shutil.copytree(work / "bench" / "truth", out / "truth", dirs_exist_ok=True)
        run_pipeline(config, stages=("index", "isr", "beam", "flat"))
        yield from _detector_figures(config, RunFolder(out), bench, seed, case, solver)
        if solver == "joint":
            yield _stage_figures(RunFolder(out), bench, seed, case)
    shutil.rmtree(work)


def _detector_figures(
    config: Config, folder: RunFolder, bench: Bench, seed: int, case: str, solver: str
) -> Iterator[DetectorFigures]:
    camera = load_camera(config.camera)
    differences = {}
    for path in sorted((folder.root / "flat" / LED).glob("R22_S*.fits")):
        made, true = read_image(path), read_image(folder.truth_flat(LED, path.stem))
        differences[path.stem] = difference_of_products(made, true, camera[path.stem], super_pixel_mm=SUPER_PIXEL_MM)
    common = float(np.mean([found.scale for found in differences.values()]))
    metrics = read_table(folder.metrics(LED))
    for name, found in differences.items():
        block = round(SUPER_PIXEL_MM / camera[name].pixel_mm)
        means = super_pixels(found.ratio / found.scale, np.isfinite(found.ratio), block)
        x, y = np.meshgrid(*means.centres(found.ratio.shape))
        filled = np.isfinite(means.mean)
        design = np.column_stack([np.ones(filled.sum()), x[filled] - x.mean(), y[filled] - y.mean()])
        flat = means.mean[filled] - design @ np.linalg.lstsq(design, means.mean[filled], rcond=None)[0]
        row = metrics[(metrics["detector"] == name) & (metrics["amp"] == "all")][0]
        electrons = expected_electrons(folder, bench, camera[name]) * np.isfinite(found.ratio)
        floor = block_sums(electrons, block)[filled] ** -0.5
        level = means.mean[filled] * found.scale / common - 1
        yield DetectorFigures(
            seed,
            case,
            solver,
            name,
            rms=1e3 * found.rms_super,
            rms_common_scale=1e3 * float(np.sqrt(np.mean(level**2))),
            rms_without_plane=1e3 * float(np.std(flat)),
            photon_floor=1e3 * float(np.sqrt(np.mean(floor**2))),
            chi_square=found.chi_square,
            gradient_x=found.gradient_x,
            gradient_y=found.gradient_y,
            gradient_x_err=float(row["gradient_x_err"]),
            gradient_y_err=float(row["gradient_y_err"]),
        )


def expected_electrons(folder: RunFolder, bench: Bench, detector: Detector) -> FloatArray:
    """Return the electrons that the exposures that read a detector put into each pixel, from the truth alone."""
    rows = read_index(folder.exposures).table
    read = set(rows["obsid"][(rows["detector"] == detector.name) & (rows["led"] == LED)])
    light = {str(row["obsid"]): float(row["electrons"]) for row in read_table(folder.truth / "scales.ecsv")}
    total, beam = np.zeros(detector.shape), bench.beam(LED)
    for place in read_table(folder.truth / "positions.ecsv"):
        if place["obsid"] in read:
            total += light[place["obsid"]] * beam.on_detector(detector, (place["beam_x_mm"], place["beam_y_mm"]))
    true = read_image(folder.truth_flat(LED, detector.name))
    return np.asarray(np.nan_to_num(total * true.image))


def _stage_figures(folder: RunFolder, bench: Bench, seed: int, case: str) -> StageFigures:
    """Compare centre of the beam and rotation; the centre is the centroid of B above 0.9 of its maximum, weighted with the height above."""
    with fits.open(folder.truth / "beam" / f"{LED}.fits") as hdus:
        offset = np.array([hdus[0].header[name] for name in ("OFFSETX", "OFFSETY")])
        rotation = 1e3 * hdus[0].header["ROTATION"]
    fine = np.arange(-60.0, 60.0, 0.1)
    beam = bench.beam(LED)(fine[:, None], fine[None, :])
    height = np.maximum(beam - NEAR_MAXIMUM * beam.max(), 0.0)
    centroid = np.array([np.sum(height * fine[:, None]), np.sum(height * fine[None, :])]) / height.sum()
    header = fits.getheader(folder.joint(LED))
    found = np.array([header["BEAMX"], header["BEAMY"]]) - offset - centroid
    return StageFigures(
        seed,
        case,
        1e3 * found[0],
        1e3 * header["BEAMXERR"],
        1e3 * found[1],
        1e3 * header["BEAMYERR"],
        1e3 * header["ROTATION"] - rotation,
        1e3 * header["ROTATERR"],
        1e3 * header["POSERROR"],
    )


def print_tables(path: Path) -> None:
    """Print root mean squares over all seeds in a file of figures."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    print(
        "| solver | CCD | seeds | rms | on the common scale | without a plane | photon floor | ratio | chi-square | gradient pulls |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    flats = [row for row in rows if "solver" in row]
    for solver in dict.fromkeys(row["solver"] for row in flats):
        for scanned in (True, False):
            chosen = [row for row in flats if row["solver"] == solver and (row["detector"] == SCANNED) == scanned]
            plane, floor = _rms(chosen, "rms_without_plane"), _rms(chosen, "photon_floor")
            pulls = [[row[f"gradient_{axis}"] / row[f"gradient_{axis}_err"] for row in chosen] for axis in "xy"]
            print(
                f"| {solver} | {'scanned' if scanned else 'others'} | {len({row['seed'] for row in chosen})} | "
                f"{_rms(chosen, 'rms'):.3f} | {_rms(chosen, 'rms_common_scale'):.3f} | {plane:.4f} | {floor:.4f} | "
                f"{plane / floor:.2f} | {np.mean([row['chi_square'] for row in chosen]):.4f} | "
                f"{np.sqrt(np.mean(np.square(pulls[0]))):.2f}, {np.sqrt(np.mean(np.square(pulls[1]))):.2f} |"
            )
    print()
    print("| seed | beam centre x, um | y, um | rotation, mrad | position error, um |")
    print("|---|---|---|---|---|")
    for row in rows:
        if "rotation_mrad" in row:
            print(
                f"| {row['seed']} | {row['centre_x_um']:+.1f} +- {row['centre_x_err']:.1f} | "
                f"{row['centre_y_um']:+.1f} +- {row['centre_y_err']:.1f} | "
                f"{row['rotation_mrad']:+.4f} +- {row['rotation_err']:.4f} | {row['position_error_um']:.1f} |"
            )


def _rms(rows: list[dict[str, float]], name: str) -> float:
    return float(np.sqrt(np.mean(np.square([row[name] for row in rows]))))


if __name__ == "__main__":
    main()
