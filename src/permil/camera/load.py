"""Read and validate camera files."""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from permil.camera.model import Amplifier, Camera, Detector, Led, ReferenceBox
from permil.errors import CameraError, path_of
from permil.yaml_file import YamlModel, merged, read_yaml

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Half = Literal["top", "bottom"]


class _AmplifierEntry(YamlModel):
    number: Annotated[int, Field(ge=1)]
    name: str
    extname: str
    column: Count
    half: Half


class _Flips(YamlModel):
    flip_x: bool
    flip_y: bool


class _Segment(YamlModel):
    prescan: Count
    nx: Annotated[int, Field(gt=0)]
    serial_overscan: Count
    ny: Annotated[int, Field(gt=0)]
    parallel_overscan: Count


class _Nominal(YamlModel):
    gain: Positive
    read_noise: Positive
    saturation: Positive


class _SensorLayout(YamlModel):
    vendor: str
    halves: dict[Half, _Flips]
    segment: _Segment
    reference_pixel: tuple[float, float]
    nominal: _Nominal


class _DetectorEntry(YamlModel):
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


class _ReferenceEntry(YamlModel):
    detector: str
    amp: str
    row: Count
    column: Count
    box: Annotated[int, Field(gt=0)]


class _LedEntry(YamlModel):
    name: str
    band: str = ""
    wavelength_nm: Positive | None = None


class _CameraFile(YamlModel):
    name: str
    title: str
    pixel_mm: Positive
    edge_mm: Positive
    midline_mm: Positive
    temperature_coefficient: float | None = None
    leds: list[_LedEntry] = Field(default=[])
    reference: _ReferenceEntry
    amplifiers: list[_AmplifierEntry]
    layouts: dict[str, _SensorLayout]
    nominal_gains: dict[str, dict[str, Positive]] = Field(default={})
    detectors: list[_DetectorEntry]


def camera_names() -> list[str]:
    """Return the names of the cameras that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def _folder() -> Any:
    return resources.files("permil") / "cameras"


def _read(name_or_path: str | Path) -> tuple[Path, dict[str, Any], set[str]]:
    """Return the path of a camera file, its content merged over the files that it extends, and the names in all of them.

    The names are those of detectors and amplifiers; a file may omit some for which the extended file has gains.
    """
    first = path = _find(name_or_path, Path())
    chain: list[Path] = []
    contents: list[dict[str, Any]] = []
    while True:
        chain.append(path.resolve())
        content = read_yaml(path, kind="camera file", error=CameraError)
        if not content:
            raise CameraError("not a camera file: it is empty", path=path, remedy="see cameras/lsstcam.yaml for the keys")
        contents.append(content)
        if "extends" not in content:
            break
        base = content.pop("extends")
        if not isinstance(base, str):
            raise CameraError(
                f"key extends = {base!r}: expected is the name of a camera or the path of a camera file",
                path=path,
                remedy=f"give one of {', '.join(camera_names())} or a path relative to this file",
                value=base,
            )
        try:
            base_path = _find(base, path.parent)
        except CameraError as error:
            error.path = str(path)
            raise
        if base_path.resolve() in chain:
            raise CameraError(
                f"key extends = {base!r} is circular ({base_path.name})",
                path=path,
                remedy="extend a camera outside this chain",
                value=base,
            )
        path = base_path
    whole: dict[str, Any] = {}
    for content in reversed(contents):
        whole = merged(whole, content)
    lists = [content.get(key) for content in contents for key in ("detectors", "amplifiers")]
    entries = [entry for listed in lists if isinstance(listed, list) for entry in listed if isinstance(entry, dict)]
    return first, whole, {str(entry.get("name")) for entry in entries}


def _find(name_or_path: str | Path, folder: Path) -> Path:
    """Return the path of a camera file: a camera of the package by name, else relative to a folder."""
    if str(name_or_path) in camera_names():
        return Path(str(_folder() / f"{name_or_path}.yaml"))
    try:
        path = folder / Path(name_or_path).expanduser()
        is_there = path.exists()
    except (OSError, RuntimeError, ValueError):
        is_there = False
    if not is_there:
        raise CameraError(
            f"camera {str(name_or_path)!r} does not exist",
            remedy=f"give one of {', '.join(camera_names())} or the path of a camera file",
            value=str(name_or_path),
            allowed=camera_names(),
        )
    return path


def load_camera(name_or_path: str | Path) -> Camera:
    """Load a camera by its name (``lsstcam``, ``lsstcam-bin8``) or from a camera file.

    A camera file may extend another, ``extends: lsstcam`` or a path relative to itself: its keys take precedence, map by map, and lists
    replace whole lists. A camera name of the package is never read as a path: write ``./lsstcam`` for a file of that name.

    Parameters
    ----------
    name_or_path
        Name of a camera of the package, or path of a camera file.

    Returns
    -------
    Camera
        ``camera["R22_S11"]`` is a detector; also its number or serial number.

    Raises
    ------
    CameraError
        If there is no such camera or its file is not valid.

    Examples
    --------
    >>> import permil
    >>> permil.load_camera("lsstcam")[94].name
    'R22_S11'
    """
    if str(name_or_path) in camera_names():
        return _load_own(str(name_or_path))
    # As it was given: ./lsstcam is a file, and not the camera of this name.
    path_of(name_or_path, "a camera")
    return _load(name_or_path)


def _load(name_or_path: str | Path) -> Camera:
    where, content, known = _read(name_or_path)
    try:
        entries = _CameraFile.model_validate(content)
        _require_consistent(entries, known)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise CameraError(f"key {key}: {message}", path=where, remedy="see cameras/lsstcam.yaml for the keys", key=key) from error
    except CameraError as error:
        error.path = str(where)
        raise
    return _build(entries, where)


# The file of a camera of the package does not change.
_load_own = lru_cache(_load)


def _require_consistent(camera: _CameraFile, known: set[str]) -> None:
    """Check that nothing is duplicated and every name is known."""
    for what, listed in (
        ("amplifier number", [entry.number for entry in camera.amplifiers]),
        ("amplifier name", [entry.name for entry in camera.amplifiers]),
        ("amplifier extname", [entry.extname for entry in camera.amplifiers]),
        ("amplifier place", [f"column {entry.column} of the {entry.half} half" for entry in camera.amplifiers]),
        ("LED", [entry.name for entry in camera.leds]),
        ("detector", [entry.name for entry in camera.detectors]),
        ("detector id", [entry.id for entry in camera.detectors]),
        ("detector serial", [entry.serial for entry in camera.detectors if entry.serial]),
    ):
        twice = [entry for entry, count in Counter(listed).items() if count > 1]
        if twice:
            raise CameraError(f"{what} {twice[0]} is given twice", remedy="keep one of them", value=twice[0])
    if not camera.detectors:
        raise CameraError("there are no detectors", remedy="list them under detectors")
    for name, layout in camera.layouts.items():
        for half in layout.halves:
            columns = sorted(entry.column for entry in camera.amplifiers if entry.half == half)
            if columns != list(range(len(columns))) or not columns:
                raise CameraError(
                    f"layout {name}: the amplifiers of the {half} half have the columns {columns}",
                    remedy="number them 0, 1, 2, ...",
                )
        if len({sum(entry.half == half for entry in camera.amplifiers) for half in layout.halves}) != 1:
            raise CameraError(
                f"layout {name}: its halves have different numbers of amplifiers", remedy="correct amplifiers or halves"
            )
    for name, gains in camera.nominal_gains.items():
        if name not in known:
            raise CameraError(f"nominal_gains names the unknown detector {name!r}", remedy="names look like R22_S11", value=name)
        unknown = sorted(set(gains) - known)
        if unknown:
            raise CameraError(
                f"nominal_gains of {name} names the unknown amplifier {unknown[0]!r}",
                remedy=f"amplifiers are {', '.join(entry.name for entry in camera.amplifiers)}",
                value=unknown[0],
            )


def _build(entries: _CameraFile, where: Path) -> Camera:
    detectors: dict[str, Detector] = {}
    for entry in entries.detectors:
        if entry.layout not in entries.layouts:
            raise CameraError(
                f"detector {entry.name} has the unknown layout {entry.layout!r}",
                path=where,
                remedy=f"layouts are {', '.join(entries.layouts)}",
            )
        detectors[entry.name] = _build_detector(entry, entries)
    reference = ReferenceBox(**entries.reference.model_dump())
    camera = Camera(
        **entries.model_dump(include={"name", "title", "pixel_mm", "edge_mm", "midline_mm", "temperature_coefficient"}),
        leds=tuple(Led(led.name, led.band, math.nan if led.wavelength_nm is None else led.wavelength_nm) for led in entries.leds),
        reference=reference,
        detectors=dict(sorted(detectors.items(), key=lambda item: item[1].id)),
    )
    try:
        camera[reference.detector].amplifier(reference.amp)
    except CameraError as error:
        error.path = str(where)
        raise
    return camera


@lru_cache(maxsize=4)
def shared_camera(name_or_path: str) -> Camera:
    """Return a camera that is loaded once per process, for workers that run many tasks.

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
            **amplifier.model_dump(include={"name", "number", "extname"}),
            **segment.model_dump(),
            x_min=amplifier.column * segment.nx,
            y_min=first_row[amplifier.half],
            **layout.halves[amplifier.half].model_dump(),
            detector_shape=(ny, nx),
            **layout.nominal.model_dump() | {"gain": gains.get(amplifier.name, layout.nominal.gain)},
        )
        for amplifier in entries
    )
    return Detector(
        **entry.model_dump(include={"name", "id", "kind", "layout", "serial", "raft_serial", "reb", "z_mm"}),
        vendor=layout.vendor,
        nx=nx,
        ny=ny,
        pixel_mm=camera.pixel_mm,
        centre_dvcs=entry.centre,
        reference_pixel=layout.reference_pixel,
        yaw_deg=entry.yaw,
        amplifiers=amplifiers,
    )
