"""Spot measurements of many exposures as arrays, with known truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.spots.catalog import SpotCatalog

SHAPE = (1024, 1024)


@dataclass(frozen=True)
class Campaign:
    """Catalogs and their truth: spot fluxes, exposure scales, throughput minus 1 as a function of place."""

    catalogs: list[SpotCatalog]
    fluxes: NDArray[np.float64]
    scales: NDArray[np.float64]
    size: tuple[int, int]
    pitch: float
    offsets: NDArray[np.float64]


def throughput(x, y):
    """Return a smooth throughput minus 1 of about 3 per mil rms, without much of a gradient."""
    return 0.003 * (np.sin(2 * np.pi * x / 310) * np.cos(2 * np.pi * y / 260) + np.cos(2 * np.pi * (x + y) / 350))


def no_throughput(x, y):
    """Return zeros."""
    return np.zeros_like(x)


def draw_campaign(
    rng: np.random.Generator,
    *,
    exposures: int = 100,
    size: tuple[int, int] = (15, 15),
    pitch: float = 40.0,
    response=throughput,
    lamp: float = 0.01,
    drift: float = 0.0,
    fixed: bool = False,
    flux: float = 1e6,
    outliers: float = 0.0,
    with_errors: bool = True,
) -> Campaign:
    """Draw a campaign on a cut-out detector of 1024 x 1024 pixels; dithers cover 10 pitches (+- 5 of them)."""
    columns, rows = size
    i, j = (index.ravel() for index in np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"))
    fluxes = flux * rng.uniform(0.3, 1.0, columns * rows)
    offsets = rng.normal(0, 0.05, (columns * rows, 2))
    shape = rng.normal([5.0, 5.2, 0.1], 0.03, (columns * rows, 3))
    scales = 1 + lamp * rng.standard_normal(exposures) + drift * np.linspace(-0.5, 0.5, exposures)
    catalogs = []
    for k in range(exposures):
        centre = np.array([511.5, 511.5]) + (0 if fixed else rng.uniform(-5.2, 5.2, 2) * pitch)
        x = centre[0] + (i - (columns - 1) / 2) * pitch + offsets[:, 0]
        y = centre[1] + (j - (rows - 1) / 2) * pitch + offsets[:, 1]
        signal = fluxes * scales[k] * (1 + response(x, y))
        error = np.sqrt(signal + 200 * 30.0)
        measured = signal + error * rng.standard_normal(len(x))
        bad = rng.random(len(x)) < outliers
        measured[bad] *= rng.uniform(0.2, 3.0, bad.sum())
        on = (x > 10) & (x < SHAPE[1] - 11) & (y > 10) & (y < SHAPE[0] - 11)
        moments = shape + rng.normal(0, 0.01, shape.shape)
        catalogs.append(
            SpotCatalog(
                x=x + rng.normal(0, 0.01, len(x)),
                y=y + rng.normal(0, 0.01, len(x)),
                xx=moments[:, 0],
                yy=moments[:, 1],
                xy=moments[:, 2],
                flux=measured,
                x_err=np.full(len(x), 0.01),
                y_err=np.full(len(x), 0.01),
                xx_err=np.full(len(x), 0.01),
                yy_err=np.full(len(x), 0.01),
                xy_err=np.full(len(x), 0.01),
                flux_err=error if with_errors else np.full(len(x), np.nan),
                grid_i=i,
                grid_j=j,
                detector="R22_S11",
                exposure=f"MC_C_20191030_{k:06d}",
                band="red",
                mjd=58786.0 + k / 1440,
            ).select(on)
        )
    return Campaign(catalogs, fluxes, scales, size, pitch, offsets)
