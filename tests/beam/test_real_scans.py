"""The model on measured scans, against SciPy's cubic radial basis function and cubic interpolating spline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator, RectBivariateSpline

from permil.beam import BeamModel, BeamNodes, nodes_from_table
from permil.beam.parameters import spacing_of

FloatArray = NDArray[np.float64]
SIXTEEN = "ccob_scan_red_12x12_16amps.ecsv"
RUN5 = "ccob_scan_run5_12x12.ecsv"
PARITIES = [(0, 0), (0, 1), (1, 0), (1, 1)]
# Position of the maximum of the existing analysis' 300 x 300 image (README of the measured data), projector mm.
RUN5_MAXIMUM = (9.078545150501668, 3.501454849498323)


@dataclass(frozen=True)
class HeldOut:
    """Relative residuals of held-out nodes: ours, the radial basis function's, the spline's; and ours over the predicted error."""

    ours: FloatArray
    radial: FloatArray
    spline: FloatArray
    pull: FloatArray


def scans(folder: Path, name: str, every: int = 1) -> Iterator[BeamNodes]:
    table = Table.read(folder / name)
    for amp in np.unique(table["amp"])[::every]:
        yield nodes_from_table(table, amp=int(amp))


def hold_out(nodes: BeamNodes, keep: NDArray[np.bool_], *, with_spline: bool = False) -> HeldOut:
    kept, held = nodes[keep], nodes[~keep]
    model = BeamModel.from_nodes(kept)
    predicted, error = model.predict_signal(held.ux, held.uy)
    inside = np.isfinite(predicted)
    truth, u = held.signal[inside], held.u[inside]
    predicted, error = predicted[inside], error[inside]
    ours = predicted / truth - 1.0
    radial = np.exp(RBFInterpolator(kept.u, np.log(kept.signal), kernel="cubic")(u)) / truth - 1.0
    spline = np.zeros(0)
    if with_spline:
        x, y = np.unique(kept.ux), np.unique(kept.uy)
        grid = np.empty((x.size, y.size))
        grid[np.searchsorted(x, kept.ux), np.searchsorted(y, kept.uy)] = kept.signal
        spline = RectBivariateSpline(x, y, grid, kx=3, ky=3, s=0).ev(*u.T) / truth - 1.0
    return HeldOut(ours, radial, spline, ours / np.hypot(error / predicted, model.node_noise))


def pooled(parts: list[HeldOut]) -> HeldOut:
    return HeldOut(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("ours", "radial", "spline", "pull")))


def every_second(nodes: BeamNodes, parity: tuple[int, int]) -> NDArray[np.bool_]:
    column = np.searchsorted(np.unique(nodes.x_mm), nodes.x_mm)
    row = np.searchsorted(np.unique(nodes.y_mm), nodes.y_mm)
    return (column % 2 == parity[0]) & (row % 2 == parity[1])


def rms(residual: FloatArray) -> float:
    return float(np.sqrt(np.mean(residual**2)))


def tail(residual: FloatArray) -> float:
    return float(np.quantile(np.abs(residual), 0.99))


# Every fourth amplifier of sixteen; the full tests have all.
SCANS = [(RUN5, 1), (SIXTEEN, 4), pytest.param(SIXTEEN, 1, marks=pytest.mark.full)]


@pytest.mark.parametrize("measure", [rms, tail])
@pytest.mark.parametrize("parity", PARITIES)
@pytest.mark.parametrize(("name", "every"), SCANS)
def test_half_the_nodes_predict_the_others(
    shared_data: Path, name: str, every: int, parity: tuple[int, int], measure: Callable[[FloatArray], float]
) -> None:
    result = every_second_held_out(shared_data, name, parity, every)
    assert measure(result.ours) <= 1.05 * measure(result.radial)
    assert measure(result.ours) < measure(result.spline)


@pytest.mark.parametrize("parity", PARITIES)
@pytest.mark.parametrize(("name", "every"), SCANS)
def test_errors_are_calibrated_on_held_out_nodes(shared_data: Path, name: str, every: int, parity: tuple[int, int]) -> None:
    assert 0.8 < rms(every_second_held_out(shared_data, name, parity, every).pull) < 1.25


@cache
def every_second_held_out(folder: Path, name: str, parity: tuple[int, int], every: int) -> HeldOut:
    return pooled([hold_out(nodes, every_second(nodes, parity), with_spline=True) for nodes in scans(folder, name, every)])


def every_nth(nodes: BeamNodes, step: int, start: int, slow: str) -> NDArray[np.bool_]:
    """Keep every n-th node in the order of the scan; ``slow`` is the axis that moves slowly."""
    order = np.lexsort((nodes.y_mm, nodes.x_mm) if slow == "x" else (nodes.x_mm, nodes.y_mm))
    keep = np.zeros(len(nodes), dtype=bool)
    keep[order[start::step]] = True
    return keep


# Amplifier 2 sees a narrow dip of the beam at a node, which 72 of its nodes contradict.
@pytest.mark.parametrize(("name", "amps"), [(RUN5, None), (SIXTEEN, [2]), pytest.param(SIXTEEN, None, marks=pytest.mark.full)])
def test_scans_that_are_coarser_in_one_direction(shared_data: Path, name: str, amps: list[int] | None) -> None:
    chosen = [nodes for number, nodes in enumerate(scans(shared_data, name), start=1) if amps is None or number in amps]
    for step in (2, 3):
        for slow in "xy":
            parts = [hold_out(nodes, every_nth(nodes, step, start, slow)) for nodes in chosen for start in range(step)]
            assert max(rms(part.ours) / rms(part.radial) for part in parts) <= 1.10
            assert rms(pooled(parts).ours) <= 1.03 * rms(pooled(parts).radial)
            assert rms(pooled(parts).pull) < 1.6


def test_errors_hold_beside_a_dip_that_is_suspect(shared_data: Path) -> None:
    """A dip of amplifier 2, which the nodes between those kept show to be real."""
    nodes = list(scans(shared_data, SIXTEEN))[1]
    pulls = []
    for step in (2, 3):
        keep = every_nth(nodes, step, 1, "x")
        model, held = BeamModel.from_nodes(nodes[keep]), nodes[~keep]
        (outlier,) = model.outliers
        assert outlier.probability < 0.5
        near = np.hypot(held.x_mm - outlier.x_mm, held.y_mm - outlier.y_mm) < 1.5 * spacing_of(model.nodes.u, model.hull)
        predicted, error = model.predict_signal(held.ux[near], held.uy[near])
        pulls.append((predicted / held.signal[near] - 1.0) / np.hypot(error / predicted, model.node_noise))
    assert 0.7 < rms(np.concatenate(pulls)) < 1.3


def folds(nodes: BeamNodes, number: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    fold = np.random.default_rng(seed).permutation(len(nodes)) % number
    for left_out in range(number):
        yield fold != left_out


@pytest.mark.parametrize(
    ("name", "number"),
    [(RUN5, 5), pytest.param(RUN5, 10, marks=pytest.mark.full), pytest.param(SIXTEEN, 10, marks=pytest.mark.full)],
)
def test_cross_validation(shared_data: Path, name: str, number: int) -> None:
    result = pooled([hold_out(nodes, keep) for nodes in scans(shared_data, name) for keep in folds(nodes, number, 5)])
    assert rms(result.ours) <= 1.05 * rms(result.radial)
    assert tail(result.ours) <= 1.05 * tail(result.radial)
    assert 0.8 < rms(result.pull) < 1.25


def test_run5_maximum(shared_data: Path) -> None:
    maximum = BeamModel.from_nodes(next(scans(shared_data, RUN5))).maximum
    assert abs(maximum.ux + RUN5_MAXIMUM[0]) < 2.0 * maximum.ux_err
    assert abs(maximum.uy + RUN5_MAXIMUM[1]) < 2.0 * maximum.uy_err
    assert 0.1 < maximum.ux_err < 1.5
    assert 0.1 < maximum.uy_err < 1.5


def test_partial_scan_is_fitted_where_it_was_scanned(shared_data: Path) -> None:
    nodes = next(scans(shared_data, "ccob_scan_red_partial.ecsv"))
    model = BeamModel.from_nodes(nodes)
    signal, error = model.predict_signal(nodes.ux, nodes.uy)
    assert np.abs(signal / nodes.signal - 1.0).max() < 5e-4
    assert np.all(error > 0.0)
    assert np.isnan(model.evaluate(20.0, 0.0)[0])


def test_complete_tables_have_little_noise_and_hardly_an_outlier(shared_data: Path) -> None:
    for nodes in list(scans(shared_data, SIXTEEN))[::5]:
        model = BeamModel.from_nodes(nodes)
        assert 0.0 < model.node_noise < 1e-3
        assert len(model.outliers) <= 2
