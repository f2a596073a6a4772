"""Products on the page of colour: the tables and ratio maps in the folder ``colour`` of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from astropy.table import Table

from permil.camera import Camera
from permil.products import ImageProduct, RunFolder, read_image, read_table
from permil.products.folder import ColourFolder

_TABLES = ("responses", "ratios", "vendors", "gradients", "correlations", "variances", "waves")


@dataclass(frozen=True)
class ColourTables:
    """All tables, with the LEDs by wavelength, and the ratio maps of neighbouring LEDs that are there."""

    camera: Camera
    leds: tuple[str, ...]
    responses: Table
    ratios: Table
    vendors: Table
    gradients: Table
    correlations: Table
    variances: Table
    waves: Table
    maps: tuple[tuple[tuple[str, str], ImageProduct], ...] = ()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Neighbouring LEDs with a ratio."""
        return list(dict.fromkeys((str(row["led"]), str(row["over_led"])) for row in self.ratios))

    @property
    def detectors(self) -> list[str]:
        """Detectors with a flat in at least two LEDs."""
        return list(dict.fromkeys(str(name) for name in self.responses["detector"]))

    def label(self, led: str) -> str:
        """Return the name of an LED with band and wavelength."""
        return self.camera.led(led).label


def colour_sources(folder: RunFolder, leds: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the names of the tables, and the pairs of LEDs with a map, of a run; no tables without the colour."""
    products = ColourFolder(folder.root)
    if not all(products.table(name).is_file() for name in _TABLES):
        return [], []
    return list(_TABLES), [pair for pair in pairwise(leds) if products.ratio(*pair).is_file()]


def read_tables(folder: RunFolder, camera: Camera, *, with_maps: bool) -> ColourTables:
    """Read the tables of colour, and on request the ratio maps.

    Raises
    ------
    InputError
        If a product cannot be read.
    """
    products = ColourFolder(folder.root)
    tables = {name: read_table(products.table(name)) for name in _TABLES}
    leds = tuple(camera.sorted_leds({str(led) for led in tables["responses"]["led"]}))
    pairs = colour_sources(folder, leds)[1] if with_maps else []
    maps = tuple((pair, read_image(products.ratio(*pair))) for pair in pairs)
    return ColourTables(camera, leds, **tables, maps=maps)
