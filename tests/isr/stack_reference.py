"""Stacks of frames in plain NumPy and double precision, pixel by pixel as the documentation of `permil.isr.stack` describes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from permil.camera import Detector
from permil.isr import DetectorImage, Stack
from permil.products import MaskPlane

FloatArray = NDArray[np.float64]


def stack_frames(frames: list[DetectorImage], light: list[float], *, threshold: float = 5.0, poisson: bool = True) -> Stack:
    """Return the stack of reduced exposures."""
    detector: Detector = frames[0].detector
    q = (np.array(light) / light[0]).astype(np.float32).astype(float)
    noise = np.mean([frame.noise_variance for frame in frames], axis=0)
    shape = detector.shape
    out = {name: np.empty(shape) for name in ("image", "variance")}
    out |= {name: np.empty(shape, dtype=np.int64) for name in ("mask", "kept", "rejected")}
    reduced = np.empty(noise.size)
    for index, amplifier in enumerate(detector.amplifiers):
        part = amplifier.slices
        signal = np.array([frame.image[part] for frame in frames], dtype=float)
        planes = np.array([frame.mask[part] for frame in frames])
        found, reduced[index] = _stack_pixels(signal, planes, q, float(noise[index]), threshold, 1.0 if poisson else 0.0)
        for name, values in found.items():
            out[name][part] = values
    return Stack(detector, **out, light=q, noise_variance=noise, chi_square=reduced)


def _stack_pixels(
    signal: FloatArray, planes: NDArray[np.int16], light: FloatArray, noise: float, threshold: float, photon: float
) -> tuple[dict[str, NDArray], float]:
    """Return the results of some pixels, frames first, and their reduced chi-square."""
    q = np.broadcast_to(light[:, np.newaxis, np.newaxis], signal.shape)
    present = ((planes & (MaskPlane.SAT | MaskPlane.NO_DATA)) == 0) & np.isfinite(signal)
    measured, sample = present.sum(axis=0), np.where(present, signal / q, 0.0)
    kept = present.copy()
    if np.isfinite(threshold):
        _reject(sample, q, kept, noise, threshold, photon)
    count, weight = kept.sum(axis=0), np.where(kept, q, 0.0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(kept, q * sample, 0.0).sum(axis=0) / weight
        image, ratio = mean * light.mean(), light.mean() / weight
        expected = photon * np.maximum(image, 0.0) + noise * count * ratio
        chi_square = light.mean() * np.where(kept, q * (sample - mean) ** 2, 0.0).sum(axis=0) / expected
    union = np.bitwise_or.reduce(planes, axis=0).astype(np.int64)
    without = union & ~int(MaskPlane.NO_DATA)
    is_few = ((union & MaskPlane.SAT) != 0) & (2 * measured > len(signal))
    mask = np.where(is_few, (without & ~int(MaskPlane.SAT)) | MaskPlane.SUSPECT, without)
    mask = np.where(measured > 0, mask, union | MaskPlane.NO_DATA)
    mask[count < measured] |= MaskPlane.REJECTED
    freedom = np.maximum(count - 1, 0)
    narrow = 2.0 / (9.0 * np.maximum(freedom, 1))
    limit = np.maximum(freedom, 1) * (1.0 - narrow + threshold * np.sqrt(narrow)) ** 3
    mask[(freedom > 0) & (chi_square > limit)] |= MaskPlane.SUSPECT
    used = ((mask & ~int(MaskPlane.REJECTED)) == 0) & (freedom > 0)
    reduced = float(chi_square[used].sum() / freedom[used].sum()) if used.any() else np.nan
    found = {"image": image, "variance": ratio * expected, "mask": mask, "kept": count, "rejected": measured - count}
    return found, reduced


def _reject(sample: FloatArray, q: FloatArray, kept: NDArray[np.bool_], noise: float, threshold: float, photon: float) -> None:
    """Reject the two largest and the smallest measurement of each pixel where they deviate from the mean of the others."""
    measured = kept.sum(axis=0)
    # Largest first; of three measurements or fewer these are all.
    order = np.argsort(np.where(kept, sample, -np.inf), axis=0)[::-1]
    smallest = np.take_along_axis(order, np.clip(measured - 1, 2, len(sample) - 1)[np.newaxis], axis=0)
    extremes = np.concatenate([order[:2], smallest]) if len(sample) > 2 else order
    values, weights = np.take_along_axis(sample, extremes, axis=0), np.take_along_axis(q, extremes, axis=0)
    first, last = np.zeros_like(measured), np.minimum(measured, 3) - 1
    for _ in range(3):
        count = kept.sum(axis=0)
        weight, total = np.where(kept, q, 0.0).sum(axis=0), np.where(kept, q * sample, 0.0).sum(axis=0)
        possible = (first <= last) & (count > 1) & (2 * (measured - count + 1) <= measured)
        deviations = []
        for end in (first, last):
            place = np.clip(end, 0, len(extremes) - 1)[np.newaxis]
            x, own = (np.take_along_axis(each, place, axis=0)[0] for each in (values, weights))
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = (total - x * own) / (weight - own)
                spread = photon * np.maximum(mean, 0.0) * (1 / own + 1 / (weight - own))
                spread += noise * (1 / own**2 + (count - 1) / (weight - own) ** 2)
                deviations.append(np.where(possible, (x - mean) ** 2 / spread, 0.0))
        of_first, of_last = (np.nan_to_num(each, posinf=np.inf) for each in deviations)
        hit = np.maximum(of_first, of_last) > threshold**2
        at_first = hit & (of_first >= of_last)
        place = np.clip(np.where(at_first, first, last), 0, len(extremes) - 1)[np.newaxis]
        frame = np.take_along_axis(extremes, place, axis=0)
        np.put_along_axis(kept, frame, np.take_along_axis(kept, frame, axis=0) & ~hit, axis=0)
        first, last = first + at_first, last - (hit & ~at_first)
