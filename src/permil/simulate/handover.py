"""Inputs of the reduction other than raw files: tables and a configuration."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.table import Table

from permil.products import atomic_output, write_table
from permil.simulate.bench import Bench
from permil.simulate.headers import REB_COND
from permil.simulate.randoms import generator

CONFIGURATION = "config.yaml"
"""Configuration to reduce the simulated files."""

_THERMOMETERS = tuple(f"TEMP{number}" for number in range(1, 7))


def gains(bench: Bench, kind: str) -> Table:
    """Return the gains: true, or as measured with Fe55 or by photon transfer; columns detector, segment, gain.

    Parameters
    ----------
    kind
        ``true``, ``fe55`` or ``ptc``.
    """
    handover = bench.config.handover
    rms, bias = {"true": (0.0, 0.0), "fe55": (handover.fe55_rms, 0.0), "ptc": (handover.ptc_rms, handover.ptc_bias)}[kind]
    rows = []
    for detector in bench.read:
        true = bench.gains(detector)
        errors = rms * generator(bench.config.seed, "measured gains", kind, detector.name).standard_normal(true.size)
        measured = true * (1.0 + bias) * (1.0 + errors)
        rows += [
            (detector.name, amplifier.name, float(gain)) for amplifier, gain in zip(detector.amplifiers, measured, strict=True)
        ]
    table = Table(rows=rows, names=("detector", "segment", "gain"))
    table["gain"].unit = "electron / adu"
    return table


def linearity(bench: Bench) -> Table:
    """Return ``a1`` (1/adu) of ``linear = adu (1 + a1 adu)``, counts above bias; columns detector, segment, a1."""
    return Table(
        rows=[
            (detector.name, amplifier.name, float(curvature))
            for detector in bench.read
            for amplifier, curvature in zip(detector.amplifiers, bench.electronics(detector).curvature, strict=True)
        ],
        names=("detector", "segment", "a1"),
    )


def crosstalk(bench: Bench) -> Table:
    """Return the coefficients that are not zero; columns detector, victim, source, coefficient."""
    rows = []
    for detector in bench.read:
        matrix = bench.electronics(detector).crosstalk
        rows += [
            (detector.name, detector.amplifiers[victim].name, detector.amplifiers[source].name, float(matrix[victim, source]))
            for victim, source in zip(*np.nonzero(matrix), strict=True)
        ]
    return Table(rows=rows, names=("detector", "victim", "source", "coefficient"))


def defects(bench: Bench) -> Table:
    """Return bad columns and hot pixels as boxes of detector pixels; columns detector, x, y, width, height."""
    rows = []
    for detector in bench.read:
        rows += [
            (detector.name, columns.start, reach.start, columns.stop - columns.start, reach.stop - reach.start)
            for reach, columns, _ in bench.sensors.bad_columns(detector)
        ]
        places, _ = bench.sensors.hot_pixels(detector)
        rows += [(detector.name, int(x), int(y), 1, 1) for y, x in places.T]
    return Table(rows=rows, names=("detector", "x", "y", "width", "height"))


def board_reference() -> float:
    """Return the readout-board temperature of the true gains: the mean of TEMP1 to TEMP6, deg C."""
    return float(np.mean([card[1] for card in REB_COND if card[0] in _THERMOMETERS]))


def write_tables(bench: Bench, folder: Path) -> dict[str, str]:
    """Write the tables of the section ``isr`` for the effects of the bench; return the file of each. Unchanged files stay untouched.

    Gains with errors are written as measured with both methods; the section names one of them.

    Raises
    ------
    OutputError
        If a table cannot be written.
    """
    effects, handover = bench.config.effects, bench.config.handover
    measured = () if handover.gains == "true" else ("fe55", "ptc")
    for kind in measured:
        write_table(folder / f"gains_{kind}.ecsv", gains(bench, kind), keep_same=True)
    tables = {} if measured else {"gains": gains(bench, "true")}
    if effects.nonlinearity and handover.linearity:
        tables["linearity"] = linearity(bench)
    if effects.crosstalk:
        tables["crosstalk"] = crosstalk(bench)
    if handover.defects and len(boxes := defects(bench)):
        tables["defects"] = boxes
    for name, table in tables.items():
        write_table(folder / f"{name}.ecsv", table, keep_same=True)
    of_gains = {"gains": f"gains_{handover.gains}.ecsv"} if measured else {}
    return of_gains | {name: f"{name}.ecsv" for name in tables}


def configuration(bench: Bench, tables: dict[str, str], *, flats: bool = True) -> dict[str, Any]:
    """Return the content of a configuration to reduce the raw files.

    Parameters
    ----------
    tables
        File of each table of the section ``isr``.
    flats
        Whether there are raw files of the bench.
    """
    config = bench.config
    content: dict[str, Any] = {
        "camera": config.camera,
        "output": ".",
        "seed": config.seed,
        "exposures": {"roots": ["raw"]},
        "isr": dict(tables),
    }
    electronics = config.electronics
    changes = config.effects.temperature_drift and electronics.temperature_coefficient * electronics.temperature_amplitude != 0
    if changes and config.handover.temperature_coefficient:
        content["isr"] |= {
            "temperature_coefficient": -electronics.temperature_coefficient,
            "temperature_reference": board_reference(),
        }
    if flats:
        content["beam"] = {"reference": [asdict(bench.camera.reference)]}
        if config.campaign.images == 1:
            # Single images at the pointings of many detectors form a grid like a scan; so the runs are named.
            for purpose, kind in (("scan", "scan"), ("pointings", "pointing")):
                runs = sorted({exposure.run for exposure in bench.exposures if exposure.kind == kind})
                content["exposures"][purpose] = {"runs": runs}
    return content


def write_configuration(folder: Path, content: dict[str, Any]) -> Path:
    """Write a configuration; return its path.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    path = folder / CONFIGURATION
    with atomic_output(path, keep_same=True) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
