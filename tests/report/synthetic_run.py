"""A run's folder with products whose numbers are known, written with the products' own writers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.beam import BeamModel, BeamNodes
from permil.beam.fits import model_to_hdus
from permil.camera import Camera, Detector, frames
from permil.config import Config
from permil.context import Run
from permil.flat.composite import assemble_mosaic, mosaic_grid, mosaic_piece
from permil.flat.metrics import metrics_table
from permil.flat.superpixel import super_pixels
from permil.products import FINGERPRINT_CARD, MaskPlane, RunFolder, write_hdus, write_image, write_table
from permil.report import make_report

BLOCK = 8
FAILING_STEP = 0.0036
"""Excess of amplifier C14 of the first detector: beyond the default limit of 3 per mil by five errors."""


@dataclass(frozen=True)
class SyntheticRun:
    """A run's folder and what was put into it."""

    folder: RunFolder
    config: Config
    leds: tuple[str, ...]
    detectors: tuple[str, ...]

    def copy(self, root: Path) -> SyntheticRun:
        """Copy the folder, pages included, and return the run in it."""
        shutil.copytree(self.folder.root, root)
        return replace(self, folder=RunFolder(root), config=self.config.model_copy(update={"output": root}))


def make_pages(config: Config, camera: Camera, folder: RunFolder) -> Path:
    """Make the report of a folder; return its index page."""
    make_report(Run(config, camera, folder))
    return folder.report


def write_run(
    root: Path, camera: Camera, *, leds: Sequence[str], detectors: Sequence[str], has_truth: bool = True
) -> SyntheticRun:
    """Write all products of a run that the report looks at, with the truth of a simulation or without."""
    folder = RunFolder(root)
    rng = np.random.default_rng(7)
    chosen = [camera[name] for name in detectors]
    root.mkdir(parents=True, exist_ok=True)
    folder.configuration.write_text("versions: {permil: 0.0.test}\nconfig: {camera: lsstcam-bin8, seed: 5}\n", encoding="utf-8")
    write_table(folder.exposures, _exposures(chosen[:9], leds, rng))
    write_table(folder.unreadable, Table({"path": ["raw/<broken>.fits"], "reason": ["the file is cut short"]}))
    write_table(folder.left_out, Table({"path": ["raw/dark.fits"], "reason": ["photodiode is missing, zero or negative"]}))
    gains = {"detector": detectors[:1], "amp": ["C14"], "gain": [1.1], "gain_err": [0.01], "source": ["in/gains.ecsv"]}
    write_table(folder.gains, Table({name: list(column) for name, column in gains.items()}))
    biases = Table({"amp": ["C14"], "overscan_level": [24000.0], "read_noise": [5.2], "read_noise_err": [0.1]})
    write_hdus(folder.superbias(detectors[0]), [fits.PrimaryHDU(), fits.BinTableHDU(biases, name="AMPLIFIERS")])
    stages = {"stage": ["index", "flat"], "seconds": [1.25, 30.5], "done": [10, 4], "skipped": [0, 1]}
    write_table(folder.stages, Table(stages))
    model = _beam(rng)
    for led in leds:
        write_hdus(folder.beam(led), model_to_hdus(model, header={FINGERPRINT_CARD: f"bb{led}"}))
        rows = []
        for detector in chosen:
            rows += metric_rows(detector, led, first=detector is chosen[0])
            write_flat(folder, detector, led, rng, has_truth=has_truth)
        metrics = metrics_table(rows)
        metrics.meta = {"fingerprint": f"aa{led}"}
        write_table(folder.metrics(led), metrics)
        write_mosaic(folder, chosen, led)
    return SyntheticRun(folder, Config(camera=camera.name, output=root), tuple(leds), tuple(detectors))


def _exposures(detectors: Sequence[Detector], leds: Sequence[str], rng: np.random.Generator) -> Table:
    rows = []
    mjd = 59000.0
    for led in leds:
        places = [("scan", x, y) for x in np.linspace(-70, 70, 6) for y in np.linspace(-70, 70, 6)]
        for detector in detectors:
            x, y = frames.detector_to_ccs(detector, *detector.centre_pixel)
            places += [("pointing", float(x) + dx, float(y)) for dx in (-10.0, 0.0, 10.0)]
        for number, (purpose, x, y) in enumerate(places):
            mjd += 30 / 86400
            reading = np.nan if number == 3 else 4.2 * (1 + 1e-3 * rng.standard_normal())
            rows += [(f"{led}{number:04d}", d.name, led, purpose, reading, x, y, mjd) for d in detectors]
    rows += [(f"bias{number}", d.name, "", "bias", np.nan, np.nan, np.nan, mjd) for number in range(2) for d in detectors]
    return Table(rows=rows, names=("obsid", "detector", "led", "purpose", "photodiode", "x_mm", "y_mm", "mjd"))


def _beam(rng: np.random.Generator) -> BeamModel:
    """Return a beam with a plateau and one bad node."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-60, 60, 8), np.linspace(-60, 60, 8)))
    signal = 4e4 * np.exp(-((((x - 2) ** 2 + (y + 1) ** 2) / 70**2) ** 1.5)) * (1 + 4e-4 * rng.standard_normal(x.size))
    signal[20] *= 1.05
    return BeamModel.from_nodes(BeamNodes.from_columns(x, y, signal, unit="electron"))


def metric_rows(detector: Detector, led: str, *, first: bool) -> list[dict[str, object]]:
    """Return rows of metrics with known numbers; the first detector has one amplifier whose step fails."""
    common = {
        "detector": detector.name, "led": led, "pixels": 1000, "median": 1.00123, "median_err": 0.00045, "rms": 0.0052,
        "rms_err": 0.0001, "noise": 0.00071, "noise_err": 1e-6, "scatter": 0.0016, "scatter_err": 2e-5, "pointings": 5.0,
        "scatter_noise": 0.0015, "scatter_excess": 0.00055, "scatter_excess_err": 5e-5,
    }  # fmt: skip
    slopes = {"gradient_x": 1.25e-5, "gradient_x_err": 2.1e-6, "gradient_y": -3.4e-6, "gradient_y_err": 2.2e-6}
    rows: list[dict[str, object]] = [common | slopes | {"amp": "all"}]
    for amplifier in detector.amplifiers:
        step = FAILING_STEP if first and amplifier.name == "C14" else 4e-4
        rows.append(common | {"amp": amplifier.name, "step": step, "step_err": 1.2e-4})
    return rows


def write_flat(
    folder: RunFolder,
    detector: Detector,
    led: str,
    rng: np.random.Generator,
    *,
    extensions: bool = True,
    has_truth: bool = True,
) -> None:
    """Write a flat and the true flat that it was made from by adding noise."""
    rows, columns = np.mgrid[: detector.ny, : detector.nx]
    truth = 1 + 0.002 * np.sin(rows / 40) + 0.004 * rng.standard_normal(detector.shape)
    truth *= 1 + 0.003 * (columns / detector.nx - 0.5)
    sigma = 7e-4
    image = truth + sigma * rng.standard_normal(detector.shape)
    mask = np.zeros(detector.shape, dtype=np.int32)
    mask[:, 100:102] = int(MaskPlane.BAD)
    mask[:4], mask[-4:], mask[:, :4], mask[:, -4:] = (int(MaskPlane.EDGE),) * 4
    variance = np.full(detector.shape, sigma**2)
    header = {
        FINGERPRINT_CARD: f"cc{led}{detector.name}", "DETECTOR": detector.name, "LED": led, "SOLVER": "divide", "FLATSCAL": 12345.5,
        "NPOINT": 4, "NEXPOSUR": 20, "NREJECT": 512, "PDNORM": "header", "GAINSRC": "gains.ecsv", "STEPSREM": False,
    }  # fmt: skip
    hdus = _small_extensions(detector, led, image, rng) if extensions else []
    write_image(folder.flat(led, detector.name), image, mask, variance, header=header, extensions=hdus)
    if not has_truth:
        return
    truth_header = {FINGERPRINT_CARD: f"ee{led}{detector.name}"}
    write_image(folder.truth_flat(led, detector.name), truth, np.zeros_like(mask), np.zeros(detector.shape), header=truth_header)


def _small_extensions(detector: Detector, led: str, image: np.ndarray, rng: np.random.Generator) -> list[object]:
    small = super_pixels(image, np.ones(image.shape, dtype=bool), BLOCK).mean
    aimed = np.array([True, True, True, False])
    x, y = frames.detector_to_ccs(detector, *detector.centre_pixel)
    levels = np.array([1e-3, 0.0, -1e-3])[:, None, None]
    responses = small * (1 + levels + 5e-4 * rng.standard_normal((3, *small.shape)))
    beams = np.stack([np.linspace(0.95, 1.0, small.shape[1]) * np.ones(small.shape) for _ in range(3)])
    images = {"SCATTER": np.full(small.shape, 0.0016), "STACKS": 5e4 * responses * beams, "BEAMS": beams, "RESPONSES": responses}
    hdus: list[object] = []
    for name, data in images.items():
        hdu = fits.ImageHDU(np.asarray(data, dtype=np.float32), name=name)
        hdu.header["BLOCK_MM"] = BLOCK * detector.pixel_mm
        hdus.append(hdu)
    pointings = {
        "number": [1, 2, 3, 4], "x_mm": float(x) + np.array([-10.0, 0.0, 10.0, 42.0]), "y_mm": np.full(4, float(y)),
        "exposures": [5, 5, 5, 5], "photodiode": [4.2, 4.21, 4.19, 4.2], "scale": [4.2, 4.21, 4.19, 4.2],
        "scale_error": [2e-4, 2e-4, 2e-4, 2e-4],
        "rejected": [100, 150, 200, 62], "aimed": aimed, "weight": [1.0, 1.0, 1.0, 0.2], "chi_square": [1.01, 0.99, 1.0, 1.02],
    }  # fmt: skip
    hdus.append(fits.BinTableHDU(Table(pointings), name="POINTINGS"))
    hdus.append(fits.BinTableHDU(metrics_table(metric_rows(detector, led, first=detector.slot == "S00")), name="METRICS"))
    return hdus


def write_mosaic(folder: RunFolder, detectors: Sequence[Detector], led: str) -> None:
    """Write a mosaic in which detector number ``k`` has the level 1 + k / 100."""
    grid = mosaic_grid(detectors, 0.64)
    pieces = []
    for number, detector in enumerate(detectors):
        level = np.full(detector.shape, 1 + number / 100)
        pieces.append(mosaic_piece(level, level * 1e-6, np.ones(detector.shape, dtype=bool), detector=detector, grid=grid))
    response, variance, count = assemble_mosaic(pieces, grid)
    mask = np.where(count > 0, 0, int(MaskPlane.NO_DATA))
    cards = grid.cards()
    write_image(folder.focal_plane(led), response, mask, variance, header={FINGERPRINT_CARD: f"dd{led}"}, image_cards=cards)
