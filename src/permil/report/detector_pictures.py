"""The pictures of the page of one detector, each with its caption."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.flat import super_pixels
from permil.products import is_good, is_usable
from permil.report import detector_figures as figures
from permil.report import detector_view as view
from permil.report.inputs import DetectorProducts, PointingCubes
from permil.report.pages import Picture, drawing, raster
from permil.report.quantities import format_count

if TYPE_CHECKING:
    from permil.camera import Detector
    from permil.config.report import ReportConfig


def detector_pictures(
    products: DetectorProducts, detector: Detector, led: str, *, limits: ReportConfig, absent: list[str]
) -> list[Picture]:
    """Return the pictures of a detector's page; what cannot be shown is added to ``absent``."""
    product = products.product
    good = is_good(product.mask) & np.isfinite(product.image)
    usable = is_usable(product.mask) & np.isfinite(product.image)
    content = view.flat_histogram(product.image, product.variance, good)
    median = content.median if content is not None else 1.0
    extent = view.small_map_extent(tuple(-(-length // products.block_pixels) for length in detector.shape), products.block_pixels)
    if products.scatter is None:
        absent.append("scatter between pointings (extension SCATTER)")
    pictures = [
        raster(
            figures.flat_and_scatter(view.display_image(product.image, usable), median, products.scatter, extent, detector),
            "Flat over its median with the amplifiers, and the relative scatter between pointings.",
        )
    ]
    if content is not None:
        pictures.append(
            drawing(
                figures.histogram(content), "All good pixels at full resolution, and what noise alone would give.", narrow=True
            )
        )
    else:
        absent.append("good pixels")
    steps = _steps(products.metrics, detector)
    if steps is not None:
        picture = figures.amplifier_steps(*steps, limit=limits.step_limit)
        pictures.append(drawing(picture, "Excess of each amplifier, from the steps at its borders.", narrow=True))
    if products.cubes is None or products.aimed is None:
        absent.append("maps of the pointings (extensions STACKS, BEAMS, RESPONSES)")
        return pictures
    # The same pixels as in the small maps of the pointings, the zone along the edge included.
    combined = super_pixels(product.image, usable, products.block_pixels).mean
    return pictures + _pointing_pictures(products.cubes, products.aimed, combined, detector, led, extent=extent)


def _pointing_pictures(
    cubes: PointingCubes,
    aimed: Table,
    combined: NDArray[np.float64],
    detector: Detector,
    led: str,
    *,
    extent: tuple[float, float, float, float],
) -> list[Picture]:
    residuals = view.pointing_residuals(cubes.responses, combined)
    names = [pointing_name(aimed, index) for index in range(len(aimed))]
    # Adding zero turns the -0.0 of rounding into 0.0.
    rounded = np.round(np.column_stack([aimed["x_mm"], aimed["y_mm"]]), 1) + 0.0
    places = [f"X {x:.1f}, Y {y:.1f} mm" for x, y in rounded]
    # The pointing nearest to the middle of those that there are stands for all.
    distance = np.hypot(aimed["x_mm"] - np.mean(aimed["x_mm"]), aimed["y_mm"] - np.mean(aimed["y_mm"]))
    chosen = int(np.argmin(distance))
    rejected = _column(aimed, "rejected")
    rate = 1e6 * rejected / (_column(aimed, "exposures") * float(np.prod(detector.shape)))
    return [
        raster(
            figures.pointing_maps(
                cubes.stacks[chosen],
                cubes.beams[chosen],
                cubes.responses[chosen],
                extent=extent,
                title=f"pointing {names[chosen]}",
                detector=detector,
            ),
            f"Pointing {names[chosen]} ({places[chosen]}): the stack of its exposures, the beam there, and one over the other.",
        ),
        raster(
            figures.residual_maps(
                residuals,
                [f"{name}: {place}" for name, place in zip(names, places, strict=True)],
                extent=extent,
                detector=detector,
            ),
            "Response of each pointing aimed at this detector over the combined flat, on super-pixels.",
        ),
        drawing(
            figures.pointing_levels(names, residuals, _column(aimed, "scale_error"), rate, led=led),
            "Level of each pointing against the combined flat, and how many values its stack rejected: "
            f"{format_count(int(np.nansum(rejected)))} in all.",
        ),
    ]


def _steps(metrics: Table | None, detector: Detector) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]] | None:
    """Return names, steps and errors of the amplifiers in the order of the detector, None where no step was measured."""
    if metrics is None or "step" not in metrics.colnames:
        return None
    found = {str(row["amp"]): (float(row["step"]), float(row["step_err"])) for row in metrics}
    names = [amplifier.name for amplifier in detector.amplifiers]
    step, error = np.array([found.get(name, (np.nan, np.nan)) for name in names]).T
    return (names, step, error) if np.isfinite(step).any() else None


def truth_picture(products: DetectorProducts, detector: Detector) -> Picture | None:
    """Return the picture of recovered over true flat, None where there is no truth."""
    if products.truth is None or products.truth.image.shape != detector.shape:
        return None
    product, truth = products.product, products.truth
    good = is_good(product.mask) & is_good(truth.mask) & (truth.image > 0) & np.isfinite(product.image)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(good, product.image / truth.image, np.nan)
    if not good.any():
        return None
    extent = view.small_map_extent(tuple(-(-length // products.block_pixels) for length in detector.shape), products.block_pixels)
    coarse = super_pixels(ratio, good, products.block_pixels).mean
    figure = figures.truth_maps(view.display_image(ratio, good), coarse, extent=extent, detector=detector)
    return raster(figure, "Recovered flat over true flat, good pixels; the colour scales differ.")


def pointing_name(pointings: Table, index: int) -> str:
    """Return the number of a pointing as text."""
    return str(pointings["number"][index]) if "number" in pointings.colnames else str(index + 1)


def _column(table: Table, name: str) -> NDArray[np.float64]:
    """Return a column, NaN where the table does not have it."""
    return np.asarray(table[name], dtype=float) if name in table.colnames else np.full(len(table), np.nan)
