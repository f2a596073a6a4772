"""Brighter-fatter effect: collected charge repels arriving charge.

Charge in a pixel moves the boundaries around it (Antilogus et al. 2014, JINST 9, C03048; Guyonnet et al. 2015, A&A 575, A41). The
model is linear in that charge (Astier et al. 2019, A&A 629, A36): across the boundary of the pixels ``i`` and ``j`` flows, from ``i`` to
``j``,

    F = 1/2 (Q_i + Q_j) / 2 sum_k a_k (Q_k - Q_k'),

with ``k`` the pixels on the side of ``i`` and ``k'`` their mirror images at the boundary. ``(Q_i + Q_j) / 2`` is the light at the
boundary and the first 1/2 the mean over the exposure of a linearly growing charge: the flow is applied once, to the final charge, exact
to first order in ``a``. Charge is conserved, and uniform light is unchanged.

White photon noise has the variance ``m``, the mean charge. The effect multiplies it by ``(1 + m L / 2)``, with ``L`` the convolution
given by ``a``. The variance becomes ``m (1 + m L_0 + m^2 / 4 sum_k L_k^2)``, the covariance of pixels at the lag ``k`` is
``m^2 L_k`` to first order, and the sum over all lags remains ``m``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from permil.arrays import FloatArray, FloatImage

REFERENCE_ELECTRONS = 50_000.0
"""Mean charge for which the loss of variance is given."""

_DISTANCES = (0.5, 1.5)
_REACH = 2
_SOFTENING = 0.5


def boundary_shifts() -> FloatArray:
    """Return the shape of ``a`` [distance, row]: the shift of a boundary by a charge, in units of its strength.

    A charge at the distances ``d`` across the boundary and ``r`` along it (pixels) from its middle shifts it by
    ``d / (d^2 + r^2 + 1/4)^2``, which falls with the third power as the field of a charge and its image does. Rows are ``d`` = 0.5
    and 1.5, columns ``|r|`` = 0, 1, 2; it is 0 beyond.
    """
    across, along = np.array(_DISTANCES)[:, None], np.arange(_REACH + 1.0)[None, :]
    return across / (across**2 + along**2 + _SOFTENING**2) ** 2


def strength(loss: float) -> float:
    """Return the factor of `boundary_shifts`, 1/electron, for a given loss of variance in flats of 50,000 electrons.

    Parameters
    ----------
    loss
        1 minus variance over mean.
    """
    centre = 2 * _REACH + 1
    single = np.zeros((2 * centre + 1, 2 * centre + 1))
    single[centre, centre] = 1.0
    response = _gain_of_pixels(*(_repulsion(along) for along in (single, single.T)))
    linear, square = -response[centre, centre], np.sum(response**2)
    # Solves loss = x linear - x^2 square / 4 for x = strength times mean.
    return float(2 * (linear - np.sqrt(linear**2 - square * loss)) / square / REFERENCE_ELECTRONS)


def repel_charge(charge: FloatImage, factor: float) -> None:
    """Move charge between the pixels of a sensor, in place; no charge leaves the sensor.

    Parameters
    ----------
    charge : ndarray, shape (ny, nx)
        Electrons at the end of the exposure.
    factor
        From `strength`.
    """
    flows = []
    for along in (charge, charge.T):
        flow = _repulsion(along)
        flow *= np.float32(factor / 4) * (along[:, :-1] + along[:, 1:])
        flows.append(flow)
    charge += _gain_of_pixels(*flows)


def _repulsion(charge: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return ``sum_k a_k (Q_k - Q_k')`` at the boundaries between columns, shape (ny, nx - 1), positive to the right.

    The charge of the edge pixels is continued beyond the sensor's edges.
    """
    rows, columns = charge.shape
    padded = np.pad(charge, _REACH, mode="edge")
    total = np.zeros((rows, columns - 1), dtype=charge.dtype, order="F" if charge.flags.fnc else "C")
    for beyond, shifts in enumerate(boundary_shifts()):
        left, right = _REACH - beyond, _REACH + 1 + beyond
        difference = padded[:, left : left + columns - 1] - padded[:, right : right + columns - 1]
        for along, shift in enumerate(shifts.astype(charge.dtype)):
            for row in {_REACH - along, _REACH + along}:
                total += shift * difference[row : row + rows]
    return total


def _gain_of_pixels(along_rows: NDArray[np.floating], along_columns: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the gain of each pixel from the flows to the right, shape (ny, nx - 1), and upwards, transposed, shape (nx, ny - 1)."""
    gain = np.zeros((along_rows.shape[0], along_columns.shape[0]), dtype=along_rows.dtype)
    for flow, into in ((along_rows, gain), (along_columns, gain.T)):
        into[:, :-1] -= flow
        into[:, 1:] += flow
    return gain
