"""Products of a run that are not specific to one page: configuration, tables, and the products of each LED."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astropy.table import Table

from permil.camera import Camera
from permil.config import Config
from permil.errors import InputError
from permil.products import RunFolder, configuration_digest, read_table
from permil.yaml_file import read_yaml

_EXPOSURE_COLUMNS = ("obsid", "detector", "led", "purpose", "photodiode", "x_mm", "y_mm", "mjd")


@dataclass(frozen=True)
class LedProducts:
    """Products of one LED: paths of beam model and mosaic (None where absent), metrics, names of the detectors with a flat."""

    led: str
    beam: Path | None
    focal_plane: Path | None
    metrics: Table | None
    detectors: tuple[str, ...]


@dataclass(frozen=True)
class RunProducts:
    """Products in a run's folder that are read before any page is made.

    Attributes
    ----------
    config, camera, folder
        Configuration of the report, camera and folder of the run.
    configuration, versions, digest
        Text of ``run.yaml``, the versions in it, and the digest of the configuration, which is in the headers of products, too.
    exposures, unreadable, left_out, stages, comparison
        Tables, None where absent.
    leds
        Products of each LED.
    absent
        Products of a run with flats that are missing in this run.
    """

    config: Config
    camera: Camera
    folder: RunFolder
    configuration: str
    versions: dict[str, str]
    digest: str
    exposures: Table | None
    unreadable: Table | None
    left_out: Table | None
    stages: Table | None
    comparison: Table | None
    leds: tuple[LedProducts, ...]
    absent: tuple[str, ...]


def read_run(config: Config, camera: Camera, folder: RunFolder) -> RunProducts:
    """Read the products of a run that are not specific to one page.

    LEDs are in the order of the configuration; others follow.

    Raises
    ------
    InputError
        If the folder does not exist, or a table cannot be read.
    """
    if not folder.root.is_dir():
        raise InputError(
            "the run does not exist", path=folder.root, remedy="check the key `output`, or run the other stages first"
        )
    absent: list[str] = []
    return RunProducts(
        config=config,
        camera=camera,
        folder=folder,
        **_configuration(folder.configuration, absent),
        exposures=_table(folder.exposures, "the index of exposures", absent, columns=_EXPOSURE_COLUMNS),
        unreadable=_table(folder.unreadable, "the list of unreadable files", absent, columns=("path", "reason")),
        left_out=_table(folder.left_out, "the list of exposures left out", absent, columns=("path", "reason")),
        stages=_table(folder.stages, "the times of the stages", absent, columns=("stage", "seconds")),
        comparison=_table(folder.comparison, "", [], columns=("led", "detector")),
        leds=tuple(_led_products(folder, camera, led, absent) for led in _leds(folder, config.exposures.leds)),
        absent=tuple(absent),
    )


def _configuration(path: Path, absent: list[str]) -> dict[str, Any]:
    if not path.is_file():
        absent.append("the resolved configuration (run.yaml)")
        return {"configuration": "", "versions": {}, "digest": ""}
    try:
        content = read_yaml(path, kind="record of a run", error=InputError)
    except InputError as error:
        raise InputError(error.what, path=path, remedy="run any stage again to rewrite it") from error
    text = path.read_text(encoding="utf-8")
    return {
        "configuration": text,
        "versions": {str(key): str(entry) for key, entry in (content.get("versions") or {}).items()},
        "digest": configuration_digest(content.get("config") or {}),
    }


def _table(path: Path, what: str, absent: list[str], *, columns: tuple[str, ...]) -> Table | None:
    if not path.is_file():
        absent.append(what)
        return None
    # A table written without rows has no columns.
    table = read_table(path)
    return read_table(path, columns=columns) if len(table.colnames) else None


def _leds(folder: RunFolder, order: list[str]) -> list[str]:
    found = {path.stem for path in (folder.root / "beam").glob("*.fits")}
    found |= {path.name for path in (folder.root / "flat").glob("*") if path.is_dir()}
    return [led for led in order if led in found] + sorted(found - set(order))


def _led_products(folder: RunFolder, camera: Camera, led: str, absent: list[str]) -> LedProducts:
    beam, focal_plane = folder.beam(led), folder.focal_plane(led)
    detectors = tuple(name for name in camera.detectors if folder.flat(led, name).is_file())
    for path, what in ((beam, "beam model"), (focal_plane, "mosaic of the focal plane")):
        if not path.is_file():
            absent.append(f"LED {led}: {what}")
    if not detectors:
        absent.append(f"LED {led}: flats")
    return LedProducts(
        led=led,
        beam=beam if beam.is_file() else None,
        focal_plane=focal_plane if focal_plane.is_file() else None,
        metrics=_table(folder.metrics(led), f"LED {led}: metrics", absent, columns=("detector", "amp", "led")),
        detectors=detectors,
    )
