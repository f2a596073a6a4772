"""Inputs of the stage: stars of one detector and band, and the flat of the same detector and light."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from permil.camera import Detector
from permil.compare.errors import CompareError
from permil.compare.hypotheses.stars import Stars
from permil.compare.stars.kernels import QUANTITIES
from permil.compare.stars.profile import StarProfile, fit_profile
from permil.compare.stars.response import StarPlaces, StarResponse
from permil.errors import InputError
from permil.products import ImageProduct, RunFolder, read_image
from permil.products.fits import whole_file
from permil.products.tables import flags, numbers
from permil.spots.folder import SpotsFolder

FloatArray = NDArray[np.float64]

_NEEDED = ("grid_i", "grid_j", "exposure", "x", "y", "used", "expected_flux", "expected_xx", "expected_yy", "expected_xy")
_DEFAULT_APERTURE = 12.0


@dataclass(frozen=True)
class StarsProduct:
    """The stars of one detector and band.

    Attributes
    ----------
    stars
        Measurements used in the calibration.
    response
        Response of their measurement to a flat.
    exposures
        Names of the exposures.
    header
        Primary header of the file.
    path
        Path of the file.
    """

    stars: Stars
    response: StarResponse
    exposures: tuple[str, ...]
    header: fits.Header
    path: Path


def star_groups(folder: SpotsFolder) -> list[tuple[str, str]]:
    """Return detector and band of all residuals in a folder, sorted by name.

    Raises
    ------
    InputError
        If a file is damaged.
    """
    groups = []
    for path in sorted(folder.path.glob("residuals_*.fits")):
        try:
            with whole_file(path):
                header = fits.getheader(path, 0)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"cannot be read as residuals of stars ({error})", path=path, remedy="run permil spots again"
            ) from error
        groups.append((str(header.get("DETECTOR", "")), str(header.get("BAND", ""))))
    return groups


def read_stars(folder: SpotsFolder, detector: str, band: str) -> StarsProduct:
    """Read the residuals of the stars of one detector and band.

    Raises
    ------
    InputError
        If the file is missing, damaged, or made by an older version.
    """
    path = folder.residuals(detector, band)
    try:
        with whole_file(path), fits.open(path, memmap=False) as hdus:
            header, table = hdus[0].header.copy(), Table(hdus["RESIDUALS"].data)
            exposures = Table(hdus["EXPOSURES"].data)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot be read as residuals of stars ({error})", path=path, remedy="run permil spots first") from error
    missing = [name for name in (*_NEEDED, *QUANTITIES) if name not in table.colnames]
    if missing:
        raise InputError(f"column {', '.join(missing)} is missing", path=path, remedy="run permil spots again", missing=missing)
    table = table[flags(table, "used", path=path)]
    column = {name: numbers(table, name, path=path) for name in table.colnames if name != "used"}
    names = tuple(str(name).strip() for name in exposures["exposure"])
    with np.errstate(invalid="ignore", divide="ignore"):
        glow = column["background"] / column["expected_flux"]
    stars = Stars(
        places=StarPlaces(
            x=column["x"],
            y=column["y"],
            xx=column["expected_xx"],
            yy=column["expected_yy"],
            xy=column["expected_xy"],
            glow=glow,
        ),
        spot=(column["grid_i"] * 1_000_000 + column["grid_j"]).astype(np.int64),
        exposure=column["exposure"].astype(np.int64),
        values={name: column[name] for name in QUANTITIES},
        errors={name: column[f"{name}_err"] for name in QUANTITIES},
    )
    stated = header.get("APERTURE")
    aperture = float(stated) if isinstance(stated, int | float) else np.nan
    moment = float(np.nanmedian((column["expected_xx"] + column["expected_yy"]) / 2)) if len(table) else np.nan
    profile = _profile(folder, detector, names, moment, path)
    response = StarResponse(profile, aperture if np.isfinite(aperture) else _DEFAULT_APERTURE)
    return StarsProduct(stars, response, names, header, path)


def _profile(folder: SpotsFolder, detector: str, exposures: tuple[str, ...], moment: float, path: Path) -> StarProfile:
    """Return the light of the mean star: from measured growth curves if available, else from its moments alone."""
    if not moment > 0:
        raise CompareError("the stars have no second moments", path=path, remedy="give catalogs with shapes", value=moment)
    curves = []
    for exposure in exposures:
        catalog = folder.catalog(detector, exposure)
        if not catalog.is_file():
            continue
        try:
            with whole_file(catalog), fits.open(catalog, memmap=False) as hdus:
                if "GROWTH" not in hdus:
                    continue
                growth = Table(hdus["GROWTH"].data)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"cannot be read as a catalog of stars ({error})", path=catalog, remedy="remove it and run permil spots again"
            ) from error
        curves.append((numbers(growth, "radius", path=catalog), numbers(growth, "fraction", path=catalog)))
    known = [(radius, fraction) for radius, fraction in curves if np.isfinite(fraction).all()]
    if not known:
        return StarProfile.gaussian(moment)
    return fit_profile(known[0][0], np.median([fraction for _, fraction in known], axis=0), moment=moment)


def read_flat(folder: RunFolder, led: str, detector: Detector) -> ImageProduct:
    """Read the flat of a detector and LED, and check that it matches its path.

    Raises
    ------
    InputError
        If it is missing or damaged.
    CompareError
        If it is the flat of another detector or LED, or has other pixels.
    """
    path = folder.flat(led, detector.name)
    if not path.is_file():
        raise InputError(
            f"the flat of {detector.name} in LED {led or '?'} does not exist",
            path=path,
            remedy="make it with permil flat, or give the LED for the band of the stars in compare.led_of",
        )
    product = read_image(path)
    for card, expected, what in (("DETECTOR", detector.name, "detector"), ("LED", led, "LED"), ("PIXFRAME", "DM", "pixel frame")):
        found = str(product.header.get(card, expected))
        if found != expected and not (card == "DETECTOR" and detector.is_called(product.header[card])):
            raise CompareError(
                f"the flat is of {what} {found}, but the stars are of {expected}",
                path=path,
                remedy="compare stars with the flat of the same detector and light",
                value=found,
                allowed=expected,
            )
    if product.image.shape != detector.shape:
        raise CompareError(
            f"the flat has {product.image.shape[1]} x {product.image.shape[0]} pixels, {detector.name} {detector.nx} x {detector.ny}",
            path=path,
            remedy="give an unbinned flat of this camera",
            value=product.image.shape,
            allowed=detector.shape,
        )
    return product
