"""Products on the page on stability: the tables of each LED, and the superbiases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.products import RunFolder, open_product, read_table

FloatArray = NDArray[np.float64]

_FINDINGS = (
    "series", "quantity", "value", "error", "detector", "amp", "n", "with_time", "p_value", "p_adjusted", "called", "at",
)  # fmt: skip
_READINGS = ("hours", "detector", "amp", "flux_over_light", "overscan_level", "read_noise")


@dataclass(frozen=True)
class LedStability:
    """Tables of one LED; see `permil.products.RunFolder`."""

    led: str
    findings: Table
    exposures: Table
    amplifiers: Table
    readings: Table

    def result(self, series: str, quantity: str) -> Table.Row | None:
        """Return a result of the whole LED, None without one."""
        return result_of(self.findings, series, quantity)

    @property
    def time_label(self) -> str:
        """Label of the axis of time."""
        return "hours since the first exposure" if self.findings.meta.get("time") == "h" else "number of the exposure"

    @property
    def per_time(self) -> str:
        """Unit of a drift, after that of the series."""
        return "per hour" if self.findings.meta.get("time") == "h" else "per exposure"


def result_of(findings: Table, series: str, quantity: str) -> Table.Row | None:
    """Return the first finding of a series and quantity, None without one."""
    for row in findings:
        if row["series"] == series and row["quantity"] == quantity:
            return row
    return None


@dataclass(frozen=True)
class SuperbiasStability:
    """Superbias of one detector: amplifiers, their level and read noise in each exposure (n, amplifiers), and a small image, adu."""

    detector: str
    serial: str
    amplifiers: Table
    level: FloatArray
    read_noise: FloatArray
    image: NDArray[np.float32]


def read_findings(folder: RunFolder, led: str) -> Table:
    """Read the results on the stability of an LED.

    Raises
    ------
    InputError
        If the table is missing or damaged.
    """
    return read_table(folder.stability(led), columns=_FINDINGS, purpose="table of stability")


def read_led(folder: RunFolder, led: str) -> LedStability:
    """Read the tables of one LED.

    Raises
    ------
    InputError
        If one is missing or damaged.
    """
    return LedStability(
        led,
        read_findings(folder, led),
        read_table(folder.stability_exposures(led), columns=("obsid", "hours", "is_used"), purpose="table of exposures"),
        read_table(folder.stability_amplifiers(led), columns=_FINDINGS, purpose="table of stability"),
        read_table(folder.stability_readings(led), columns=_READINGS, purpose="table of readings"),
    )


def read_superbias_stability(path: Path) -> SuperbiasStability | None:
    """Read the tables and the small image of a superbias; None for a file without them.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    with open_product(path, "a superbias", remedy="run `permil isr` again") as hdus:
        if "FRAMES" not in hdus or "CELLS" not in hdus:
            return None
        frames, header = hdus["FRAMES"].data, hdus[0].header
        return SuperbiasStability(
            str(header["DETECTOR"]),
            str(header.get("LSST_NUM", "")),
            Table(hdus["AMPLIFIERS"].data),
            np.array(frames["overscan_level"], dtype=np.float64).reshape(len(frames), -1),
            np.array(frames["read_noise"], dtype=np.float64).reshape(len(frames), -1),
            np.array(hdus["CELLS"].data, dtype=np.float32),
        )


def with_stability(folder: RunFolder, leds: Sequence[str]) -> list[str]:
    """Return those LEDs whose stability was measured."""
    paths = (folder.stability, folder.stability_exposures, folder.stability_amplifiers, folder.stability_readings)
    return [led for led in leds if all(path(led).is_file() for path in paths)]
