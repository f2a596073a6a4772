"""The colour of a simulated run against its truth: prints the figures of docs/theory/colour.md.

Ratios of neighbouring LEDs of every amplifier and detector, the ratio of vendors, and each pixel, over their stated errors. Values of one
run are correlated: the chi-squares of all levels, and of all levels and gradients, contain their covariance.

    python benchmarks/study_colour.py FOLDER...

Each folder is that of a simulated run with flats in several LEDs from the joint solution, after `permil run`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from permil import Flat
from permil.camera import Camera, load_camera
from permil.camera.frames import detector_to_ccs
from permil.colour.planes import LedPlanes, RatioPlanes, ratio_planes
from permil.colour.regions import Slices, change_of_regions
from permil.flat.between_leds import SharedTerms
from permil.flat.joint.file import open_joint, read_planes
from permil.flat.shared_errors import FlatModes, plane_matrix
from permil.flat.superpixel import super_pixels
from permil.products import RunFolder, is_good, read_image, read_table
from permil.products.folder import ColourFolder
from permil.yaml_file import read_yaml

FloatArray = NDArray[np.float64]


def main() -> None:
    """Print the figures of all folders together."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+")
    options = parser.parse_args()
    pulls: dict[str, list[float]] = {"detectors": [], "amplifiers": [], "within detectors": [], "gradients": [], "vendors": []}
    chi_squares: list[float] = []
    of_ratios: dict[str, list[tuple[float, int]]] = {"levels": [], "levels and gradients": []}
    for folder in options.folders:
        run, camera = RunFolder(folder), load_camera(_camera_of(folder))
        ratios = _ratios_over_truth(run, camera)
        _study(run, camera, ratios, pulls, chi_squares)
        for ratio in ratios.values():
            for name, rows in (("levels", slice(None, None, 3)), ("levels and gradients", slice(None))):
                # The mean level is a convention.
                values, covariance = ratio.values.ravel()[rows][1:], ratio.covariance[rows, rows][1:, 1:]
                of_ratios[name].append((float(values @ np.linalg.solve(covariance, values)), len(values)))
    for name, values in pulls.items():
        print(f"{name}: rms over error {np.sqrt(np.mean(np.square(values))):.2f} ({len(values)})")
    for name, found in of_ratios.items():
        chi_square, freedom = (sum(part) for part in zip(*found, strict=True))
        each = ", ".join(f"{one:.1f}" for one, _ in found)
        print(f"chi-square of {name}: {chi_square:.1f} of {freedom}, p = {stats.chi2.sf(chi_square, freedom):.2g} (each {each})")
    print(f"chi-square per pixel: {np.mean(chi_squares):.4f}, from {np.min(chi_squares):.4f} to {np.max(chi_squares):.4f}")


def _camera_of(folder: Path) -> str:
    content = read_yaml(folder / "run.yaml", kind="record of a run", error=ValueError)
    return str(content["config"]["camera"])


def _study(
    folder: RunFolder,
    camera: Camera,
    ratios: Mapping[tuple[str, str], RatioPlanes],
    pulls: dict[str, list[float]],
    chi_squares: list[float],
) -> None:
    table = read_table(ColourFolder(folder.root).table("ratios"))
    for pair in dict.fromkeys((str(row["led"]), str(row["over_led"])) for row in table):
        own = table[(table["led"] == pair[0]) & (table["over_led"] == pair[1])]

        logs: dict[str, list[tuple[float, float]]] = {"detectors": [], "amplifiers": []}
        for name in dict.fromkeys(str(name) for name in own["detector"]):
            true, made, good, variance = _ratios(folder, name, pair)
            deviation = np.where(good, made / true, np.nan)
            chi_squares.append(_chi_square(deviation, variance, good))
            rows = own[own["detector"] == name]
            pulls["within detectors"] += _pulls_within(folder, name, ratios[pair])
            for row in rows:
                region = (slice(None), slice(None)) if row["amp"] == "all" else camera[name].amplifier(str(row["amp"])).slices
                off = np.log(float(row["ratio"]) / _ratio_of_medians(folder, name, pair, good[region], region))
                error = float(row["ratio_err"]) / float(row["ratio"])
                logs["detectors" if row["amp"] == "all" else "amplifiers"].append((off, error))
                if row["amp"] == "all":
                    gradient = _gradient(folder, camera, name, pair)
                    pulls["gradients"] += [
                        (float(row[f"gradient_{axis}"]) - gradient[number]) / float(row[f"gradient_{axis}_err"])
                        for number, axis in enumerate("xy")
                    ]
        mean = np.mean([off for off, _ in logs["detectors"]])
        for kind, entries in logs.items():
            pulls[kind] += [(off - mean) / error for off, error in entries]
    vendors = read_table(ColourFolder(folder.root).table("vendors"))
    for row in vendors:
        pulls["vendors"].append(_vendor_pull(folder, camera, row, table))


def _ratios_over_truth(folder: RunFolder, camera: Camera) -> dict[tuple[str, str], RatioPlanes]:
    """Return the deviations of the ratios of neighbouring LEDs from the truth, on the scale of detectors."""
    leds = [led.name for led in camera.leds if folder.joint(led.name).is_file()]
    return {pair: ratio_planes(*(_deviations(folder, camera, led) for led in pair)) for pair in pairwise(leds)}


def _deviations(folder: RunFolder, camera: Camera, led: str) -> LedPlanes:
    """Return the deviations of levels and gradients of one LED from those of the true flats, with their errors."""
    names, covariance = read_planes(folder.joint(led))
    with open_joint(folder.joint(led)) as hdus:
        shared = SharedTerms.read(hdus)
    rows = []
    for name in names:
        flat, true = read_image(folder.flat(led, name)), read_image(folder.truth_flat(led, name)).image.astype(np.float64)
        good, modes = is_good(flat.mask) & (flat.image > 0), FlatModes.of(flat)
        block = 8 if modes is None else modes.block
        means = [super_pixels(image, good, block) for image in (flat.image.astype(np.float64), true)]
        row, column = np.nonzero(np.isfinite(means[0].mean))
        x, y = (centre[place] for centre, place in zip(means[0].centres(true.shape), (column, row), strict=True))
        operator = plane_matrix(*detector_to_ccs(camera[name], x, y))
        rows.append(operator @ np.log(means[0].mean[row, column] / means[1].mean[row, column]))
    return LedPlanes(led, tuple(names), np.array(rows), covariance, shared)


def _ratios(folder: RunFolder, name: str, pair: tuple[str, str]) -> tuple[FloatArray, FloatArray, NDArray[np.bool_], FloatArray]:
    """Return true and made ratio, good pixels, and the relative variance of the ratio."""
    made = [read_image(folder.flat(led, name)) for led in pair]
    true = [read_image(folder.truth_flat(led, name)).image.astype(np.float64) for led in pair]
    good = np.logical_and.reduce([is_good(one.mask) & (one.image > 0) for one in made])
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = sum(one.variance.astype(np.float64) / one.image.astype(np.float64) ** 2 for one in made)
        return true[0] / true[1], made[0].image.astype(np.float64) / made[1].image, good, np.asarray(variance)


def _ratio_of_medians(folder: RunFolder, name: str, pair: tuple[str, str], good: NDArray[np.bool_], region: Slices) -> float:
    """Return the ratio of the medians of the true flats; that of medians is not the median of the ratio."""
    medians = [float(np.median(read_image(folder.truth_flat(led, name)).image[region][good])) for led in pair]
    return medians[0] / medians[1]


def _chi_square(deviation: FloatArray, variance: FloatArray, good: NDArray[np.bool_], block: int = 8) -> float:
    """Return the chi-square per pixel of deviations about the mean of blocks."""
    rows, columns = (size // block * block for size in deviation.shape)
    shape = (rows // block, block, columns // block, block)
    parts = [np.where(good, part, np.nan)[:rows, :columns].reshape(shape) for part in (deviation, variance)]
    whole = np.isfinite(parts[0]).all(axis=(1, 3))
    from_mean = parts[0] / parts[0].mean(axis=(1, 3), keepdims=True) - 1
    chi_square = (from_mean**2 / parts[1]).mean(axis=(1, 3))[whole] * block**2 / (block**2 - 1)
    return float(chi_square.mean())


def _gradient(folder: RunFolder, camera: Camera, name: str, pair: tuple[str, str]) -> FloatArray:
    """Return the gradient of the true ratio, fitted where the detector's own was, CCS 1/mm."""
    true, _, good, _ = _ratios(folder, name, pair)
    modes = FlatModes.of(read_image(folder.flat(pair[0], name)))
    block = 8 if modes is None else modes.block
    means = super_pixels(true, good, block)
    row, column = np.nonzero(np.isfinite(means.mean))
    x, y = (centre[place] for centre, place in zip(means.centres(true.shape), (column, row), strict=True))
    operator = plane_matrix(*detector_to_ccs(camera[name], x, y))
    return np.asarray(operator[1:] @ np.log(means.mean[row, column]))


def _pulls_within(folder: RunFolder, name: str, ratio: RatioPlanes) -> list[float]:
    """Return the deviations of ratios of amplifiers from that of their detector, over their errors."""
    flats = [Flat.read(folder.flat(led, name)) for led in ratio.leds]
    usable = np.logical_and.reduce([flat.usable for flat in flats]).astype(np.float64)
    regions = []
    for amplifier in flats[0].detector.amplifiers:
        weights = np.zeros(usable.shape)
        weights[amplifier.slices] = usable[amplifier.slices]
        regions.append(weights)
    row, column = np.indices(usable.shape)
    places = np.column_stack(
        detector_to_ccs(
            flats[0].detector, *(np.array([np.average(at, weights=part) for part in (usable, *regions)]) for at in (column, row))
        )
    )
    place = 3 * ratio.detectors.index(name)
    variances = change_of_regions(_without_level(ratio.change[place : place + 3, place : place + 3]), places[1:] - places[0])
    logs = np.zeros(len(regions))
    for sign, flat, led in zip((1, -1), flats, ratio.leds, strict=True):
        images = [np.nan_to_num(flat.image), read_image(folder.truth_flat(led, name)).image]
        deviations = [np.log((images[0] * part).sum() / (images[1] * part).sum()) for part in (usable, *regions)]
        logs += sign * (np.array(deviations[1:]) - deviations[0])
        whole = flat.covariance(usable, usable)
        variances += [flat.covariance(part, part) + whole - 2 * flat.covariance(part, usable) for part in regions]
    return list(logs / np.sqrt(variances))


def _without_level(change: FloatArray) -> FloatArray:
    """Return a covariance of level and gradients with a certain level."""
    return np.asarray(np.pad(change[1:, 1:], ((1, 0), (1, 0))))


def _vendor_pull(folder: RunFolder, camera: Camera, row: object, ratios: object) -> float:
    """Return the deviation of a ratio of vendors from that of the true medians of the same sensors, over its error."""
    names = dict.fromkeys(str(name) for name in ratios["detector"])  # type: ignore[index]
    leds = [str(row["led"])] + ([] if row["over_led"] == "-" else [str(row["over_led"])])  # type: ignore[index]
    levels = []
    for name in names:
        logs = []
        for led in leds:
            true, flat = read_image(folder.truth_flat(led, name)), read_image(folder.flat(led, name))
            logs.append(float(np.mean(np.log(true.image[is_good(flat.mask) & (true.image > 0)]))))
        levels.append(logs[0] - (logs[1] if len(logs) > 1 else 0.0))
    vendors = np.array([camera[name].vendor for name in names])
    means = [np.mean(np.array(levels)[vendors == row[key]]) for key in ("vendor", "over_vendor")]  # type: ignore[index]
    value, error = float(row["ratio"]), float(row["ratio_err"])  # type: ignore[index]
    return float((np.log(value) - (means[0] - means[1])) / (error / value))


if __name__ == "__main__":
    main()
