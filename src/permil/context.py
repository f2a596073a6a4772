"""One run: the configuration, camera, folder and index that every stage receives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import getitem
from typing import Any

from astropy.table import Table

from permil.camera import Camera, load_camera
from permil.config import Config
from permil.engine import Task
from permil.errors import CalibrationError, InputError
from permil.exposures import POINTING, SCAN, SPOT, Index
from permil.exposures.files import read_index
from permil.products import RunFolder, origin_cards
from permil.progress import default_workers


@dataclass(frozen=True, eq=False)
class Run:
    """One run; nothing here writes.

    Attributes
    ----------
    shared
        Tasks that several others need, by their keys, so that each is declared once.
    """

    config: Config
    camera: Camera
    folder: RunFolder
    shared: dict[tuple[str, ...], Task] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Config) -> Run:
        """Load the camera and name the folder.

        Parameters
        ----------
        config
            With paths in place of ``measured`` (`with_measured_tables`).
        """
        return cls(config, load_camera(config.camera), RunFolder(config.output))

    @property
    def workers(self) -> int:
        """Number of worker processes on this machine."""
        return self.config.pipeline.workers or default_workers()

    @cached_property
    def index(self) -> Index:
        """The index of exposures.

        Raises
        ------
        InputError
            If there is none yet.
        """
        return index_of(self.folder)

    @property
    def has_exposures(self) -> bool:
        """Whether the run reduces raw exposures, not only catalogs of stars."""
        return self.config.exposures.has_raw_files or not self.config.spots.catalogs

    @property
    def purposes(self) -> set[str]:
        """Purposes of the exposures in the index; none if the run has only catalogs of stars."""
        return set(self.index.table["purpose"]) if self.has_exposures else set()

    @property
    def has_bench_exposures(self) -> bool:
        """Whether there is a beam scan or a pointing."""
        return bool(self.purposes & {SCAN, POINTING})

    @property
    def has_stars(self) -> bool:
        """Whether there are exposures or catalogs of artificial stars."""
        return bool(self.config.spots.catalogs) or SPOT in self.purposes

    @cached_property
    def _values(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def options(self, *keys: str) -> dict[str, Any]:
        """Return values of the configuration by their keys (``isr.overscan``) or those of whole sections (``isr``)."""
        return {key: reduce(getitem, key.split("."), self._values) for key in keys}

    def origin(self, exposures: Table, *, detector: str = "", led: str = "") -> dict[str, tuple[Any, str]]:
        """Return the provenance cards of a product; see `permil.products.origin.origin_cards`.

        A task whose products have them declares the options ``validity``.
        """
        return origin_cards(exposures, self.camera, config=self._values, detector=detector, led=led)

    def once(self, key: tuple[str, ...], declare: Callable[[], Task]) -> Task:
        """Return the task of a key, declared at the first call."""
        if key not in self.shared:
            self.shared[key] = declare()
        return self.shared[key]


def index_of(folder: RunFolder) -> Index:
    """Read the index of exposures of a run.

    Raises
    ------
    InputError
        If there is none yet.
    """
    if not folder.exposures.is_file():
        raise InputError("there is no index yet", path=folder.exposures, remedy="run `permil index CONFIG` first")
    return read_index(folder.exposures)


def with_measured_tables(config: Config) -> Config:
    """Return a configuration with the tables that earlier runs measured in place of ``measured``.

    Raises
    ------
    CalibrationError
        If such a table is missing.
    """
    folder, found = RunFolder(config.output), dict[str, str]()
    makers = {"gains": "isr.photon_transfer: true", "linearity": "flat.solver: joint"}
    for name, path in (("gains", folder.measured_gains), ("linearity", folder.measured_linearity)):
        if getattr(config.isr, name) != "measured":
            continue
        if not path.is_file():
            raise CalibrationError(
                f"there is no measured table of {name} yet",
                path=path,
                remedy=f"run with isr.{name}: none or a table, and {makers[name]}, first",
            )
        found[name] = str(path)
    return config.model_copy(update={"isr": config.isr.model_copy(update=found)}) if found else config
