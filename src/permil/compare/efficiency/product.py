"""The product of an efficiency flat: FITS file with maps, filter and proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.camera import Detector
from permil.compare.efficiency.filtering import MAIN, PLAIN, EfficiencyFlat
from permil.compare.efficiency.proof import FlatChoice, Proof
from permil.compare.hypotheses.results import KINDS
from permil.compare.stars.flat_at_stars import RelativeFlat
from permil.flat.superpixel import super_pixels
from permil.products import ImageProduct, kind_card, write_image
from permil.products.fits import image_of_cells, kept_cards, wcs_cards
from permil.products.masks import FIRST_FREE_BIT, LAST_BIT

EFFICIENCY_FORMAT = 2
"""Version of the format: efficiency flats of another version are made again."""
PLAIN_PLANE = "PLAIN_FLAT"
"""Mask plane of the pixels in which the plain flat is kept."""
MAP_CELL = 4
"""Side of the cells of the maps of displacement and size, pixels."""
_COMPONENTS = ("other", "rings")


@dataclass(frozen=True)
class EfficiencyResult:
    """An efficiency flat with its proof.

    Attributes
    ----------
    flat
        Plain flat relative to the means of its amplifiers.
    efficiency
        Efficiency flat from all dithers.
    proof
        Scatter on left-out dithers.
    choice
        Which flat to use.
    regions
        Names of the regions that may have fractions of their own, in the order of their zones.
    """

    flat: RelativeFlat
    efficiency: EfficiencyFlat
    proof: Proof
    choice: FlatChoice
    regions: tuple[str, ...]


def write_efficiency_flat(
    path: Path, result: EfficiencyResult, plain: ImageProduct, detector: Detector, *, header: Mapping[str, Any]
) -> None:
    """Write an efficiency flat.

    Images: IMAGE, MASK (with the plane ``PLAIN_FLAT``) and VARIANCE on the scale of the plain flat; SHIFT_X, SHIFT_Y and SIZE in cells.
    Tables: FILTER (weights by component, zone and band), SCATTER (left-out dithers), AMPLIFIERS (steps, kept from the plain flat).

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    efficiency, flat = result.efficiency, result.flat
    image = plain.image.astype(np.float64)
    scale = np.where(flat.usable, image / (1 + flat.excess), 1.0)
    changed = np.where(flat.usable, scale * (1 + efficiency.excess), image)
    variance = np.where(flat.usable, scale**2 * efficiency.variance, plain.variance)
    taken = set(plain.planes.values())
    bit = next(bit for bit in range(FIRST_FREE_BIT, LAST_BIT + 1) if bit not in taken)
    planes = {**plain.planes, PLAIN_PLANE: plain.planes.get(PLAIN_PLANE, bit)}
    mask = plain.mask | np.where(efficiency.plain, np.int32(1 << planes[PLAIN_PLANE]), np.int32(0))
    cards = kept_cards(plain.header)
    cards.update(kind_card("flat"))
    cards["FLATKIND"] = ("efficiency", "pixel area and diffusion removed")
    for keyword, entry in (_cards(result) | dict(header)).items():
        content = entry[0] if isinstance(entry, tuple) else entry
        if content is not None and not (isinstance(content, float) and not np.isfinite(content)):
            cards[keyword] = entry
    whole = np.ones(efficiency.excess.shape, dtype=bool)
    extensions: list[Any] = [
        image_of_cells(name, super_pixels(each, whole, MAP_CELL).mean, MAP_CELL, unit)
        for name, each, unit in (
            ("SHIFT_X", efficiency.shift_x, "pixel"),
            ("SHIFT_Y", efficiency.shift_y, "pixel"),
            ("SIZE", efficiency.size, "pixel2"),
        )
    ]
    for name, rows in (
        ("FILTER", filter_rows(result)),
        ("SCATTER", result.proof.rows()),
        ("AMPLIFIERS", amplifier_rows(result, detector)),
    ):
        extensions.append(fits.BinTableHDU(Table(rows=rows), name=name))
    write_image(
        path,
        changed,
        mask,
        variance,
        header=cards,
        image_cards=wcs_cards(plain.image_header),
        extensions=extensions,
        planes=planes,
    )


def _cards(result: EfficiencyResult) -> dict[str, Any]:
    choice, proof = result.choice, result.proof
    shift_error, size_error = result.efficiency.map_errors()
    return {
        "USEFLUX": (choice.fluxes.value if choice.fluxes else "undecided", "flat for fluxes of stars"),
        "USESKY": (choice.sky.value, "flat for sky and surface brightness"),
        "CHOICE": choice.sentence,
        "AREARMS": (choice.removed[0], "rms of removed pixel area and diffusion"),
        "AREAERR": (choice.removed[1], "its error"),
        "SHIFTERR": (shift_error, "[pixel] rms error of SHIFT_X and SHIFT_Y"),
        "SIZEERR": (size_error, "[pixel2] rms error of SIZE"),
        "DITHSPAN": (result.efficiency.model.components.span, "[pixel] span of the dithers"),
        "PLAINFRA": (float(result.efficiency.plain.mean()), "fraction of pixels with the plain flat"),
        "NLEFTOUT": (proof.stars, "left-out measurements of stars"),
        "NLEFTEXP": (proof.exposures, "left-out exposures"),
        "NPARTS": (proof.parts, "parts of the exposures left out in turn"),
    }


def filter_rows(result: EfficiencyResult) -> list[dict[str, Any]]:
    """Return one row for each component of the flat, zone and band: fractions with errors, and weight."""
    model = result.efficiency.model
    names = {MAIN: "whole detector"} | dict(enumerate(result.regions, start=MAIN + 1))
    rows = []
    for zone in (number for number in model.weights if number != PLAIN):
        for name, power, weights in zip(_COMPONENTS, model.components.power, model.weights[zone], strict=False):
            for number, band in enumerate(power.bands):
                kinds = {
                    f"{kind.replace(' ', '_')}{suffix}": float(values[of, number])
                    for of, kind in enumerate(KINDS)
                    for suffix, values in (("", weights.fractions), ("_err", weights.errors))
                }
                rows.append(
                    {
                        "component": name,
                        "region": names[zone],
                        "shortest": band.shortest,
                        "longest": band.longest,
                        **kinds,
                        "reliability": float(weights.reliability[number]),
                        "weight": float(weights.efficiency[number]),
                        "measured": bool(weights.measured[number]),
                        "flat_rms": float(np.sqrt(power.power[number])),
                    }
                )
    return rows


def amplifier_rows(result: EfficiencyResult, detector: Detector) -> list[dict[str, Any]]:
    """Return one row for each amplifier: its step in both flats, its error from noise, and that of its efficiency."""
    found = []
    for amplifier, step, error in zip(detector.amplifiers, result.flat.means, result.flat.mean_errors, strict=False):
        rows, columns = amplifier.slices
        of_efficiency = result.efficiency.error_of_mean(rows, columns, amplifier=True)
        found.append({"amp": amplifier.name, "step": float(step), "step_err": float(error), "efficiency_err": of_efficiency})
    return found
