"""Exact predictions of a sum of Gaussian covariances for centred maps at given points: mode powers and traces.

A covariance that is valid for isotropic fields in any number of dimensions is a non-negative mixture of Gaussians of all lengths
(Schoenberg 1938, Ann. Math. 39, 811): white, Gaussian, Matérn, and power laws within a window are all of this kind. For such a mixture
every expectation of a quadratic form is linear in the weights, so that centring, border, holes and irregular positions cause no bias:
observations are never compared with a spectrum that a finite, centred map cannot have (the idea of the debiased Whittle likelihood:
Sykulski et al. 2019, Biometrika 106, 251; Guillaumin et al. 2022, J. R. Stat. Soc. B 84, 1526).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from permil.compare.correlation.cells import Cells

FloatArray = NDArray[np.float64]

_SHORTEST = 0.5
# In units of the diagonal: longer components are gradients.
_LONGEST = 2.0
_RATIO = 2.0 ** (1.0 / 6.0)
_MODES_AT_ONCE = 32


@dataclass(frozen=True)
class Expectations:
    """Predictions for each component of the mixture: white noise first, then Gaussians ``exp(-h^2 / 2 l^2)``.

    All components are scaled to unit mean square of the centred map.

    Attributes
    ----------
    lengths : ndarray, shape (components - 1,)
        Lengths ``l``.
    modes : ndarray of float32, shape (n, modes)
        The modes.
    power : ndarray, shape (modes, components)
        Expected square of a map's projection on each mode.
    traces : ndarray, shape (components, components)
        ``tr(B K_i B K_j) / n^2`` with the centring B: the variance of the correlation of independent maps with these covariances.
    variance : ndarray, shape (components,)
        Variance at a point of the component, before centring.
    """

    lengths: FloatArray
    modes: NDArray[np.float32]
    power: FloatArray
    traces: FloatArray
    variance: FloatArray


def expectations(cells: Cells, modes: NDArray[np.float32]) -> Expectations:
    """Compute the predictions for the points of some cells (points in one cell count as one position)."""
    longest, shortest = _LONGEST * cells.diagonal, _SHORTEST * min(cells.spacings)
    number = int(np.ceil(np.log(longest / shortest) / np.log(_RATIO) - 1e-6)) + 1
    lengths = shortest * _RATIO ** np.arange(number, dtype=float)
    along_x = np.exp(-0.5 * (cells.lag_x / lengths[:, None]) ** 2)
    along_y = np.exp(-0.5 * (cells.lag_y / lengths[:, None]) ** 2)
    power = np.hstack([np.sum(modes**2, axis=0, dtype=float)[:, None], _mode_power(cells, modes, along_x, along_y)])
    traces, centred = _traces(cells, along_x, along_y)
    scale = cells.n / centred
    return Expectations(
        np.asarray(lengths, dtype=float), modes, power * scale, traces * np.outer(scale, scale) / cells.n**2, scale
    )


def _mode_power(cells: Cells, modes: NDArray[np.float32], along_x: FloatArray, along_y: FloatArray) -> FloatArray:
    """Return ``phi' K phi`` of each mode and each Gaussian: the power of the mode weighted with the transform of the Gaussian."""
    rows, columns = cells.padded
    spectrum_x = fft.rfft(along_x, axis=1).real
    spectrum_x[:, 1 : (columns + 1) // 2] *= 2.0
    spectrum_y = fft.fft(along_y, axis=1).real
    spectra = (spectrum_y[:, :, None] * spectrum_x[:, None, :]).reshape(len(along_x), -1).astype(np.float32) / (rows * columns)
    result = np.empty((modes.shape[1], len(along_x)))
    for begin in range(0, modes.shape[1], _MODES_AT_ONCE):
        block = modes[:, begin : begin + _MODES_AT_ONCE]
        fields = np.array([cells.total(mode) for mode in block.T], dtype=np.float32)
        # Rows of padding are not transformed.
        transform = fft.fft(fft.rfft(fields, columns, axis=2), rows, axis=1, overwrite_x=True)
        squares = (transform.real**2 + transform.imag**2).reshape(len(fields), -1)
        result[begin : begin + len(fields)] = squares @ spectra.T
    return result


def _traces(cells: Cells, along_x: FloatArray, along_y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return ``tr(B K_i B K_j)`` and ``tr(B K_i)`` of white noise and the Gaussians.

    ``tr(B K B L) = sum_h N(h) K(h) L(h) - (2 / n) (K 1)'(L 1) + (1'K 1)(1'L 1) / n^2`` with the number of pairs N; Gaussians are
    separable, so the first sum is a bilinear form.
    """
    n, components = cells.n, len(along_x) + 1
    counted = cells.transform(np.ones(n))
    row_sums = np.ones((components, n))
    for component, (gaussian_x, gaussian_y) in enumerate(zip(along_x, along_y, strict=True), start=1):
        kernel = fft.fft(gaussian_y)[:, None] * fft.rfft(gaussian_x)[None, :]
        row_sums[component] = cells.smoothed(counted, kernel)
    totals = row_sums.sum(axis=1)
    traces = -2.0 / n * (row_sums @ row_sums.T) + np.outer(totals, totals) / n**2
    traces[0] += n
    traces[1:, 0] += n
    for i in range(components - 1):
        weighted = (along_y[i:] * along_y[i]) @ cells.pairs
        traces[i + 1, i + 1 :] += np.sum(weighted * (along_x[i:] * along_x[i]), axis=1)
        traces[i + 1 :, i + 1] = traces[i + 1, i + 1 :]
    return traces, n - totals / n
