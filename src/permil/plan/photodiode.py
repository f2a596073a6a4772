"""The photodiode at the images of a plan, and the part of the errors that comes from the estimate of its drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
from scipy import linalg

from permil.arrays import FloatArray, IntArray
from permil.flat.joint import DetectorSignals, PhotodiodeModel
from permil.flat.joint.photodiode_fit import FEW_READINGS, fit_photodiode
from permil.flat.joint.prior import UNKNOWN_SCALE


@dataclass(frozen=True)
class PlannedPhotodiode(PhotodiodeModel):
    """The photodiode at the images of each position.

    Images at one position see the same beam on the same pixels, so that signals determine their scales relative to each other: each
    reading is the mean scale of its position, plus the difference of its own scale, drift and noise.

    Parameters
    ----------
    images : tuple of int
        Number of images at each position.
    scale_variance : tuple of float
        Relative variance of the scale of one image at each position, from signals, relative to the other images there.
    """

    images: tuple[int, ...] = ()
    scale_variance: tuple[float, ...] = ()

    @property
    def position(self) -> IntArray:
        """Number of the position of each image."""
        return np.repeat(np.arange(len(self.images)), self.images)

    def image_times(self, time: FloatArray) -> FloatArray:
        """Return the times of all images from the mean times of the positions."""
        images, position = np.array(self.images), self.position
        within = np.arange(position.size) - (np.cumsum(images) - images)[position]
        return time[position] + within - (images[position] - 1) / 2

    def differences(self) -> FloatArray:
        """Return the covariance from signals of the differences of images from the mean of their position, block by block."""
        blocks = [
            variance * (np.eye(count) - 1.0 / count) for count, variance in zip(self.images, self.scale_variance, strict=True)
        ]
        return np.asarray(linalg.block_diag(*blocks))

    def covariance(self, time: FloatArray, epoch: IntArray | None = None) -> FloatArray:
        """Return the covariance of the scales of the positions from the readings of all images, shape (n, n)."""
        images = np.array(self.images)
        if not self.drifts and epoch is None:
            return np.diag(self.white**2 / images)
        position = self.position
        every = super().covariance(self.image_times(time), None if epoch is None else epoch[position]) + self.differences()
        factor = linalg.cholesky(every, lower=True, overwrite_a=True)
        mean = linalg.solve_triangular(factor, position[:, None] == np.arange(images.size), lower=True)
        return linalg.inv(mean.T @ mean)

    def merged(self) -> PlannedPhotodiode:
        """Return the same with one image at each position, with the mean noise of the readings there."""
        ones = (1,) * len(self.images)
        return replace(self, white=self.white * float(np.sqrt(np.mean(1.0 / np.array(self.images)))), images=ones)


def scale_variances(signals: Sequence[DetectorSignals], images: IntArray) -> FloatArray:
    """Return the relative variance of the scale of one image at each position from the signals of all detectors, shape (n,).

    Parameters
    ----------
    signals
        Of the mean of the images at each position.
    images : ndarray of int, shape (n,)
        Number of images at each position.
    """
    information = np.zeros(images.size)
    for each in signals:
        information[each.exposures] += np.where(np.isfinite(each.log_signal), 1.0 / each.variance, 0.0).sum(axis=1)
    return 1.0 / (information / images + UNKNOWN_SCALE**-2)


@dataclass(frozen=True)
class DriftEstimate:
    """A simulation of the joint solution's estimate of noise and drift of the photodiode.

    Parameters
    ----------
    draws : int
        Number of simulated campaigns.
    seed : int
        Seed of the simulation.

    Notes
    -----
    Let ``b`` be the scales with the drift's covariance known and ``b'`` those with the covariance that is estimated from the same data.
    Both are unbiased; ``b' - b`` depends on the contrasts of the data alone, and the error of ``b`` is independent of these (Kackar &
    Harville 1984, Journal of the American Statistical Association 79, 853). So the mean square of ``b' - b`` adds to the covariance of
    ``b``. It is
    averaged over simulated readings, whose covariance is estimated as in the joint solution
    (`permil.flat.joint.photodiode_fit.fit_photodiode`).
    """

    draws: int = 16
    seed: int = 0

    def deviations(self, photodiode: PlannedPhotodiode, time: FloatArray, information: FloatArray) -> FloatArray:
        """Return ``b' - b`` for the mean scales of the positions, shape (draws, n).

        With more than 400 images those of a position count as one reading.

        Parameters
        ----------
        photodiode
            The true one.
        time : ndarray, shape (n,)
            Mean times of the positions.
        information : ndarray, shape (n, n)
            Information of the signals on the mean scales of the positions.
        """
        if sum(photodiode.images) > FEW_READINGS:
            photodiode = photodiode.merged()
        images, position = np.array(photodiode.images), photodiode.position
        times, count = photodiode.image_times(time), position.size
        mean = (position == np.arange(images.size)[:, None]) / images[:, None]
        within = np.eye(count) - (position[:, None] == position) / images[position]
        within /= np.sqrt(np.array(photodiode.scale_variance)[position])[:, None]
        known = mean.T @ information @ mean + within @ within
        strength, direction = np.linalg.eigh(information)
        # The symmetric root: eigenvectors alone are not continuous in the positions.
        root = mean.T @ (direction * np.sqrt(np.maximum(strength, 0.0))) @ direction.T
        truth = PhotodiodeModel(photodiode.white, 0.0, photodiode.drifts)
        size, mode = np.linalg.eigh(truth.covariance(times))
        rng = np.random.default_rng(self.seed)
        normal = scipy.stats.norm.ppf(scipy.stats.qmc.LatinHypercube(count, rng=rng).random(self.draws))
        regressors = np.zeros((count, 0))
        result = np.empty((self.draws, images.size))
        # No measurement determines the mean of all scales.
        hold = np.full((count, count), np.trace(known) / count**2)
        precision = truth.precision(times, regressors)
        for number, each in enumerate(normal):
            reading = mode @ (np.sqrt(np.maximum(size, 0.0)) * each)
            of_signals = root @ rng.standard_normal(images.size) + within @ rng.standard_normal(count)
            fit = fit_photodiode(
                times, regressors, known, of_signals - known @ reading, white=truth.white, most_readings=FEW_READINGS
            )
            estimated = fit.model.precision(times, regressors)
            best, found = (
                linalg.solve(known + hold + prior, prior @ reading + of_signals, assume_a="pos")
                for prior in (precision, estimated)
            )
            result[number] = mean @ (found - best)
        return result - result.mean(axis=1, keepdims=True)
