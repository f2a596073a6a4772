"""Displacement predicted by a flat if its structure is due to pixel area.

Light absorbed at x is recorded at ``x + d(x)``: charge is conserved, so that uniform light shows ``F - 1 = -div d`` to first order. A
curl-free field has a potential, ``d = -grad phi`` with ``laplacian(phi) = F - 1``. The displacement in Plazas, Bernstein & Sheldon 2014
(PASP 126, 750, equation 3) is ``-d`` here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from permil.arrays import BoolArray, FloatArray
from permil.compare.scales import cosine_wavenumbers, laplacian_eigenvalues, smooth
from permil.errors import CompareError

Boundary = Literal["closed", "open"]
_FILL_SCALE = 2.0
"""Sigma (pixels) of the mean over the neighbours of small holes; larger holes use the nearest usable pixels."""
_FILL_GROWTH = 2.0
_FILL_ROUNDS = 12


@dataclass(frozen=True)
class Displacement:
    """A curl-free displacement, recorded minus true position.

    Attributes
    ----------
    shift_x : ndarray, shape (ny, nx + 1)
        Along x on the borders between columns, in cells of the map.
    shift_y : ndarray, shape (ny + 1, nx)
        Along y on the borders between rows.
    potential : ndarray, shape (ny, nx)
        ``d = -grad potential``.
    boundary
        ``closed``: no displacement across the edges of the map. ``open``: the sensor continues for half its size on each side with F = 1.
    filled
        Fraction of the map that was unusable and filled from its surroundings.
    """

    shift_x: FloatArray
    shift_y: FloatArray
    potential: FloatArray
    boundary: Boundary
    filled: float

    @property
    def x(self) -> FloatArray:
        """Displacement along x at the centre of each cell, shape (ny, nx)."""
        return np.asarray((self.shift_x[:, 1:] + self.shift_x[:, :-1]) / 2)

    @property
    def y(self) -> FloatArray:
        """Displacement along y at the centre of each cell, shape (ny, nx)."""
        return np.asarray((self.shift_y[1:] + self.shift_y[:-1]) / 2)

    @property
    def divergence(self) -> FloatArray:
        """Divergence in each cell: ``-(F - 1)`` minus its mean."""
        return np.asarray(np.diff(self.shift_x, axis=1) + np.diff(self.shift_y, axis=0))


def fill(image: NDArray[np.floating], usable: BoolArray) -> FloatArray:
    """Fill the unusable pixels of a map with Gaussian-weighted means of usable pixels, as narrow as the holes allow.

    Raises
    ------
    CompareError
        If no pixel is usable, or usable ones are not finite.
    """
    if usable.shape != image.shape:
        raise CompareError(
            f"the mask has shape {usable.shape}, but the map {image.shape}",
            remedy="give both of one detector",
            value=usable.shape,
        )
    if not usable.any():
        raise CompareError("no pixel of the map is usable", remedy="check its mask")
    if not np.isfinite(image[usable]).all():
        raise CompareError("the map is not finite in pixels marked as usable", remedy="mask them")
    filled = np.where(usable, image, 0.0).astype(np.float64)
    holes, scale = ~usable, _FILL_SCALE
    for _ in range(_FILL_ROUNDS):
        if not holes.any():
            break
        weight = ndimage.gaussian_filter(usable.astype(np.float64), scale, mode="constant")
        near = holes & (weight > 0.05)
        if near.any():
            filled[near] = smooth(image, usable, scale)[near]
            holes &= ~near
        scale *= _FILL_GROWTH
    if holes.any():
        filled[holes] = filled[usable].mean()
    return filled


def displacement_from_flat(excess: NDArray[np.floating], usable: BoolArray, *, boundary: Boundary = "closed") -> Displacement:
    """Solve ``div d = -(F - 1)`` for the curl-free displacement.

    Parameters
    ----------
    excess : ndarray, shape (ny, nx)
        ``F - 1``; its mean is subtracted, since it is degenerate with the scale of the flat.
    usable : ndarray of bool, shape (ny, nx)
        Pixels with a known flat.
    boundary
        See `Displacement`.

    Returns
    -------
    Displacement
        Displacement in cells of the map. ``divergence`` is ``-(F - 1)`` less the mean, exactly, in every cell.

    Raises
    ------
    CompareError
        If nothing is usable, or the map is not finite at usable pixels.
    """
    whole = fill(excess, usable)
    whole -= whole[usable].mean()
    ny, nx = whole.shape
    margin_y, margin_x = (ny // 2, nx // 2) if boundary == "open" else (0, 0)
    source = np.pad(whole, ((margin_y, margin_y), (margin_x, margin_x)))
    spectrum = fft.dctn(source, norm="ortho", workers=2)
    eigenvalues = laplacian_eigenvalues(*cosine_wavenumbers(source.shape))
    eigenvalues[0, 0], spectrum[0, 0] = 1.0, 0.0
    potential = fft.idctn(spectrum / eigenvalues, norm="ortho", workers=2)
    shift_x, shift_y = np.zeros((source.shape[0], source.shape[1] + 1)), np.zeros((source.shape[0] + 1, source.shape[1]))
    shift_x[:, 1:-1], shift_y[1:-1] = -np.diff(potential, axis=1), -np.diff(potential, axis=0)
    rows, columns = slice(margin_y, margin_y + ny), slice(margin_x, margin_x + nx)
    return Displacement(
        shift_x=shift_x[rows, margin_x : margin_x + nx + 1],
        shift_y=shift_y[margin_y : margin_y + ny + 1, columns],
        potential=potential[rows, columns],
        boundary=boundary,
        filled=float(1 - usable.mean()),
    )
