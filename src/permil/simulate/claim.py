"""A folder belongs to one simulation: another one is refused, an interrupted one goes on."""

from __future__ import annotations

from pathlib import Path

import yaml

from permil.config.base import Section
from permil.errors import OutputError
from permil.products import atomic_output, make_folder, remove_partial_files

FINGERPRINT = "simulation.yaml"
"""File that says from which parameters a folder was simulated."""

CONFIGURATION = "config.yaml"
"""Configuration with which the simulated files can be reduced."""


def claim_folder(folder: Path, config: Section) -> None:
    """Mark a folder as that of a simulation, or go on with one that was interrupted.

    Raises
    ------
    OutputError
        If the folder cannot be written or holds something else.
    """
    path = make_folder(folder) / FINGERPRINT
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise OutputError(
                "this folder holds a simulation with other parameters",
                path=folder,
                remedy="choose another folder, or remove this one first",
            )
        remove_partial_files(folder)
        return
    for name in ("raw", CONFIGURATION):
        if (folder / name).exists():
            raise OutputError(
                f"{name} in this folder was not simulated here", path=folder, remedy="choose another folder for the simulation"
            )
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
