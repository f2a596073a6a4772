"""Write maps of residuals on the detector as a FITS product."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from permil.camera import Detector
from permil.products import provenance, write_hdus
from permil.spots.flux_model import FluxSolution
from permil.spots.throughput import MAPPED, UNITS, BinnedMap

FloatArray = NDArray[np.float64]


def write_throughput(
    path: str | Path,
    maps: Mapping[str, BinnedMap],
    amplifiers: Table,
    *,
    model: BinnedMap | None = None,
    profile: Table | None = None,
    header: Mapping[str, Any] | None = None,
) -> None:
    """Write maps: for each quantity the images ``<NAME>``, ``<NAME>_ERR``, ``<NAME>_N``; tables AMPLIFIERS and RADIAL.

    Parameters
    ----------
    maps
        Maps by the names in `permil.spots.throughput.MAPPED`. FLUX is the relative throughput minus 1.
    model
        The splines of the joint fit at the centres of the cells (``MODEL``, ``MODEL_ERR``).

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    hdus: list[Any] = [fits.PrimaryHDU(header=provenance(header))]
    for quantity in MAPPED:
        binned = maps[quantity]
        hdus += _images(quantity.upper(), binned, UNITS[quantity])
        hdus.append(_image(f"{quantity.upper()}_N", binned.count.astype(np.int32), binned.cell, ""))
    if model is not None:
        hdus += _images("MODEL", model, "")
    hdus.append(fits.BinTableHDU(amplifiers, name="AMPLIFIERS"))
    if profile is not None:
        hdus.append(fits.BinTableHDU(profile, name="RADIAL"))
    write_hdus(path, hdus)


def model_map(solution: FluxSolution, detector: Detector, *, cell: int, count: NDArray[np.int64]) -> BinnedMap | None:
    """Return the fitted throughput minus 1 at the centres of cells, with its error; NaN in cells without a measurement."""
    if solution.splines is None:
        return None
    x = np.arange(-(-detector.nx // cell)) * cell + (cell - 1) / 2
    y = np.arange(-(-detector.ny // cell)) * cell + (cell - 1) / 2
    grid_x, grid_y = (axis.ravel() for axis in np.meshgrid(np.minimum(x, detector.nx - 1.0), np.minimum(y, detector.ny - 1.0)))
    index, values = solution.splines.local(grid_x, grid_y)
    mean = (solution.coefficients[index] * values).sum(axis=1)
    covariance = solution.covariance[-len(solution.coefficients) :, -len(solution.coefficients) :]
    variance = np.einsum("na,nab,nb->n", values, covariance[index[:, :, None], index[:, None, :]], values)
    empty = count == 0
    return BinnedMap(
        np.where(empty, np.nan, mean.reshape(count.shape)),
        np.where(empty, np.nan, np.sqrt(variance).reshape(count.shape)),
        count,
        cell,
    )


def _images(name: str, binned: BinnedMap, unit: str) -> list[fits.ImageHDU]:
    return [_image(name, binned.mean, binned.cell, unit), _image(f"{name}_ERR", binned.error, binned.cell, unit)]


def _image(name: str, array: NDArray[Any], cell: int, unit: str) -> fits.ImageHDU:
    hdu = fits.ImageHDU(array.astype(np.float32) if array.dtype.kind == "f" else array, name=name)
    # Linear coordinates: 0-based pixels of the detector (DM frame) at the centre of each cell.
    for axis, label in ((1, "X"), (2, "Y")):
        hdu.header[f"CTYPE{axis}"] = (label, "pixel of the detector, 0-based")
        hdu.header[f"CUNIT{axis}"] = "pixel"
        hdu.header[f"CRPIX{axis}"] = 1.0
        hdu.header[f"CRVAL{axis}"] = (cell - 1) / 2
        hdu.header[f"CDELT{axis}"] = float(cell)
    if unit:
        hdu.header["BUNIT"] = unit
    return hdu
