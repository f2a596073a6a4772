"""The alternative methods, each with its own results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from permil.compare.correlation.blocks import (
    ONE_BLOCK,
    BlockScan,
    block_bootstrap,
    block_sums,
    correlation_of,
    enough_groups,
    jackknife,
    jackknife_labels,
    moments,
)
from permil.compare.correlation.geometry import Geometry
from permil.compare.correlation.points import Points
from permil.compare.correlation.result import MethodFigures
from permil.compare.correlation.surrogates import Null, phase_surrogates, rotation_surrogates, shift_surrogates
from permil.compare.correlation.textbook import fisher_interval, naive_error, plug_in_n_eff, t_test

METHODS = ("naive", "modified_t", "block_bootstrap", "block_jackknife", "group_jackknife", "phases", "shifts", "rotations")
_SURROGATES = {"phases": phase_surrogates, "shifts": shift_surrogates, "rotations": rotation_surrogates}
_ONE_SIGMA = 0.682689492137086


def other_methods(
    geometry: Geometry, points: Points, r: float, seed: int, resamples: int, methods: Sequence[str]
) -> tuple[tuple[MethodFigures, ...], BlockScan | None, dict[str, Null]]:
    """Run the alternative methods; each has independent random numbers and does not depend on the others."""
    found: list[MethodFigures] = []
    scan: BlockScan | None = None
    nulls: dict[str, Null] = {}
    for number, name in enumerate(METHODS):
        if name not in methods:
            continue
        rng = np.random.default_rng([seed, number])
        if name == "naive":
            error = naive_error(r, points.n)
            found.append(
                MethodFigures(
                    name, error, fisher_interval(r, error), t_test(r, points.n), points.n, "every value counted as independent"
                )
            )
        elif name == "modified_t":
            n_eff = plug_in_n_eff(geometry.cells, points.a, points.b)
            error = naive_error(r, n_eff) if n_eff > 1 else np.nan
            found.append(MethodFigures(name, error, fisher_interval(r, error), t_test(r, n_eff), n_eff, "plug-in covariances"))
        elif name == "block_bootstrap":
            scan = block_bootstrap(points.x, points.y, points.a, points.b, geometry.cells, resamples=resamples, rng=rng)
            found.append(_bootstrap_figures(scan, r))
        elif name in ("block_jackknife", "group_jackknife"):
            found.append(_jackknife_figures(name, geometry, points, r))
        else:
            null = _SURROGATES[name](geometry.cells, points.a, points.b, resamples=resamples, rng=rng)
            nulls[name] = null
            spread = float(np.sqrt(np.mean(null.draws**2))) if len(null.draws) else np.nan
            error = spread * (1.0 - r * r)
            n_eff = 1.0 + spread**-2.0
            found.append(
                MethodFigures(name, error, fisher_interval(r, error), null.p_value, n_eff, f"{len(null.draws)} surrogates")
                if len(null.draws)
                else MethodFigures(name, note="no shift leaves enough pairs")
            )
    return tuple(found), scan, nulls


def _bootstrap_figures(scan: BlockScan, r: float) -> MethodFigures:
    size, error = scan.sizes[scan.chosen], float(scan.errors[scan.chosen])
    low, high = np.quantile(scan.draws, [0.5 - _ONE_SIGMA / 2, 0.5 + _ONE_SIGMA / 2])
    p_value = float(2.0 * stats.norm.sf(abs(np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))) * (1.0 - r * r) / max(error, 1e-15)))
    note = (
        f"plateau from blocks of {size:.3g}" if np.isfinite(scan.plateau) else f"no plateau up to blocks of {size:.3g}: too small"
    )
    return MethodFigures("block_bootstrap", error, (float(low), float(high)), p_value, _worth(r, error), note)


def _jackknife_figures(name: str, geometry: Geometry, points: Points, r: float) -> MethodFigures:
    if name == "group_jackknife":
        if points.groups is None:
            return MethodFigures(name, note="no groups given")
        if not enough_groups(points.groups):
            return MethodFigures(name, note="fewer than five groups")
        labels = points.groups
    else:
        labels = jackknife_labels(points.x, points.y, geometry.cells)
    sums = block_sums(moments(points.a, points.b), labels)
    _, error = jackknife(sums, correlation_of)
    if np.isnan(error):
        return MethodFigures(name, note=ONE_BLOCK)
    freedom = len(sums) - 1
    z = np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15)) * (1.0 - r * r)
    p_value = float(2.0 * stats.t.sf(abs(z) / max(float(error), 1e-15), freedom))
    interval = fisher_interval(r, float(error), float(stats.t.ppf(0.5 + _ONE_SIGMA / 2, freedom)))
    what = "groups" if name == "group_jackknife" else "blocks"
    return MethodFigures(name, float(error), interval, p_value, _worth(r, float(error)), f"{len(sums)} {what}")


def _worth(r: float, error: float) -> float:
    """Return the number of independent normal pairs with a given error of r."""
    return float(1.0 + ((1.0 - r * r) / error) ** 2) if error > 0 else np.nan
