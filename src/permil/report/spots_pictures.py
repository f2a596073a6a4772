"""The pictures of the page of artificial stars."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from permil.camera import Detector
from permil.report import spot_figures as figures
from permil.report.pages import Picture, drawing, raster
from permil.report.quantities import format_count
from permil.report.spots_inputs import GrowthProduct, MaskCalibration, SpotsProducts

_MAPS = (
    ("FLUX", "flux, measured over predicted - 1", "‰"),
    ("DX", "dx", "10⁻³ px"),
    ("DY", "dy", "10⁻³ px"),
    ("XX", "XX", "10⁻³ px²"),
    ("YY", "YY", "10⁻³ px²"),
    ("XY", "XY", "10⁻³ px²"),
)
_PROFILES = (
    ("flux", "flux (‰)"),
    ("radial", "radial shift\n(10⁻³ px)"),
    ("tangential", "tangential shift\n(10⁻³ px)"),
    ("rr", "radial moment\n(10⁻³ px²)"),
)
_UNITS = {"electron": "electrons", "count": "counts"}


def mask_pictures(products: SpotsProducts, detector: Detector, absent: list[str]) -> list[Picture]:
    """Return the pictures of the mask: fluxes and widths, distortion, growth curve; what is not there is added to ``absent``."""
    pictures: list[Picture] = []
    if products.calibration is None:
        made_with = products.header.get("CALIB")
        absent.append("a calibration of these exposures" + (f": {made_with} was applied" if made_with else ""))
    elif products.reference is None:
        absent.append("an exposure with a grid: spots cannot be placed on the sensor")
    else:
        pictures += _calibrated_pictures(products.calibration, products.exposures[products.reference], detector)
    if products.growth is None:
        absent.append("a growth curve: only catalogs that were measured here have one")
    else:
        pictures.append(_growth_picture(products.growth))
    return pictures


def sensor_pictures(products: SpotsProducts, detector: Detector) -> list[Picture]:
    """Return the pictures of the residuals on the sensor."""
    maps, cell = products.maps, products.cell
    rows, columns = maps["FLUX"].shape
    extent = (-0.5, columns * cell - 0.5, -0.5, rows * cell - 0.5)
    shown = [figures.ResidualMap(title, 1e3 * maps[name], label) for name, title, label in _MAPS]
    caption = (
        f"What each measurement leaves after the means of its spot and exposure, averaged over cells of {cell} pixels. Positions and "
        "moments are measured minus expected."
    )
    if products.header.get("MODE") == "fixed":
        caption += (
            " All exposures are at one place: what the sensor does there is part of the spots' means, and only noise is left."
        )
    pictures = [raster(figures.residual_maps(shown, extent=extent), caption)]
    pictures.append(_displacement_picture(products, detector))
    quality = [figures.ResidualMap("error of the flux cells", 1e3 * maps["FLUX_ERR"], "‰")]
    if "MODEL" in maps:
        model = [figures.ResidualMap("throughput of the joint fit, minus 1", 1e3 * maps["MODEL"], "‰")]
        caption = (
            "What the joint fit of spots, exposures and throughput finds for the sensor; its mean and gradient are set to 0."
        )
        pictures.append(raster(figures.residual_maps(model, extent=extent), caption, narrow=True))
        quality.append(figures.ResidualMap("error of the joint fit", 1e3 * maps["MODEL_ERR"], "‰"))
    count = np.where(maps["FLUX_N"] > 0, maps["FLUX_N"], np.nan)
    quality.append(figures.ResidualMap(f"{format_count(int(np.nansum(count)))} measurements", count, "per cell"))
    caption = "How well the flux residuals are known, and from how many measurements."
    pictures.append(raster(figures.quality_maps(quality, extent=extent), caption))
    if products.profile is not None:
        pictures.append(_profile_picture(products.profile, products))
    return pictures


def repeatability_picture(products: SpotsProducts) -> Picture | None:
    """Return the scatter of each spot over exposures beside its error, None for exposures at different places."""
    calibration = products.calibration
    if calibration is None or calibration.repeatability is None:
        return None
    table, header = calibration.repeatability, calibration.header
    flux, scatter, predicted = (
        np.asarray(column, dtype=float) for column in (calibration.spots["flux"], table["scatter"], table["predicted"])
    )
    figure = figures.repeatability(flux, 1e3 * scatter, 1e3 * predicted, quantity="flux", unit="‰")
    return drawing(
        figure,
        f"Relative scatter of each spot over {len(products.exposures)} exposures at one place, after the exposures' scales, against what "
        f"the errors of the fluxes predict. The median ratio is {float(header['SCATRAT']):.3f} ± {float(header['SCATRERR']):.3f}.",
    )


def lamp_picture(products: SpotsProducts) -> Picture | None:
    """Return the exposure scales in time, or in their order where the times are not known; None if there are none."""
    table = products.exposures
    scale, error, mjd = (np.asarray(table[name], dtype=float) for name in ("scale", "scale_err", "mjd"))
    if not np.isfinite(scale).any():
        return None
    timed = bool(np.isfinite(mjd).all()) and float(np.ptp(mjd)) > 0
    time = 1440 * (mjd - mjd.min()) if timed else np.arange(len(scale), dtype=float)
    figure = figures.exposure_scale(time, scale, error, time_label="minutes since the first exposure" if timed else "exposure")
    return drawing(figure, "Brightness of the lamp in each exposure, from all its spots; the mean is set to 1.")


def _calibrated_pictures(calibration: MaskCalibration, exposure: Table.Row, detector: Detector) -> list[Picture]:
    spots, shape = calibration.spots, detector.shape
    place, regular = calibration.places(exposure)
    inside = ((place > -0.5) & (place < [detector.nx - 0.5, detector.ny - 0.5])).all(axis=1)
    (x, y), (dx, dy) = place[inside].T, (place - regular)[inside].T
    flux, xx, yy = (np.asarray(spots[name], dtype=float)[inside] for name in ("flux", "xx", "yy"))
    unit = str(calibration.header["FLUXUNIT"])
    return [
        raster(
            figures.fluxes_and_widths(x, y, flux, xx, yy, shape=shape, unit=_UNITS.get(unit, unit)),
            f"Mean fluxes and widths of the spots, where they lie in exposure {exposure['exposure']}, whose grid is nearest to the middle "
            f"of the sensor ({int(inside.sum())} of the mask's {len(spots)} spots). {figures.WIDTH_CAPTION}",
        ),
        raster(
            figures.distortion(x, y, dx, dy, shape=shape, title="distortion: spots minus regular grid"),
            "Mean places of the spots minus the nodes of a regular grid (centre, two steps and an angle are fitted): the distortion "
            "of the optics, and pinholes that are not in their place.",
            narrow=True,
        ),
    ]


def _growth_picture(growth: GrowthProduct) -> Picture:
    figure = figures.growth_curve(
        growth.radii, growth.fraction, growth.error, flux_radius=growth.flux_radius, reference=growth.reference
    )
    return drawing(
        figure,
        f"Light within each radius, median of {growth.spots} bright spots of exposure {growth.exposure}. Where the curve is not flat at "
        "the dashed line, a change of focus changes the flux.",
        narrow=True,
    )


def _displacement_picture(products: SpotsProducts, detector: Detector) -> Picture:
    maps, cell = products.maps, products.cell
    row, column = np.indices(maps["DX"].shape)
    x, y = (np.asarray(cell * index.ravel() + (cell - 1) / 2, dtype=np.float64) for index in (column, row))
    figure = figures.distortion(
        x, y, maps["DX"].ravel(), maps["DY"].ravel(), shape=detector.shape, title="shift by the sensor: measured minus expected"
    )
    caption = "The maps of dx and dy as arrows: where the sensor puts charge beside the place where light fell."
    return raster(figure, caption, narrow=True)


def _profile_picture(profile: Table, products: SpotsProducts) -> Picture:
    profiles = [
        figures.RadialProfile(label, *(1e3 * np.asarray(profile[column], dtype=float) for column in (name, f"{name}_err")))
        for name, label in _PROFILES
    ]
    centre = ", ".join(f"{float(products.header[card]):g}" for card in ("RINGX", "RINGY"))
    return drawing(
        figures.radial_profiles(np.asarray(profile["radius"], dtype=float), profiles),
        f"Mean residuals in rings around ({centre}), where tree rings have their centre.",
    )
