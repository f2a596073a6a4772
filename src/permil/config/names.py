"""Normalisation of names of detectors, rafts and LEDs in the configuration."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin

from permil.config.base import Section
from permil.errors import ConfigError

if TYPE_CHECKING:
    from permil.camera import Camera

Sections = TypeVar("Sections", bound=Section)

_PLAIN = re.compile(r"R\d\d(_[A-Z]\w\d)?")


@dataclass(frozen=True)
class DetectorName:
    """Annotation of a key with the name of a detector or raft: ``Annotated[str, DetectorName()]``."""

    or_raft: bool = False
    or_detector: bool = True


@dataclass(frozen=True)
class LedName:
    """Annotation of a key with the name of an LED; ``is_known`` if it must be one of ``exposures.leds``."""

    is_known: bool = True


DetectorText = Annotated[str, DetectorName()]
DetectorOrRaft = Annotated[str, DetectorName(or_raft=True)]
RaftText = Annotated[str, DetectorName(or_raft=True, or_detector=False)]
KnownLed = Annotated[str, LedName()]
AnyLed = Annotated[str, LedName(is_known=False)]


def with_names(config: Sections, *, camera: str, cameras: Mapping[str, str], leds: list[str]) -> Sections:
    """Return a configuration with names of detectors, rafts and LEDs in their canonical spelling.

    ``r22-s11``, ``94`` and the serial number of a sensor become ``R22_S11``, ``r22`` becomes ``R22``, ``Red`` becomes ``red``.

    Parameters
    ----------
    camera
        Of the run.
    cameras
        Those of sections that have one of their own, which simulate.
    leds
        Accepted names of LEDs.

    Raises
    ------
    ConfigError
        If the camera or ``exposures.leds`` does not have a name.
    CameraError
        If a detector is named and the camera cannot be loaded.
    """
    changes: dict[str, Section] = {}
    for name in config.model_fields_set:
        section = getattr(config, name)
        if isinstance(section, Section):
            names = _Names(cameras.get(name, camera), leds, is_simulated=name in cameras)
            changes[name] = _named(section, names, name)
    return config.model_copy(update=changes)


def led_named(text: str, *, camera: str, leds: list[str]) -> str:
    """Return the canonical name of an LED, ignoring case; other text is returned unchanged."""
    return _Names(camera, leds, is_simulated=False).led(text, LedName(is_known=False), "")


class _Names:
    """Names of a camera and a list of LEDs; the camera is loaded when a detector is first looked up.

    A simulation checks its detectors itself, and its camera is not needed to reduce its files.
    """

    def __init__(self, camera: str, leds: list[str], *, is_simulated: bool) -> None:
        self._path, self._leds, self._is_simulated = camera, leds, is_simulated
        self._camera: Camera | None = None

    @property
    def camera(self) -> Camera:
        """The camera."""
        from permil.camera import load_camera

        if self._camera is None:
            self._camera = load_camera(self._path)
        return self._camera

    def detector(self, text: str, rule: DetectorName, key: str) -> str:
        """Return the name of a detector or raft."""
        if not text or (self._is_simulated and _PLAIN.fullmatch(text)):
            return text
        from permil.camera.model import detector_key

        found = self.camera.find(text) if rule.or_detector else None
        if found is not None:
            return found.name
        rafts = {detector.raft for detector in self.camera.detectors.values()} if rule.or_raft else set()
        label = str(detector_key(text))
        if label in rafts:
            return label
        what = " or ".join([*["detector"] * rule.or_detector, *["raft"] * rule.or_raft])
        known = [*(list(self.camera.detectors) if rule.or_detector else []), *sorted(rafts)]
        raise _unknown(key, text, f"camera {self.camera.name} has no {what} with this name", known)

    def led(self, text: str, rule: LedName, key: str) -> str:
        """Return the name of an LED."""
        found = next((led for led in self._leds if led.casefold() == text.casefold()), None)
        if found is not None or not text or not rule.is_known:
            return found or text
        raise _unknown(key, text, "it is not in exposures.leds", self._leds)


def _unknown(key: str, text: str, why: str, known: Iterable[str]) -> ConfigError:
    names = list(known)
    close = difflib.get_close_matches(text.upper(), [name.upper() for name in names], n=3, cutoff=0.6)
    shown = [name for name in names if name.upper() in close] or names[:6]
    hint = (
        f"did you mean {' or '.join(shown)}?" if close else f"names are {', '.join(shown)}" + (" ..." if len(names) > 6 else "")
    )
    return ConfigError(f"key {key} = {text!r}: {why}", remedy=hint, key=key, value=text, allowed=names)


def _named(section: Section, names: _Names, where: str) -> Section:
    changes: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), f"{where}.{name}"
        annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        new = _named_value(annotation, value, names, key)
        if new != value:
            changes[name] = new
    return section.model_copy(update=changes) if changes else section


def _named_value(annotation: Any, value: Any, names: _Names, key: str) -> Any:
    if isinstance(value, Section):
        return _named(value, names, key)
    if isinstance(value, str):
        for rule in getattr(annotation, "__metadata__", ()):
            if isinstance(rule, DetectorName):
                return names.detector(value, rule, key)
            if isinstance(rule, LedName):
                return names.led(value, rule, key)
        return value
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    arguments = get_args(annotation)
    if isinstance(value, list | tuple) and arguments:
        return type(value)(_named_value(arguments[0], entry, names, key) for entry in value)
    if isinstance(value, dict) and get_origin(annotation) is dict:
        of_key, of_value = arguments
        renamed: dict[str, Any] = {}
        for name, entry in value.items():
            new = _named_value(of_key, name, names, key)
            if new in renamed:
                raise ConfigError(f"key {key} lists {new} twice", remedy="keep one of them", key=key, value=name)
            renamed[new] = _named_value(of_value, entry, names, key)
        return renamed
    return value
