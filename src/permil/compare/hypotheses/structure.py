"""Errors of fractions from structure of the sensor: the part of each kind that does not follow the flat.

An estimate is a weighted sum over stars, which is a weighted mean of maps: ``estimate_j = sum_k <G_jk, map_k>``,
with G from the adjoint of the response (`StarResponse.spread`). In a band, ``map_k = f_k (F - 1) + u_k``, and the three u_k add up to 0.
If G were the flat itself, u_k would not contribute: f_k is defined as cov(map_k, F) / var(F). The part of G that is not the flat admits
the u_k: stars are few, and do not contain terms absorbed by the calibration. With u_k as random fields of the flat's power spectrum,

    variance = sum_kk' C_kk' (<G_k| S |G_k'> - <G_k| S |E> <E| S |G_k'> / <E| S |E>),    C = diag(f) - f f^T

(E: the flat at the positions of the stars). C is the covariance of independent kinds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from permil.compare.scales import Band, cosine_wavenumbers, laplacian_eigenvalues

FloatArray = NDArray[np.float64]
Map = NDArray[np.float32]

_BINS_PER_OCTAVE = 6


@dataclass(frozen=True)
class FlatSpectrum:
    """Power spectrum of a flat: variance per mode of the cosine transform of its pixels.

    Attributes
    ----------
    wavenumber, power : ndarray
        Wavenumbers (radian per pixel), and power of the flat without its noise.
    noise
        Variance of a pixel of the flat.
    """

    wavenumber: FloatArray
    power: FloatArray
    noise: float

    def at(self, wavenumber: FloatArray) -> FloatArray:
        """Return the power at wavenumbers."""
        place = np.log(np.maximum(wavenumber, self.wavenumber[0]))
        return np.asarray(np.interp(place, np.log(self.wavenumber), self.power))


def flat_spectrum(excess: FloatArray, noise: float) -> FlatSpectrum:
    """Return the power spectrum of a map without gaps, minus that of white noise of variance ``noise``."""
    spectrum = fft.dctn(excess, norm="ortho", workers=2) ** 2
    wavenumber = np.hypot(*cosine_wavenumbers(excess.shape)).ravel()
    longest = np.pi / max(excess.shape)
    octave = np.floor(_BINS_PER_OCTAVE * np.log2(np.maximum(wavenumber, 0.5 * longest) / longest)).astype(np.int64)
    octave -= octave.min()
    counted = wavenumber > 0
    count = np.bincount(octave[counted])
    with np.errstate(invalid="ignore", divide="ignore"):
        power = np.bincount(octave[counted], spectrum.ravel()[counted]) / count
        middle = np.bincount(octave[counted], wavenumber[counted]) / count
    known = count > 0
    return FlatSpectrum(middle[known], np.maximum(power[known] - noise, 0.0), noise)


@dataclass(frozen=True)
class Structure:
    """The maps of an estimate as spectra on cells, for any model of the structure.

    Attributes
    ----------
    sums : ndarray, shape (3 kinds of map, sums, rows, columns)
        Cosine transforms of G.
    flats : ndarray, shape (bands, rows, columns)
        Cosine transforms of E.
    energies : ndarray, shape (bands,)
        <E, F - 1> of each band, without the noise of the flat.
    cell
        Side of a cell, pixels.
    bands
        Bands of periods of the flat.
    spectrum
        Power of the flat.
    """

    sums: Map
    flats: Map
    energies: FloatArray
    cell: int
    bands: tuple[Band, ...]
    spectrum: FlatSpectrum

    def variances(self, covariance: FloatArray, extra: FloatArray, fractions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the covariance of the sums from structure, and the variance of the realised fractions in the population of such sensors.

        Parameters
        ----------
        covariance : ndarray, shape (bands, 3, 3)
            C of each band.
        extra : ndarray, shape (bands, 3)
            Variance, relative to that of the flat, of structure that affects stars but not the flat.
        fractions : ndarray, shape (bands, 3)
            The noise of the flat acts as structure ``-f_k noise``.

        Returns
        -------
        of_sums : ndarray, shape (sums, sums)
        of_fractions : ndarray, shape (bands, 3)
        """
        count = self.sums.shape[1]
        along_y, along_x = cosine_wavenumbers(self.sums.shape[-2:], pixel=self.cell)
        wavenumber = np.hypot(along_y, along_x).ravel()
        eigenvalues = laplacian_eigenvalues(along_y, along_x).ravel()
        sums = self.sums.reshape(3 * count, -1)
        total, realised = np.zeros((count, count)), np.zeros((len(self.bands), 3))
        for number, band in enumerate(self.bands):
            modes = np.flatnonzero(band.holds(wavenumber))
            if band.shortest < 2 * self.cell or modes.size == 0:
                continue
            # A mode of cell means is a mode of the pixels divided by the side of a cell.
            amplitude = np.sqrt(self.spectrum.at(wavenumber[modes])) / self.cell
            weights = sums[:, modes].astype(np.float64)
            # Maps of pixel area and diffusion weight the potential.
            weights[count:] /= eigenvalues[modes]
            white = (weights @ weights.T).reshape(3, count, 3, count) * (self.spectrum.noise / self.cell**2)
            weights *= amplitude
            common = (weights @ weights.T).reshape(3, count, 3, count)
            flat = self.flats[number].ravel()[modes] * amplitude
            norm = float(flat @ flat)
            along = (weights @ flat).reshape(3, count) / np.sqrt(norm) if norm > 0 else np.zeros((3, count))
            total += np.einsum("ab,ajbk->jk", covariance[number] + np.diag(extra[number]), common)
            total -= np.einsum("ab,aj,bk->jk", covariance[number], along, along)
            total += np.einsum("a,b,ajbk->jk", fractions[number], fractions[number], white)
            if self.energies[number] > 0:
                realised[number] = np.diag(covariance[number]) * norm / self.energies[number] ** 2
        return total, realised
