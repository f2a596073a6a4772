"""Files of single datasets by URI: the dataset that a URI names, and its file on this machine.

Four spellings are understood:

- ``butler:REPO?collection=NAME&dataset_type=NAME&detector=R22_S11&physical_filter=red``, with ``date=2021-12-24`` (TAI) where a calibration
  collection has several; ``REPO`` is a folder, a URI or a label, and detectors are names or numbers;
- ``ivo://AUTHORITY/PATH?repo=REPO&id=UUID``, and ``butler://LABEL/UUID``, the URIs of datasets of lsst-daf-butler;
- the URI of a file in a datastore (``file``, ``https``, ``s3``), as ``butler query-datasets --show-uri`` prints it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from permil.butler.curated import parse_validity
from permil.butler.repository import RepositoryNames, asking, open_repository, require_butler
from permil.camera import Camera
from permil.camera.model import detector_key
from permil.config.base import located_repository
from permil.errors import ButlerError, PermilError

_SPELLING = "write butler:REPO?collection=NAME&dataset_type=permil_flat&detector=R22_S11&physical_filter=red"
_MOST_LISTED = 8


@dataclass(frozen=True)
class DatasetQuery:
    """A dataset, named by its type and data id.

    Attributes
    ----------
    repo
        Repository: folder, URI or label.
    collection, dataset_type
        Where it is searched, and its dataset type.
    data_id
        Values by dimension, as text.
    date
        Date (TAI) at which it is valid; empty: any.
    """

    repo: str
    collection: str
    dataset_type: str
    data_id: Mapping[str, str]
    date: str = ""


@dataclass(frozen=True)
class DatasetFile:
    """The file of a dataset.

    Attributes
    ----------
    path
        File on this machine.
    uri
        URI or path that the user named.
    description
        Dataset type, data id and collection; empty if a file was named.
    detector
        Name of the detector in the registry; empty if a file was named.
    """

    path: Path
    uri: str
    description: str = ""
    detector: str = ""

    def __str__(self) -> str:
        """Return its file and description."""
        return f"{self.path.name}: {self.description}" if self.description else str(self.path)


def detector_of(files: Sequence[DatasetFile], camera: Camera, given: str = "") -> str:
    """Return the detector of files that belong together, empty if neither the registry nor the user names one.

    Detectors that the camera does not have are not returned: the headers of the files must name them.

    Parameters
    ----------
    given
        Detector that the user names.

    Raises
    ------
    ButlerError
        If datasets are of different detectors, or of another one than the user names.
    """
    named = [(found.name, each.uri) for each in files if (found := camera.find(each.detector or "-")) is not None]
    wanted = camera[given].name if given else named[0][0] if named else ""
    other = next(((name, uri) for name, uri in named if name != wanted), None)
    if other is not None:
        raise ButlerError(
            f"this dataset is of {other[0]}, not of {wanted}",
            path=other[1],
            remedy=f"name a dataset of {wanted}",
            value=other[0],
            detector=wanted,
        )
    return wanted


def parse_query(uri: str) -> DatasetQuery:
    """Parse a URI of the form ``butler:REPO?collection=NAME&...``.

    Raises
    ------
    ButlerError
        If it is not of this form.
    """
    repo, _, query = uri.removeprefix("butler:").partition("?")
    given: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, entry = part.partition("=")
        if not entry or name in given:
            raise ButlerError(f"{part!r} is not KEY=VALUE, or repeats a key", path=uri, remedy=_SPELLING, value=part)
        given[name] = unquote(entry)
    missing = [name for name in ("collection", "dataset_type") if name not in given]
    if missing or not repo:
        raise ButlerError(f"no {missing[0] if missing else 'repository'} is named", path=uri, remedy=_SPELLING)
    try:
        place = located_repository(unquote(repo))
    except ValueError as error:
        raise ButlerError(f"{repo!r}: {error}", path=uri, remedy=_SPELLING, value=repo) from error
    return DatasetQuery(place, given.pop("collection"), given.pop("dataset_type"), given, given.pop("date", ""))


@contextlib.contextmanager
def dataset_files(uris: Sequence[str | Path]) -> Iterator[list[DatasetFile]]:
    """Yield the files of datasets; copies of those on other machines are removed afterwards.

    Formatters of the repository are not used: datasets of all programs can be found.

    Parameters
    ----------
    uris
        URIs of datasets, and paths of files, which are given as they are.

    Yields
    ------
    list of DatasetFile

    Raises
    ------
    ButlerError
        If lsst-daf-butler is not installed, there is no such repository or dataset, several datasets fit, or there is no file.

    Examples
    --------
    >>> import permil
    >>> from permil.butler import dataset_files
    >>> uri = "butler:/repo/main?collection=u/me/flats&dataset_type=permil_flat&detector=94&physical_filter=red"
    >>> with dataset_files([uri]) as (dataset,):  # doctest: +SKIP
    ...     flat = permil.Flat.read(dataset.path)
    """
    with contextlib.ExitStack() as stack:
        yield [DatasetFile(uri, str(uri)) if isinstance(uri, Path) else stack.enter_context(_dataset_file(uri)) for uri in uris]


@contextlib.contextmanager
def _dataset_file(uri: str) -> Iterator[DatasetFile]:
    require_butler(uri)
    place, description, detector = _find(uri) if uri.startswith(("butler:", "ivo:")) else (_file(uri), "", "")
    with asking(uri, "the file cannot be found"):
        exists = place.exists()
    if not exists:
        named = f"the file of {description}" if description else "the file"
        raise ButlerError(f"{named} does not exist ({place})", path=uri, remedy="restore the file, or name another dataset")
    if place.fragment:
        raise ButlerError(
            f"this is a member of an archive ({place})", path=uri, remedy="copy it first with `butler retrieve-artifacts`"
        )
    if place.isLocal:
        yield DatasetFile(Path(place.ospath), uri, description, detector)
        return
    with tempfile.TemporaryDirectory(prefix="permil-") as folder:
        copy = Path(folder) / place.basename()
        with asking(uri, "the file cannot be copied", remedy="check the connection"):
            copy.write_bytes(place.read())
        try:
            yield DatasetFile(copy, uri, description, detector)
        except PermilError as error:
            # The user does not know the name of a copy.
            error.path = uri if error.path == str(copy) else error.path
            raise


def _file(uri: str) -> Any:
    from lsst.resources import ResourcePath

    with asking(uri, "this is not the URI of a file", remedy=_SPELLING):
        return ResourcePath(uri)


def _find(uri: str) -> tuple[Any, str, str]:
    """Return the place of a dataset in its datastore, its description and its detector.

    Raises
    ------
    ButlerError
        If there is no such dataset, several fit, or it has no file of its own.
    """
    is_query = uri.startswith("butler:") and not uri.startswith("butler://")
    query = parse_query(uri) if is_query else None
    repo, identifier = (query.repo, None) if query else _identified(uri)
    with open_repository(repo, collections=[query.collection] if query else []) as butler:
        with asking(uri, "the dataset cannot be found", remedy="check collection, dataset type and values"):
            ref = _by_query(butler, query, uri) if query else butler.get_dataset(identifier)
            if ref is None:
                raise ButlerError(
                    f"there is no dataset {identifier} in {repo}", path=uri, remedy="check the id", value=identifier
                )
            data_id = butler.registry.expandDataId(ref.dataId)
        values = ", ".join(f"{name} {data_id[name]}" for name in data_id.dimensions.required)
        description = f"{ref.datasetType.name} of {values}, in {ref.run}"
        detector = str(data_id.records["detector"].full_name) if "detector" in data_id.dimensions.names else ""
        try:
            with asking(uri, "the place of the dataset cannot be found"):
                place = butler.getURIs(ref).primaryURI
        except ButlerError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            place, reason = None, "is in the registry, but not in the datastore"
        else:
            reason = "is stored in several files"
    if place is None:
        raise ButlerError(f"{description} {reason}", path=uri, remedy="name another dataset, or a file")
    return place, description, detector


def _identified(uri: str) -> tuple[str, Any]:
    """Return repository and id in a URI of lsst-daf-butler."""
    from lsst.daf.butler import Butler

    try:
        parsed = Butler.parse_dataset_uri(uri)
        return located_repository(parsed.label), parsed.dataset_id
    except ValueError as error:
        raise ButlerError(
            f"this does not name a dataset ({error})",
            path=uri,
            remedy=f"write ivo://AUTHORITY/PATH?repo=REPO&id=UUID, or {_SPELLING.removeprefix('write ')}",
        ) from error


def _by_query(butler: Any, query: DatasetQuery, uri: str) -> Any:
    """Return the dataset that fits.

    Raises
    ------
    ButlerError
        If none or several fit.
    """
    from lsst.daf.butler import CalibrationLookupError, Timespan

    # An unknown dataset type or dimension is named before anything is searched.
    dimensions = butler.get_dataset_type(query.dataset_type).dimensions
    if unknown := sorted(set(query.data_id) - set(dimensions.names)):
        raise ButlerError(
            f"{query.dataset_type} has no dimension {unknown[0]}",
            path=uri,
            remedy=f"its dimensions are {', '.join(dimensions.names)}",
            value=unknown[0],
            allowed=list(dimensions.names),
        )
    names = RepositoryNames.read(butler, query.repo, query.data_id.get("instrument", ""), option="instrument=NAME in the URI")
    data_id = _values(query.data_id, dimensions, names, uri)
    refs = butler.query_datasets(
        query.dataset_type, collections=[query.collection], find_first=False, data_id=data_id, explain=False, limit=None
    )
    found = {ref.dataId: ref for ref in refs}
    if not found:
        shown = "".join(f", {name} {entry}" for name, entry in query.data_id.items())
        raise ButlerError(
            f"{query.collection} has no {query.dataset_type}{shown}", path=uri, remedy="check collection, dataset_type and values"
        )
    if len(found) > 1:
        raise ButlerError(
            f"{len(found)} datasets match", path=uri, remedy=f"add {_choices(list(found), dimensions.required)}", value=len(found)
        )
    if len({ref.id for ref in refs}) == 1 and not query.date:
        return refs[0]
    instant = parse_validity(query.date, "date")
    timespan = Timespan(None, None) if instant is None else Timespan.fromInstant(instant)
    try:
        ref = butler.find_dataset(query.dataset_type, next(iter(found)), collections=[query.collection], timespan=timespan)
    except CalibrationLookupError as error:
        raise ButlerError(
            f"{len({ref.id for ref in refs})} datasets are valid on different dates",
            path=uri,
            remedy="add date=2021-12-24 (TAI), the date of the images",
        ) from error
    if ref is None:
        raise ButlerError(f"no dataset is valid on {query.date} (TAI)", path=uri, remedy="give another date", value=query.date)
    return ref


def _values(given: Mapping[str, str], dimensions: Any, names: RepositoryNames, uri: str) -> dict[str, Any]:
    """Return values of a data id as the registry has them: numbers, and detectors by number."""
    values: dict[str, Any] = {"instrument": names.instrument} if "instrument" in dimensions.names else {}
    for name, entry in given.items():
        if name == "detector":
            numbers = {detector_key(known): number for known, number in names.detectors.items()}
            key = detector_key(entry)
            if (number := numbers.get(key, key)) not in names.detectors.values():
                raise ButlerError(
                    f"instrument {names.instrument} has no detector {entry}",
                    path=uri,
                    remedy="give its name or number",
                    value=entry,
                )
            values[name] = number
        elif issubclass(dimensions.universe.dimensions[name].primaryKey.getPythonType(), int):
            if not entry.isdecimal():
                raise ButlerError(f"{name}={entry} is not a number", path=uri, remedy="give the number", value=entry)
            values[name] = int(entry)
        else:
            values[name] = entry
    return values


def _choices(data_ids: Sequence[Any], required: Any) -> str:
    """Return the keys by which data ids differ, with their values."""
    parts = []
    for name in required:
        values = sorted({data_id[name] for data_id in data_ids})
        if len(values) > 1:
            listed = ", ".join(map(str, values[:_MOST_LISTED])) + (" ..." if len(values) > _MOST_LISTED else "")
            parts.append(f"{name}= (one of {listed})")
    return " and ".join(parts)
