"""Stars on maps: what each star answers to maps of a sensor, and what sums over stars weigh the maps with (compiled)."""

from __future__ import annotations

import numpy as np
from numba import njit

from permil.compare.stars.kernels import (
    DX,
    XX,
    circle_part,
    draw_star,
    five_point_laplacian,
    glow_kernels,
    star_answers,
    star_kernels,
)


@njit(cache=True, nogil=True, inline="always")
def _mirrored(index, size):  # type: ignore[no-untyped-def]
    """Return the pixel that stands for one beyond the detector's edge: nothing crosses it."""
    if index < 0:
        index = -1 - index
    if index >= size:
        index = 2 * size - 1 - index
    return min(max(index, 0), size - 1)


@njit(cache=True, nogil=True)
def _stack_kernels(kernels, work, on_excess, on_potential):  # type: ignore[no-untyped-def]
    """Fill kernels as rows: those of templates and instruments on F - 1, those of templates on the potential."""
    for quantity in range(6):
        on_excess[quantity] = kernels[0, quantity].ravel()
        on_potential[quantity] = kernels[1, quantity].ravel()
        on_potential[6 + quantity] = kernels[2, quantity].ravel()
    for shift in range(2):
        on_excess[6 + shift] = -kernels[1, DX + shift].ravel()
    for width in range(2):
        five_point_laplacian(kernels[2, XX + width], work)
        on_excess[8 + width] = work.ravel()


@njit(cache=True, nogil=True)
def _cut_patch(maps, row, column, half, patch):  # type: ignore[no-untyped-def]
    """Fill the pixels (size size, bands) around one; what lies beyond the edges is mirrored."""
    size = 2 * half + 1
    for a in range(size):
        from_row = _mirrored(row + a - half, maps.shape[0])
        for b in range(size):
            from_column = _mirrored(column + b - half, maps.shape[1])
            for band in range(maps.shape[2]):
                patch[a * size + b, band] = maps[from_row, from_column, band]


@njit(cache=True, nogil=True)
def predict_stars(  # type: ignore[no-untyped-def]
    x,
    y,
    glow,
    fractions,
    covariances,
    moments,
    radius,
    adaptive,
    half,
    excess,
    potential,
    unseen,
    templates,
    instruments,
):
    """Fill what each quantity of each star answers to maps of bands, were they of one kind.

    ``excess`` and ``potential`` are (ny, nx, bands); ``unseen`` (bands) the part of a band that the subtracted background does not follow;
    ``templates`` (n, 6, 3, bands); ``instruments`` (n, 6, bands) are the flux's answer to efficiency, the shifts' to the area times
    ``-laplacian`` and the sizes' to diffusion times ``laplacian^2``.
    """
    bands = excess.shape[2]
    size = 2 * half + 1
    light, work = np.empty((size, size)), np.empty((size, size))
    answer, kernels = np.empty((6, size, size)), np.empty((3, 6, size, size))
    on_excess, on_potential = np.empty((10, size * size)), np.empty((12, size * size))
    excess_patch, potential_patch = np.empty((size * size, bands)), np.empty((size * size, bands))
    for star in range(x.size):
        column, row = int(np.floor(x[star] + 0.5)), int(np.floor(y[star] + 0.5))
        u0, v0 = x[star] - column, y[star] - row
        flux = star_answers(u0, v0, fractions, covariances[star], moments[star], radius, adaptive, light, answer)
        _cut_patch(excess, row, column, half, excess_patch)
        _cut_patch(potential, row, column, half, potential_patch)
        star_kernels(light, answer, work, kernels)
        _stack_kernels(kernels, work, on_excess, on_potential)
        seen, moved = np.dot(on_excess, excess_patch), np.dot(on_potential, potential_patch)
        if glow[star] > 0.0:
            glow_kernels(answer, kernels)
            _stack_kernels(kernels, work, on_excess, on_potential)
            shown = (glow[star] * flux) * unseen * np.dot(on_excess, excess_patch)
            seen += shown
            # Even light shows all kinds alike.
            moved[:6] += shown[:6]
            moved[6:] += shown[:6]
        for quantity in range(6):
            templates[star, quantity, 0] = seen[quantity]
            templates[star, quantity, 1] = moved[quantity]
            templates[star, quantity, 2] = moved[6 + quantity]
        instruments[star, 0] = seen[0]
        instruments[star, 1:5] = seen[6:10]


@njit(cache=True, nogil=True)
def _bin_kernels(kernels, row, column, half, cell, shape, binned):  # type: ignore[no-untyped-def]
    """Add kernels (3, 6, size, size) to cells (3, 5, rows, columns), the first of which holds the first pixel of the stamp."""
    size = 2 * half + 1
    first_row, first_column = max(row - half, 0) // cell, max(column - half, 0) // cell
    binned[:] = 0.0
    for a in range(size):
        to_row = _mirrored(row + a - half, shape[0]) // cell - first_row
        for b in range(size):
            to_column = _mirrored(column + b - half, shape[1]) // cell - first_column
            if 0 <= to_row < binned.shape[2] and 0 <= to_column < binned.shape[3]:
                for kind in range(3):
                    for quantity in range(5):
                        binned[kind, quantity, to_row, to_column] += kernels[kind, quantity, a, b]
    return first_row, first_column


@njit(cache=True, nogil=True)
def _add_cells(binned, weights, first_row, first_column, maps):  # type: ignore[no-untyped-def]
    """Add cells (3, 5, rows, columns), weighted (5, bands), to the maps of `spread_weights`."""
    rows, columns = min(binned.shape[2], maps.shape[3] - first_row), min(binned.shape[3], maps.shape[4] - first_column)
    for kind in range(3):
        for quantity in range(5):
            total = (quantity + 1) // 2
            for band in range(weights.shape[1]):
                weight = weights[quantity, band]
                if weight != 0.0:
                    for a in range(rows):
                        for b in range(columns):
                            maps[kind, total, band, first_row + a, first_column + b] += weight * binned[kind, quantity, a, b]


@njit(cache=True, nogil=True)
def spread_weights(  # type: ignore[no-untyped-def]
    x,
    y,
    glow,
    fractions,
    covariances,
    moments,
    radius,
    adaptive,
    half,
    cell,
    shape,
    unseen,
    weights,
    maps,
):
    """Add what weighted sums over stars weigh each cell of the three maps with: the adjoint of `predict_stars`.

    ``weights`` (n, 5, bands) are those of flux, dx, dy, xx, yy; ``maps`` (3 kinds of map, 3 kinds of sum, bands, rows, columns): the
    sums over fluxes, over shifts and over sizes. Even light weighs each band by what is ``unseen`` of it.
    """
    size = 2 * half + 1
    light, work = np.empty((size, size)), np.empty((size, size))
    answer, kernels = np.empty((6, size, size)), np.empty((3, 6, size, size))
    binned = np.empty((3, 5, size // cell + 2, size // cell + 2))
    for star in range(x.size):
        column, row = int(np.floor(x[star] + 0.5)), int(np.floor(y[star] + 0.5))
        u0, v0 = x[star] - column, y[star] - row
        flux = star_answers(u0, v0, fractions, covariances[star], moments[star], radius, adaptive, light, answer)
        star_kernels(light, answer, work, kernels)
        first_row, first_column = _bin_kernels(kernels, row, column, half, cell, shape, binned)
        _add_cells(binned, weights[star], first_row, first_column, maps)
        if glow[star] > 0.0:
            glow_kernels(answer, kernels)
            _bin_kernels(kernels, row, column, half, cell, shape, binned)
            _add_cells(binned, (glow[star] * flux) * unseen * weights[star], first_row, first_column, maps)


@njit(cache=True, nogil=True)
def weigh_flat(x, y, fractions, covariances, radius, half, flat, variance, usable, seen, spread, lost):  # type: ignore[no-untyped-def]
    """Fill the mean of a flat over the light of each star in its circle, its variance, and the part of the weight that is not usable."""
    ny, nx = flat.shape
    size = 2 * half + 1
    light = np.empty((size, size))
    for star in range(x.size):
        column, row = int(np.floor(x[star] + 0.5)), int(np.floor(y[star] + 0.5))
        u0, v0 = x[star] - column, y[star] - row
        draw_star(u0, v0, fractions, covariances[star], light)
        total = known = mean = squares = 0.0
        for a in range(size):
            for b in range(size):
                weight = light[a, b] * circle_part(b - half - u0, a - half - v0, radius)
                total += weight
                from_row, from_column = row + a - half, column + b - half
                if 0 <= from_row < ny and 0 <= from_column < nx and usable[from_row, from_column]:
                    known += weight
                    mean += weight * flat[from_row, from_column]
                    squares += weight * weight * variance[from_row, from_column]
        lost[star] = 1.0 - known / total
        if known > 0.0:
            seen[star] = mean / known
            spread[star] = squares / (known * known)
