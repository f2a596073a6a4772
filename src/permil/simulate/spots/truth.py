"""The truth of a spot campaign as products: maps of the sensor, the flat they make, the mask, the exposures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.products import provenance, write_hdus, write_image, write_table
from permil.simulate.campaign import PlannedExposure
from permil.simulate.spots.exposing import SpotBench, SpotExposure


def write_truth(bench: SpotBench, planned: Sequence[PlannedExposure], truths: Sequence[SpotExposure], folder: Path) -> None:
    """Write ``flat.fits``, ``sensor.fits``, ``mask.ecsv`` and ``exposures.ecsv``.

    Raises
    ------
    OutputError
        If a product cannot be written.
    """
    header = {
        "CAMERA": (bench.camera.name, "camera"),
        "DETECTOR": (bench.detector.name, "detector"),
        "SEED": (bench.config.seed, "seed of the simulation"),
    }
    flat = bench.maps.flat()
    nothing = np.zeros(flat.shape)
    write_image(folder / "flat.fits", flat, nothing, nothing, header={"CONTENT": ("true flat", "what this is"), **header})
    maps = bench.maps
    planes = (
        ("EFFICIENCY", maps.efficiency, "", "quantum efficiency over its mean"),
        ("DISPLACEMENT_X", maps.displacement[0], "pix", "recorded minus true x at pixel centres"),
        ("DISPLACEMENT_Y", maps.displacement[1], "pix", "recorded minus true y at pixel centres"),
        ("DIFFUSION", maps.diffusion, "pix2", "variance per axis that is added to the charge"),
        ("AREA", maps.area, "", "pixel area in the flat: minus the divergence"),
        ("DIFFUSION_FLAT", maps.diffusion_flat, "", "diffusion in the flat: half the Laplacian"),
    )
    hdus = [fits.PrimaryHDU(header=provenance({"CONTENT": ("true sensor maps", "what this is"), **header}))]
    for name, image, unit, meaning in planes:
        hdu = fits.ImageHDU(image.astype(np.float32), name=name)
        hdu.header["CONTENT"] = (meaning, "what this is")
        if unit:
            hdu.header["BUNIT"] = unit
        hdus.append(hdu)
    write_hdus(folder / "sensor.fits", hdus)
    write_table(folder / "mask.ecsv", mask_table(bench))
    write_table(folder / "exposures.ecsv", exposure_table(planned, truths))


def mask_table(bench: SpotBench) -> Table:
    """Return the spots of the mask: grid index, place relative to the mask's centre, flux, covariance of the core."""
    mask = bench.mask
    columns = {name: getattr(mask, name) for name in ("grid_i", "grid_j", "x", "y", "flux", "xx", "yy", "xy")}
    table = Table(columns)
    units = {"x": "pix", "y": "pix", "flux": "electron", "xx": "pix2", "yy": "pix2", "xy": "pix2"}
    for name, unit in units.items():
        table[name].unit = unit
    table.meta = {
        "core_fraction": mask.profile.core_fraction,
        "round_fractions": list(mask.profile.fractions),
        "round_sigmas_px": list(mask.profile.sigmas),
    }
    return table


def exposure_table(planned: Sequence[PlannedExposure], truths: Sequence[SpotExposure]) -> Table:
    """Return place and brightness of the spot exposures."""
    spots = [exposure for exposure in planned if exposure.kind == "spot"]
    table = Table(
        {
            "exposure": [exposure.obsid for exposure in spots],
            "commanded_x_mm": [truth.commanded[0] for truth in truths],
            "commanded_y_mm": [truth.commanded[1] for truth in truths],
            "projector_x_mm": [truth.projector[0] for truth in truths],
            "projector_y_mm": [truth.projector[1] for truth in truths],
            "centre_x_px": [truth.centre[0] for truth in truths],
            "centre_y_px": [truth.centre[1] for truth in truths],
            "lamp": [truth.lamp for truth in truths],
        }
    )
    for name in table.colnames[1:-1]:
        table[name].unit = "mm" if name.endswith("_mm") else "pix"
    return table
