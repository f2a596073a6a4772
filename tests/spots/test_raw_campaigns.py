"""The whole chain on simulated raw files: index, superbias, measurement, grids, calibration, throughput."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.signal import fftconvolve

from permil.camera import load_camera
from permil.config import load_config
from permil.config.simulate import SimulateSpotsConfig
from permil.config.spots import SpotsConfig
from permil.context import Run
from permil.exposures.files import make_index
from permil.isr.stage import make_calibrations
from permil.products import RunFolder, read_table
from permil.products.folder import SpotsFolder
from permil.simulate.spots import SpotBench, simulate_spots
from permil.spots.flux_model import FluxSolution, fit_fluxes
from permil.spots.inputs import CatalogFile, label_file
from permil.spots.measurements import Measurements, common_window, gather
from permil.spots.stage import run_spots, throughput_splines

Array = np.ndarray[Any, Any]
APERTURE = 12


def reduce_campaign(config: SimulateSpotsConfig, folder: Path, options: SpotsConfig) -> tuple[Measurements, RunFolder]:
    """Simulate raw files and run everything on them; return the labelled measurements and the folder of the run."""
    written = simulate_spots(config, folder, workers=1)
    run, camera = load_config(written.configuration), load_camera(config.camera)
    products = RunFolder(folder / "out")
    make_index(run.exposures.roots, camera, products.exposures, options=run.exposures, workers=1)
    reduced = Run(run.model_copy(update={"spots": options}), camera, products)
    make_calibrations(reduced, [config.detector])
    report = run_spots(reduced)
    assert report.done == config.campaign.exposures + 1
    grids = sorted((folder / "out" / "spots" / "grids").rglob("*.fits"))
    assert len(grids) == config.campaign.exposures
    labelled = [label_file(CatalogFile(path), options=options, camera=camera) for path in grids]
    placed = common_window(
        [entry.catalog for entry in labelled],
        [entry.decided for entry in labelled],
        columns=options.columns,
        rows=options.rows,
    )
    assert placed.decided
    assert not placed.left_out
    return gather(placed.catalogs, columns=options.columns, rows=options.rows), products


def seen_by_stars(bench: SpotBench) -> Array:
    """Return the efficiency minus 1 as the mean star sees it within its aperture."""
    row, column = np.mgrid[-APERTURE : APERTURE + 1, -APERTURE : APERTURE + 1]
    distance_squared = row**2 + column**2
    profile = bench.mask.profile
    variances = (bench.config.mask.core_variance_px2, *(sigma**2 for sigma in profile.sigmas))
    star = sum(
        fraction * np.exp(-distance_squared / 2 / (variance + 1 / 12)) / (variance + 1 / 12)
        for fraction, variance in zip((profile.core_fraction, *profile.fractions), variances, strict=True)
    )
    star = np.where(distance_squared <= APERTURE**2, star, 0.0)
    return fftconvolve(np.pad(bench.maps.efficiency - 1, APERTURE, mode="edge"), star / star.sum(), mode="valid")


def slope_against_truth(measurements: Measurements, solution: FluxSolution, truth: Array) -> tuple[float, float, float]:
    """Return slope of the recovered throughput against the truth without degenerate modes, its error, and the truth's rms."""
    used = solution.used
    x, y = measurements.quantities["x"][used], measurements.quantities["y"][used]
    weight = (solution.predicted[used] / solution.sigma[used]) ** 2
    modes = np.stack([np.ones(x.size), x - x.mean(), y - y.mean()], axis=1)
    left = map_coordinates(truth, [y, x], order=1, mode="nearest")
    root = np.sqrt(weight)
    left -= modes @ np.linalg.lstsq(modes * root[:, None], left * root, rcond=None)[0]
    # The truth has no degenerate modes left, so that those of the map do not count.
    norm = float((weight * left) @ left)
    index, values = solution.splines.local(x, y)
    terms = solution.splines.terms
    along = np.bincount(index.ravel(), (values * (weight * left)[:, None]).ravel(), minlength=terms)
    error = float(np.sqrt(along @ solution.covariance[-terms:, -terms:] @ along)) / norm
    return float(along @ solution.coefficients) / norm, error, float(np.sqrt(norm / weight.sum()))


def chi_square_by_flux(
    measurements: Measurements, solution: FluxSolution, limits: tuple[float, ...]
) -> list[tuple[float, float]]:
    """Return chi-square per degree of freedom and its statistical error in classes of spot flux."""
    used, exposures, equations = solution.used, measurements.exposures, solution.equations
    model = solution.predicted * (1 + solution.throughput)
    pull = ((measurements.quantities["flux"] - model) / solution.sigma)[used]
    spot, number = measurements.spot[used], np.arange(used.sum())
    # What each measurement takes part in its own prediction (leverage).
    inverse = 1 / np.where(equations.spot_weight > 0, equations.spot_weight, np.inf)
    slopes = -(equations.coupling * inverse[:, None])[spot]
    slopes[number, measurements.exposure[used]] += 1
    index, values = solution.splines.local(measurements.quantities["x"][used], measurements.quantities["y"][used])
    np.add.at(slopes, (number[:, None], exposures + index), values)
    variance = inverse[spot] + np.einsum("ij,ij->i", slopes @ solution.covariance, slopes)
    freedom = 1 - variance * ((solution.predicted / solution.sigma)[used]) ** 2
    flux = solution.spot_flux[spot]
    classes = [(flux >= low) & (flux < high) for low, high in pairwise(limits)]
    return [(float((pull[of] ** 2).sum() / freedom[of].sum()), float(np.sqrt(2 / freedom[of].sum()))) for of in classes]


def spot_flux_pulls(bench: SpotBench, solution: FluxSolution) -> Array:
    """Return pulls of the spot fluxes against the truth, without a factor and a gradient over the mask, which are degenerate."""
    ratio = solution.spot_flux / bench.mask.flux
    error = solution.spot_error / bench.mask.flux
    matrix = np.stack([np.ones(ratio.size), bench.mask.x, bench.mask.y], axis=1) / error[:, None]
    seen = np.isfinite(ratio)
    pull = (ratio / error)[seen]
    return pull - matrix[seen] @ np.linalg.lstsq(matrix[seen], pull, rcond=None)[0]


def test_chain_on_raw_files(tmp_path: Path) -> None:
    perfect = {"efficiency": False, "displacement": False, "diffusion": False}
    config = SimulateSpotsConfig(seed=3, effects=perfect, campaign={"exposures": 12, "biases": 4})
    options = SpotsConfig(columns=15, rows=15, knot_px=512.0)
    measurements, folder = reduce_campaign(config, tmp_path, options)
    bench = SpotBench(config)
    summary = read_table(SpotsFolder(folder.root).summary)
    figures = {row["metric"]: (row["value"], row["error"]) for row in summary}
    assert figures["exposures"][0] == 12
    value, error = figures["chi_square_per_freedom"]
    assert value == pytest.approx(1.0, abs=4 * error)
    solution = fit_fluxes(measurements, splines=throughput_splines(options, bench.detector))
    assert solution.chi_square / solution.freedom == pytest.approx(value, rel=1e-6)
    for chi_square, spread in chi_square_by_flux(measurements, solution, (0.0, 3e4, 5e5, np.inf)):
        assert chi_square == pytest.approx(1.0, abs=4 * spread)
    lamp = np.array([exposure.lamp for exposure in bench.exposures()])
    # The pointing may go with the lamp as far as the gradient of the throughput is unknown.
    assert np.std(solution.exposure_scale / lamp) < np.std(lamp)


@pytest.mark.full
def test_default_campaign_recovers_the_throughput(tmp_path: Path) -> None:
    config = SimulateSpotsConfig()
    options = SpotsConfig(columns=15, rows=15)
    assert config.campaign.exposures == 100
    assert config.campaign.window_pitches >= 10
    measurements, _ = reduce_campaign(config, tmp_path, options)
    bench = SpotBench(config)
    solution = fit_fluxes(measurements, splines=throughput_splines(options, bench.detector))
    slope, error, rms = slope_against_truth(measurements, solution, seen_by_stars(bench))
    assert rms > 0.002
    assert error < 0.005
    assert slope == pytest.approx(1.0, abs=0.01)
    assert 0.95 < solution.chi_square / solution.freedom < 1.05
    for chi_square, spread in chi_square_by_flux(measurements, solution, (0.0, 3e4, 5e5, np.inf)):
        assert chi_square == pytest.approx(1.0, abs=0.05 + 3 * spread)
    pulls = spot_flux_pulls(bench, solution)
    assert np.sqrt((pulls**2).sum() / (pulls.size - 3)) == pytest.approx(1.0, abs=0.15)
