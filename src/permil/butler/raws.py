"""Raw files of a repository: query, places of the files, and copies of those on other machines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from permil.butler.repository import asking, open_repository
from permil.camera import Camera
from permil.config.exposures import ButlerQuery
from permil.errors import ButlerError, ConfigError
from permil.exposures.consistency import RegistryEntry
from permil.exposures.files import FoundFiles
from permil.exposures.index import Unreadable

_THREADS = 16
"""Requests to a remote datastore at a time."""
_MOST_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class RegisteredRaw:
    """A raw file in a datastore.

    Attributes
    ----------
    entry
        Its entry in the registry.
    uri
        Its place.
    path
        Its path on this machine, "" if it is elsewhere.
    size
        Bytes of a file that is elsewhere.
    program, kind
        Science program (the run) and observation type of the exposure.
    """

    entry: RegistryEntry
    uri: str = ""
    path: str = ""
    size: int = 0
    program: str = ""
    kind: str = ""


@dataclass(frozen=True)
class RawSelection:
    """The raw files that a query finds.

    Attributes
    ----------
    repo
        The repository.
    files
        Files in the datastore.
    missing
        Exposures in the registry whose files are not in the datastore, with the reason.
    """

    repo: str
    files: tuple[RegisteredRaw, ...]
    missing: tuple[Unreadable, ...] = ()

    @property
    def remote(self) -> tuple[RegisteredRaw, ...]:
        """Files that are not on this machine."""
        return tuple(file for file in self.files if not file.path)

    def facts(self) -> dict[str, Any]:
        """Return numbers of exposures and files as plain values, in total and by program and observation type."""
        groups = Counter((file.program, file.kind) for file in self.files)
        exposures = Counter((program, kind) for program, kind, _ in {(f.program, f.kind, f.entry.obsid) for f in self.files})
        return {
            "repository": self.repo,
            "files": len(self.files),
            "detectors": sorted({file.entry.detector for file in self.files}),
            "groups": [
                {"program": program, "kind": kind, "exposures": exposures[program, kind], "files": count}
                for (program, kind), count in sorted(groups.items())
            ],
            "remote_files": len(self.remote),
            "remote_gigabytes": sum(file.size for file in self.remote) / 1e9,
            "missing": [{"exposure": entry.path, "reason": entry.reason} for entry in self.missing],
        }

    def describe(self) -> list[str]:
        """Return a summary of the selection for the user, one line each."""
        facts = self.facts()
        lines = [
            f"{group['program'] or '?'}: {group['exposures']} {group['kind']} exposures, {group['files']} files"
            for group in facts["groups"]
        ]
        lines.append(f"{facts['files']} files of {len(facts['detectors'])} detectors in {self.repo}")
        if self.remote:
            lines.append(f"{len(self.remote)} files ({facts['remote_gigabytes']:.3g} GB) are on another machine")
        lines += [f"not used: {entry.path}: {entry.reason}" for entry in self.missing[:_MOST_LISTED]]
        if len(self.missing) > _MOST_LISTED:
            lines.append(f"... and {len(self.missing) - _MOST_LISTED} more, not used")
        return lines


def find_raws(query: ButlerQuery, camera: Camera) -> RawSelection:
    """Find raw files by a query; no file is opened.

    Parameters
    ----------
    query
        Repository, collections, condition and dataset type. An instrument that is the only one of the collections need not be named.
    camera
        The camera, which gives detectors their names.

    Returns
    -------
    RawSelection
        Files sorted by their places.

    Raises
    ------
    ConfigError
        If no collections are named.
    ButlerError
        If the repository cannot be opened, the query is wrong, or it finds nothing.

    Examples
    --------
    >>> import permil
    >>> from permil.butler import find_raws
    >>> config = permil.load_config({"exposures": {"butler": {"repo": "/repo/main", "collections": ["LSSTCam/raw/all"]}}})
    >>> find_raws(config.exposures.butler, permil.load_camera("lsstcam"))  # doctest: +SKIP
    """
    if not query.collections:
        raise ConfigError(
            "no collections to search",
            path=query.repo,
            remedy="name them in exposures.butler.collections, for example LSSTCam/raw/all",
        )
    files: list[RegisteredRaw] = []
    missing: list[Unreadable] = []
    with open_repository(query.repo, collections=query.collections) as butler:
        refs = _query(butler, query)
        with asking(query.repo, "the places of raw files cannot be found"):
            places = butler.get_many_uris(refs, allow_missing=True)
            uris = {ref: places[ref].primaryURI for ref in refs if ref in places}
            present = _present(uris)
            sizes = _sizes([uri for uri, is_there in present.items() if is_there and not uri.isLocal])
    for ref in refs:
        raw, uri = _registered(ref, camera), uris.get(ref)
        name = f"exposure {raw.entry.obsid or ref.dataId['exposure']}, detector {raw.entry.detector}"
        if uri is None:
            missing.append(Unreadable(name, "in the registry of the repository, but not in its datastore"))
        elif not present[uri]:
            missing.append(Unreadable(str(uri), f"the file of {name} is in the datastore, but does not exist"))
        else:
            files.append(replace(raw, uri=str(uri), path=uri.ospath if uri.isLocal else "", size=sizes.get(str(uri), 0)))
    if not files:
        raise ButlerError(
            f"none of {len(missing)} raw files is in the datastore; the first: {missing[0].path}: {missing[0].reason}",
            path=query.repo,
            remedy="restore the files, or change exposures.butler.where",
            missing=missing,
        )
    if members := [file.uri for file in files if "#" in file.uri]:
        raise ButlerError(
            f"{len(members)} raw files are members of archives, for example {members[0]}",
            path=query.repo,
            remedy="copy them with `butler retrieve-artifacts` and name the folder in exposures.roots",
            value=members,
        )
    return RawSelection(query.repo, tuple(sorted(files, key=lambda file: file.uri)), tuple(missing))


def _query(butler: Any, query: ButlerQuery) -> list[Any]:
    """Return the datasets that a query finds.

    Raises
    ------
    ButlerError
        If the query is wrong or finds nothing.
    """
    with asking(
        query.repo,
        f"the query of {query.dataset_type} in {', '.join(query.collections)} fails",
        remedy="check collections, where and dataset_type of exposures.butler",
    ):
        dimensions = butler.get_dataset_type(query.dataset_type).dimensions.names
        if not {"exposure", "detector"} <= set(dimensions):
            raise ButlerError(
                f"dataset type {query.dataset_type} has the dimensions {', '.join(dimensions)}, not exposure and detector",
                path=query.repo,
                remedy="name a dataset type of raw files in exposures.butler.dataset_type",
                value=query.dataset_type,
            )
        refs: list[Any] = butler.query_datasets(
            query.dataset_type,
            collections=query.collections,
            where=query.where,
            with_dimension_records=True,
            limit=None,
            explain=False,
        )
    if not refs:
        condition = f" where {query.where}" if query.where else ""
        raise ButlerError(
            f"there is no {query.dataset_type} in {', '.join(query.collections)}{condition}",
            path=query.repo,
            remedy="check collections and where of exposures.butler (detectors are numbers, or detector.full_name = 'R22_S11')",
            where=query.where,
        )
    return refs


def _present(uris: Mapping[Any, Any]) -> dict[Any, bool]:
    from lsst.resources import ResourcePath

    there: dict[Any, bool] = ResourcePath.mexists(set(uris.values()))
    return there


def _sizes(uris: list[Any]) -> dict[str, int]:
    """Return the sizes of files by their places, bytes."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(map(str, uris), pool.map(lambda uri: uri.size(), uris), strict=True))


def _registered(ref: Any, camera: Camera) -> RegisteredRaw:
    """Return the entry of a file in the registry, without its place.

    Fields that the universe of dimensions of a repository does not have are missing.
    """
    exposure, detector = (ref.dataId.records[name] for name in ("exposure", "detector"))
    name = str(getattr(detector, "full_name", None) or ref.dataId["detector"])
    known = camera.find(name)
    timespan = getattr(exposure, "timespan", None)
    day, seqnum, seconds = (getattr(exposure, field, None) for field in ("day_obs", "seq_num", "exposure_time"))
    entry = RegistryEntry(
        detector=name if known is None else known.name,
        obsid=str(getattr(exposure, "obs_id", None) or getattr(exposure, "name", None) or ""),
        day_obs="" if day is None else str(day),
        seqnum=-1 if seqnum is None else int(seqnum),
        exposure_s=math.nan if seconds is None else float(seconds),
        begin_mjd=_mjd(timespan, "begin"),
        end_mjd=_mjd(timespan, "end"),
    )
    program, kind = (str(getattr(exposure, field, None) or "") for field in ("science_program", "observation_type"))
    return RegisteredRaw(entry=entry, program=program, kind=kind)


def _mjd(timespan: Any, bound: str) -> float:
    """Return a bound of a timespan, NaN if it is open or empty."""
    time: Any = getattr(timespan, bound, None)
    return float(time.tai.mjd) if hasattr(time, "tai") else math.nan


def local_files(selection: RawSelection, folder: Path, *, show: Callable[[str], None]) -> FoundFiles:
    """Return the raw files of a selection for the index; copy those that are on other machines.

    Parameters
    ----------
    folder
        For copies. They keep the names of their folders; a copy of the right size is not made again.
    show
        Receives number and size of the files before they are copied.

    Raises
    ------
    ButlerError
        If a file cannot be copied.
    """
    copies = {file.uri: folder / file.uri.split("://", 1)[1].lstrip("/") for file in selection.remote}
    needed = [file for file in selection.remote if not _has_size(copies[file.uri], file.size)]
    if needed:
        show(f"copying {len(needed)} files ({sum(file.size for file in needed) / 1e9:.3g} GB) to {folder}")
        failed = asking(selection.repo, "raw files cannot be copied", remedy="check the connection and run again")
        with failed, ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda file: _copy(file, copies[file.uri]), needed))
    registry = {str(Path(file.path or copies[file.uri]).absolute()): file.entry for file in selection.files}
    return FoundFiles(registry, selection.missing)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _copy(file: RegisteredRaw, path: Path) -> None:
    from lsst.resources import ResourcePath

    path.parent.mkdir(parents=True, exist_ok=True)
    ResourcePath(path).transfer_from(ResourcePath(file.uri), "copy", overwrite=True)
    if not _has_size(path, file.size):
        raise ButlerError("the copy is incomplete", path=path, remedy="check the connection and run again")
