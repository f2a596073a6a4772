"""Read and validate camera files."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from permil.camera.model import Amplifier, Camera, Detector, ReferenceBox
from permil.errors import CameraError

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Half = Literal["top", "bottom"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _AmplifierEntry(_Strict):
    number: Annotated[int, Field(ge=1)]
    name: str
    extname: str
    column: Count
    half: Half


class _Flips(_Strict):
    flip_x: bool
    flip_y: bool


class _Segment(_Strict):
    prescan: Count
    nx: Annotated[int, Field(gt=0)]
    serial_overscan: Count
    ny: Annotated[int, Field(gt=0)]
    parallel_overscan: Count


class _Nominal(_Strict):
    gain: Positive
    read_noise: Positive
    saturation: Positive


class _Layout(_Strict):
    vendor: str
    halves: dict[Half, _Flips]
    segment: _Segment
    reference_pixel: tuple[float, float]
    nominal: _Nominal


class _DetectorEntry(_Strict):
    name: str
    id: Count
    kind: Literal["science", "guider", "wavefront"]
    layout: str
    serial: str
    raft_serial: str
    reb: str = ""
    centre: tuple[float, float]
    yaw: float = 0.0
    z_mm: float = 0.0


class _ReferenceEntry(_Strict):
    detector: str
    amp: str
    row: Count
    column: Count
    box: Annotated[int, Field(gt=0)]


class _CameraFile(_Strict):
    name: str
    title: str
    pixel_mm: Positive
    edge_mm: Positive
    midline_mm: Positive
    reference: _ReferenceEntry
    amplifiers: list[_AmplifierEntry]
    layouts: dict[str, _Layout]
    nominal_gains: dict[str, dict[str, Positive]] = {}
    detectors: list[_DetectorEntry]


def camera_names() -> list[str]:
    """Return the names of the cameras that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def _folder() -> Any:
    return resources.files("permil") / "cameras"


def _read(name_or_path: str | Path) -> tuple[str, dict[str, Any]]:
    """Return where a camera file lies and its content, with the files that it extends merged in."""
    named = _folder() / f"{name_or_path}.yaml"
    if named.is_file():
        where, text = str(named), named.read_text(encoding="utf-8")
    elif Path(name_or_path).is_file():
        where, text = str(name_or_path), Path(name_or_path).read_text(encoding="utf-8")
    else:
        raise CameraError(
            f"there is no camera {str(name_or_path)!r}",
            remedy=f"give one of {', '.join(camera_names())} or the path of a camera file",
            value=str(name_or_path),
            allowed=camera_names(),
        )
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(text, Loader=loader)  # noqa: S506 - both loaders are safe ones
    except yaml.YAMLError as error:
        raise CameraError(f"not valid YAML ({error})", path=where, remedy="correct the file") from error
    if not isinstance(content, dict):
        raise CameraError("not a camera file", path=where, remedy="see cameras/lsstcam.yaml for the keys")
    if "extends" in content:
        _, base = _read(content.pop("extends"))
        content = _merged(base, content)
    return where, content


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both_maps = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both_maps else value
    return merged


def load_camera(name_or_path: str | Path) -> Camera:
    """Load a camera by its name (``lsstcam``, ``lsstcam-bin8``) or from a camera file.

    Raises
    ------
    CameraError
        If there is no such camera or its file is not valid.
    """
    where, content = _read(name_or_path)
    try:
        entries = _CameraFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise CameraError(
            f"key {key}: {first['msg']}", path=where, remedy="see cameras/lsstcam.yaml for the keys", key=key
        ) from error
    detectors: dict[str, Detector] = {}
    for entry in entries.detectors:
        if entry.name in detectors:
            raise CameraError(f"detector {entry.name} stands twice", path=where, remedy="keep one of them")
        if entry.layout not in entries.layouts:
            raise CameraError(
                f"detector {entry.name} has the unknown layout {entry.layout!r}",
                path=where,
                remedy=f"layouts are {', '.join(entries.layouts)}",
            )
        detectors[entry.name] = _build_detector(entry, entries)
    reference = ReferenceBox(**entries.reference.model_dump())
    camera = Camera(
        name=entries.name,
        title=entries.title,
        pixel_mm=entries.pixel_mm,
        edge_mm=entries.edge_mm,
        midline_mm=entries.midline_mm,
        reference=reference,
        detectors=dict(sorted(detectors.items(), key=lambda item: item[1].id)),
    )
    camera[reference.detector].amplifier(reference.amp)
    return camera


@lru_cache(maxsize=4)
def shared_camera(name_or_path: str) -> Camera:
    """Return a camera that is loaded once per process: for workers that do one task after another.

    Raises
    ------
    CameraError
        See `load_camera`.
    """
    return load_camera(name_or_path)


def _build_detector(entry: _DetectorEntry, camera: _CameraFile) -> Detector:
    layout = camera.layouts[entry.layout]
    segment = layout.segment
    entries = [amplifier for amplifier in camera.amplifiers if amplifier.half in layout.halves]
    columns = 1 + max(amplifier.column for amplifier in entries)
    nx, ny = columns * segment.nx, len(layout.halves) * segment.ny
    # The bottom half, where there is one, starts at row 0 of the DM pixel frame.
    first_row = {half: index * segment.ny for index, half in enumerate(sorted(layout.halves))}
    gains = camera.nominal_gains.get(entry.name, {})
    amplifiers = tuple(
        Amplifier(
            name=amplifier.name,
            number=amplifier.number,
            extname=amplifier.extname,
            **segment.model_dump(),
            x_min=amplifier.column * segment.nx,
            y_min=first_row[amplifier.half],
            **layout.halves[amplifier.half].model_dump(),
            detector_shape=(ny, nx),
            gain=gains.get(amplifier.name, layout.nominal.gain),
            read_noise=layout.nominal.read_noise,
            saturation=layout.nominal.saturation,
        )
        for amplifier in entries
    )
    return Detector(
        name=entry.name,
        id=entry.id,
        kind=entry.kind,
        layout=entry.layout,
        vendor=layout.vendor,
        serial=entry.serial,
        raft_serial=entry.raft_serial,
        reb=entry.reb,
        nx=nx,
        ny=ny,
        pixel_mm=camera.pixel_mm,
        centre_dvcs=entry.centre,
        reference_pixel=layout.reference_pixel,
        yaw_deg=entry.yaw,
        z_mm=entry.z_mm,
        amplifiers=amplifiers,
    )
