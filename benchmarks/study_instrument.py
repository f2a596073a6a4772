"""The joint solution on raw files of an instrument that behaves like a real one: errors against the truth over their stated errors.

Campaigns of the preset ``mini`` with three detectors on three readout boards and one LED are simulated and reduced. What a row injects is
drawn for each seed from a normal distribution of the size given. Rows:

``b``  photodiode noise of 1e-4 and a linear drift of 3e-3; all rows below have these, too
``c``  a random walk of 1e-3
``d``  a step of 2e-3 between scan and pointings
``j``  scan in random order
``e``  boards whose temperature moves by 1.5 deg C, coefficient not given; ``e-one``: pointings that read one board
``f``  curvature of 2e-3 that differs between amplifiers, no table; reduced with ``isr.linearity: measured``
``g``  gains wrong by 5e-3
``i``  all of them, weather of 5e-4, and an amplifier whose gain steps by 2e-3

The flat is that of the gains used, of the mean gain of each board over the exposures that it shares with others, and of the last epoch.

    OMP_NUM_THREADS=1 python benchmarks/study_instrument.py e f --seeds 61000-61004 --work FOLDER
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy import stats

from permil.camera import Camera, Detector, load_camera
from permil.config import load_config
from permil.errors import PermilError
from permil.flat.difference import difference_of_products
from permil.flat.joint.amplifier_linearity import REFERENCE_ELECTRONS
from permil.pipeline import run_pipeline
from permil.products import RunFolder, read_image, read_table
from permil.simulate.bench import Bench
from permil.simulate.stage import simulate_bench
from permil.truth import LedDeviation, detector_deviation, led_deviation

FloatArray = NDArray[np.float64]

LED, SUPER_PIXEL_MM = "red", 0.64
DETECTORS = ("R22_S00", "R22_S11", "R22_S22")
STAGES = ("index", "isr", "beam", "flat")
ROWS = ("b", "c", "d", "j", "e", "e-one", "f", "g", "i")
COEFFICIENT = -6.5e-4


@dataclass(frozen=True)
class CampaignFigures:
    """One campaign: flats against the truth, and what the solution says of itself.

    ``planes`` and ``plane_errors`` are levels (relative to the mean) and gradients along X and Y (1/mm) of each detector.
    """

    row: str
    seed: int
    problem: str
    chi_square: float
    freedom: int
    planes: list[list[float]]
    plane_errors: list[list[float]]
    signals_chi_square: float
    pixels_chi_square: float
    converged: bool
    passes: int
    exposures: int
    left_out: int
    board_pulls: list[float]
    loss_pulls: list[float]
    messages: list[str]
    seconds: float


def main() -> None:
    """Simulate, reduce, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="+", choices=ROWS)
    parser.add_argument("--seeds", default="61000-61004")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--keep", action="store_true", help="keep raw files and products")
    options = parser.parse_args()
    first, last = (int(number) for number in options.seeds.split("-"))
    options.work.mkdir(parents=True, exist_ok=True)
    found = []
    for row in options.rows:
        for seed in range(first, last + 1):
            found.append(study_seed(options.work / f"{row}_{seed}", row, seed, keep=options.keep))
            with (options.work / "figures.jsonl").open("a") as stream:
                stream.write(json.dumps(asdict(found[-1])) + "\n")
    print_table(found)


def settings_of(row: str, seed: int) -> dict[str, Any]:
    """Return the section ``simulate`` of a campaign; sizes that the simulator does not draw itself come from the seed."""
    rng = np.random.default_rng(seed)
    everything = row == "i"
    lamp = {"photodiode_noise": 1e-4, "photodiode_drift": 3e-3, "photodiode_walk": 0.0, "photodiode_step": 0.0}
    settings: dict[str, Any] = {"campaign": {}, "effects": {}, "handover": {}, "electronics": {}, "lamp": lamp}
    if row == "c" or everything:
        lamp["photodiode_walk"] = 1e-3
    if row == "d" or everything:
        lamp["photodiode_step"] = 2e-3
    if row == "j" or everything:
        settings["campaign"]["scan_order"] = "random"
    if row == "e-one":
        settings["campaign"]["readout"] = "target"
    if row in ("e", "e-one") or everything:
        settings["electronics"] |= {
            "temperature_amplitude": 1.5 * abs(rng.standard_normal()),
            "temperature_coefficient": COEFFICIENT + 1.5e-4 * rng.standard_normal(),
            "temperature_coefficient_rms": 1.5e-4,
        }
        settings["handover"]["temperature_coefficient"] = False
    else:
        settings["effects"]["temperature_drift"] = False
    if row == "f" or everything:
        settings["electronics"] |= {"curvature": 0.0, "curvature_rms": 2e-3}
        settings["handover"]["linearity"] = False
    if row == "g" or everything:
        settings["handover"] |= {"gains": "fe55", "fe55_rms": 5e-3}
    if everything:
        settings["weather"] = {"rms": 5e-4}
        settings["gain_steps"] = {"count": 1, "size": 2e-3, "at": 0.7}
    return {"preset": "mini", "seed": seed, "leds": [LED], "detectors": list(DETECTORS), **settings}


def study_seed(work: Path, row: str, seed: int, *, keep: bool = False) -> CampaignFigures:
    """Simulate and reduce one campaign and return its figures; the files are deleted at the end."""
    work.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    settings = work / "simulate.yaml"
    settings.write_text(json.dumps({"camera": "lsstcam-bin8", "simulate": settings_of(row, seed), "output": str(work)}))
    planned = load_config(settings).simulate
    simulate_bench(planned, work, workers=1)
    bench, changes = Bench(planned), ["pipeline.workers=1", "flat.joint.checks=false"]
    messages: list[str] = []
    try:
        reports = run_pipeline(load_config(work / "config.yaml", changes), stages=STAGES)
        if not bench.config.handover.linearity:
            messages += reports[-1].messages
            changes.append("isr.linearity=measured")
            reports = run_pipeline(load_config(work / "config.yaml", changes), stages=STAGES)
        messages += reports[-1].messages
    except PermilError as error:
        seconds = time.perf_counter() - begin
        return CampaignFigures(
            row, seed, str(error), np.nan, 0, [], [], np.nan, np.nan, False, 0, 0, 0, [], [], messages, seconds
        )
    figures = _figures(work, row, seed, bench, messages, begin)
    if not keep:
        shutil.rmtree(work)
    return figures


def _figures(work: Path, row: str, seed: int, bench: Bench, messages: list[str], begin: float) -> CampaignFigures:
    folder, camera = RunFolder(work), load_camera("lsstcam-bin8")
    deviation, pixels = deviations(folder, camera)
    header = fits.getheader(folder.joint(LED))
    return CampaignFigures(
        row,
        seed,
        "",
        deviation.chi_square,
        deviation.freedom,
        deviation.planes.tolist(),
        deviation.plane_errors.tolist(),
        float(header["REDCHI2"]),
        pixels,
        bool(header["DECREMEN"] <= header["DECRETOL"]),
        int(header["PASSES"]),
        int(header["NEXPOSUR"]),
        int(header["NLEFTOUT"]),
        board_pulls(folder, bench),
        loss_pulls(folder, bench),
        messages,
        time.perf_counter() - begin,
    )


def deviations(folder: RunFolder, camera: Camera) -> tuple[LedDeviation, float]:
    """Return the flats of a run over those that its gains should give, and chi-square per pixel."""
    found, pixels = [], []
    for name in DETECTORS:
        detector = camera[name]
        made, true = read_image(folder.flat(LED, name)), read_image(folder.truth_flat(LED, name))
        true = replace(true, image=true.image * expected_factor(folder, detector)[detector.amplifier_map()])
        deviation = detector_deviation(made, true, detector, super_pixel_mm=SUPER_PIXEL_MM)
        if deviation is not None:
            found.append(deviation)
            pixels.append(difference_of_products(made, true, detector, super_pixel_mm=SUPER_PIXEL_MM).chi_square)
    return led_deviation(found), float(np.mean(pixels))


def expected_factor(folder: RunFolder, detector: Detector) -> FloatArray:
    """Return the factor of the flat of each amplifier, from the gains that were used and the truth alone."""
    true, used = read_table(folder.truth / "gains.ecsv"), read_table(folder.gains)
    gain = {str(row["segment"]): row["gain"] * (1.0 + row["gain_step"]) for row in true[true["detector"] == detector.name]}
    own = used[used["detector"] == detector.name]
    factor = np.array([row["gain"] / gain[str(row["amp"])] for row in own])
    return np.asarray(factor * np.exp(_mean_of_board(folder, detector)), dtype=np.float64)


def _mean_of_board(folder: RunFolder, detector: Detector) -> float:
    """Return the mean logarithm of the counts of a board over the exposures that it shares with others, or over all of its own."""
    lit = {str(obsid) for obsid in read_table(folder.truth / "scales.ecsv")["obsid"]}
    table = read_table(folder.truth / "boards.ecsv")
    table = table[[str(obsid) in lit for obsid in table["obsid"]]]
    obsids, counts = np.unique(table["obsid"], return_counts=True)
    others = dict(zip(obsids, counts - 1, strict=True))
    own = table[(table["raft"] == detector.raft) & (table["board"] == detector.reb)]
    weights = np.array([others[obsid] for obsid in own["obsid"]], dtype=np.float64)
    logarithm = np.log(np.asarray(own["counts_factor"], dtype=np.float64))
    return float(np.average(logarithm, weights=weights if weights.any() else None))


def board_pulls(folder: RunFolder, bench: Bench) -> list[float]:
    """Return the coefficients of boards whose temperature changes, measured less true, over their errors."""
    if not bench.config.effects.temperature_drift:
        return []
    boards = Table.read(folder.joint(LED), hdu="BOARDS")
    pulls = []
    for row in boards:
        detector = bench.camera[str(row["detectors"]).split()[0]]
        pulls.append((row["coefficient"] + bench.board_coefficient(detector)) / row["coefficient_err"])
    return [float(pull) for pull in pulls]


def loss_pulls(folder: RunFolder, bench: Bench) -> list[float]:
    """Return the losses of amplifiers against the mean of all, measured less true, over their errors."""
    losses = read_table(folder.measured_linearity)
    left = np.zeros(len(losses))
    if not bench.config.handover.linearity:
        true = read_table(folder.truth / "gains.ecsv")
        bends: Mapping[tuple[str, str], float] = {
            (str(row["detector"]), str(row["segment"])): float(row["a1"] / row["gain"]) * REFERENCE_ELECTRONS for row in true
        }
        left = np.array([bends[str(row["detector"]), str(row["amp"])] for row in losses])
    return [float(pull) for pull in (losses["loss"] - (left - left.mean())) / losses["loss_err"]]


def print_table(found: list[CampaignFigures]) -> None:
    """Print one line per row: pooled chi-square of levels and gradients, pulls, convergence, what was left out."""
    print(
        "| row | seeds | chi-square of levels and gradients | p | pulls of levels / gradients | signals, pixels | converged; passes | "
        "left out | pulls of boards / losses |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in dict.fromkeys(one.row for one in found):
        own = [one for one in found if one.row == row]
        done = [one for one in own if not one.problem]
        for one in own:
            if one.problem:
                print(f"{row} {one.seed}: {one.problem}")
        if not done:
            continue
        total, freedom = sum(one.chi_square for one in done), sum(one.freedom for one in done)
        planes, errors = (np.array([getattr(one, name) for one in done]) for name in ("planes", "plane_errors"))
        pulls = planes / errors
        passes = [one.passes for one in done]
        of_boards, of_losses = (
            _rms(np.concatenate([getattr(one, name) for one in done])) for name in ("board_pulls", "loss_pulls")
        )
        print(
            f"| {row} | {min(one.seed for one in own)}-{max(one.seed for one in own)} | {total:.1f} of {freedom} | "
            f"{stats.chi2.sf(total, freedom):.2g} | {_rms(pulls[..., 0]):.2f} / {_rms(pulls[..., 1:]):.2f} | "
            f"{np.mean([one.signals_chi_square for one in done]):.3f}, {np.mean([one.pixels_chi_square for one in done]):.3f} | "
            f"{sum(one.converged for one in done)} of {len(own)}; {min(passes)} to {max(passes)} | "
            f"{sum(one.left_out for one in done)} of {sum(one.exposures for one in done)} | {of_boards:.2f} / {of_losses:.2f} |"
        )


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else np.nan


if __name__ == "__main__":
    main()
