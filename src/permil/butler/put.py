"""Put the products of a run into a repository and certify them; a repeated call changes nothing, and nothing is overwritten."""

from __future__ import annotations

import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from astropy.io import fits
from astropy.table import Table

from permil.butler.curated import (
    Calibrations,
    RunProduct,
    content_digest,
    find_calibrations,
    stored_digest,
    write_curated,
    write_stack_defects,
)
from permil.butler.repository import RepositoryNames, asking, open_repository
from permil.butler.storage import (
    FLAT_STORAGE,
    IMAGE_STORAGE,
    TABLE_STORAGE,
    FlatFormatter,
    ImageFormatter,
    register_storage_classes,
)
from permil.errors import ButlerError


@dataclass(frozen=True)
class Certified:
    """A dataset that is certified for a range.

    Attributes
    ----------
    dataset
        The dataset.
    digest
        Of its content; "" if unknown.
    timespan : lsst.daf.butler.Timespan
        Range.
    """

    dataset: Any
    digest: str
    timespan: Any


@dataclass(frozen=True)
class Change:
    """The change that makes a product valid in a range.

    Attributes
    ----------
    replaced
        Other products that are valid in the range, wholly or in part; the range must be cleared of them.
    known
        A dataset with the content of the product, None if it must be written.
    timespans
        Ranges to certify; empty if nothing changes.
    """

    replaced: tuple[Certified, ...]
    known: Any
    timespans: tuple[Any, ...]


def change_needed(present: Sequence[Certified], digest: str, wanted: Any) -> Change:
    """Return the change that makes a product valid in a range.

    Parameters
    ----------
    present
        All datasets that are certified under its name.
    digest
        Of the content of the product.
    wanted : lsst.daf.butler.Timespan
        Range.
    """
    inside = [entry for entry in present if entry.timespan.overlaps(wanted)]
    replaced = tuple(entry for entry in inside if entry.digest != digest)
    known = next((entry.dataset for entry in present if entry.digest == digest), None)
    if replaced:
        # Clearing the range also removes datasets that are valid in a part of it.
        return Change(replaced, known, (wanted,))
    left = [wanted]
    for entry in inside:
        left = [part for timespan in left for part in timespan.difference(entry.timespan)]
    return Change((), known, tuple(left))


_MOST_LISTED = 5
_COLLECTION = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[^\s/*?,\[\]]+(?:/[^\s/*?,\[\]]+)*")
"""Names of collections: parts without wildcards and blanks."""


@dataclass(frozen=True, kw_only=True)
class PutOptions:
    """The destination of products, and their validity.

    Attributes
    ----------
    repo
        Repository: folder, URI or label.
    collection
        Calibration collection; files go to collections below it, one for each call that writes.
    begin, end
        Validity, TAI, ``2021-12-03`` or ``2021-12-03T18:00:00``; empty: the dates in the headers of the flats, else no bound.
    instrument
        Name in the repository; empty: the only one there.
    filters
        Physical filters by LED. By default a filter of the name of the LED, or of an empty filter slot (``ef_43~red``).
    replace
        Whether products that are valid in the range are replaced by different ones.
    """

    repo: str
    collection: str
    begin: str = ""
    end: str = ""
    instrument: str = ""
    filters: Mapping[str, str] = field(default_factory=dict)
    replace: bool = False


@dataclass(frozen=True)
class DatasetKind:
    """A dataset type for a kind of products.

    Attributes
    ----------
    product
        Kind of the products.
    name, dimensions, storage
        Name, dimensions and storage class of the dataset type.
    formatter
        Class that reads the files; None for that of the datastore.
    """

    product: str
    name: str
    dimensions: tuple[str, ...]
    storage: str
    formatter: Any = None


_KINDS = (
    DatasetKind("flat", "permil_flat", ("instrument", "detector", "physical_filter"), FLAT_STORAGE, FlatFormatter),
    DatasetKind(
        "efficiency_flat", "permil_efficiency_flat", ("instrument", "detector", "physical_filter"), FLAT_STORAGE, FlatFormatter
    ),
    DatasetKind("mosaic", "permil_mosaic", ("instrument", "physical_filter"), IMAGE_STORAGE, ImageFormatter),
    DatasetKind("defects", "permil_defects", ("instrument", "detector"), TABLE_STORAGE),
    DatasetKind("gain_ratios", "permil_gain_ratios", ("instrument",), TABLE_STORAGE),
    DatasetKind("summary", "permil_summary", ("instrument",), TABLE_STORAGE),
)
_OF_THE_STACK = (
    ("flat", "ExposureF", "lsst.obs.base.formatters.fitsExposure", "FitsExposureFormatter"),
    ("defects", "Defects", "lsst.obs.base.formatters.fitsGeneric", "FitsGenericFormatter"),
)
"""Dataset types of the LSST stack: name, storage class, and module and name of the formatter."""


def dataset_kinds() -> tuple[list[DatasetKind], list[str]]:
    """Return the dataset types that can be put, and a sentence if those of the LSST stack cannot."""
    dimensions = {kind.product: kind.dimensions for kind in _KINDS}
    try:
        stack = [
            DatasetKind(name, name, dimensions[name], storage, getattr(import_module(module), formatter))
            for name, storage, module, formatter in _OF_THE_STACK
        ]
    except (ImportError, AttributeError):
        return list(_KINDS), ["not put as flat and defects of the LSST stack: its package lsst.obs.base cannot be imported"]
    return [*_KINDS, *stack], []


@dataclass(frozen=True)
class _Planned:
    """A product with its dataset type, data id and cards, and the change that makes it valid."""

    product: RunProduct
    kind: DatasetKind
    data_id: Mapping[str, Any]
    cards: Mapping[str, tuple[Any, str]]
    digest: str
    change: Change

    def __str__(self) -> str:
        """Return dataset type and data id."""
        return " ".join(str(entry) for entry in (self.kind.name, *list(self.data_id.values())[1:]))

    def write(self, path: Path) -> None:
        """Write the file of the dataset."""
        if self.kind.name == "defects":
            write_stack_defects(self.product, path, self.cards, digest=self.digest)
        else:
            write_curated(self.product, path, self.cards, digest=self.digest, planes_only=self.kind.name == "flat")

    @property
    def suffix(self) -> str:
        """Suffix of the file."""
        return ".fits" if self.product.is_image or self.kind.name == "defects" else ".ecsv"


def put_run(root: str | Path, options: PutOptions) -> list[str]:
    """Put the products of a run into a repository and certify them.

    Flats become ``permil_flat`` (by instrument, detector and physical filter), read back as `permil.Flat` after ``import permil.butler``;
    efficiency flats ``permil_efficiency_flat``; mosaics ``permil_mosaic``; defects, gain ratios and summary ``permil_defects``,
    ``permil_gain_ratios`` and ``permil_summary``. Flats and defects are also put as ``flat`` and ``defects`` of the LSST stack if its
    package obs_base can be imported.

    The certified datasets are looked up first and digests of content compared. A product that is valid already is left as it is; a
    different one in its range is refused unless ``replace`` is given. Then everything new is written to one new RUN collection, in one
    transaction; nothing is overwritten or removed.

    Parameters
    ----------
    root
        Folder of the run.
    options
        Repository, collection, validity.

    Returns
    -------
    list of str
        A summary, one line for each dataset type, and notes.

    Raises
    ------
    InputError
        If the run has no flat, a product cannot be read, or a date is wrong.
    ButlerError
        If the repository cannot be used, does not have the instrument, a detector or a filter, or has different products.

    Examples
    --------
    >>> from permil.butler import PutOptions, put_run
    >>> options = PutOptions(repo="/repo/main", collection="u/me/flats", begin="2021-12-01", end="2022-02-01")
    >>> put_run("out", options)  # doctest: +SKIP
    """
    root = Path(root)
    if not _COLLECTION.fullmatch(options.collection):
        raise ButlerError(
            f"{options.collection!r} is not the name of a collection",
            path=options.repo,
            remedy="write words separated by /, such as u/me/flats",
            value=options.collection,
        )
    calibrations = find_calibrations(root, begin=options.begin, end=options.end)
    if unknown := sorted(set(options.filters) - {product.led for product in calibrations.products}):
        raise ButlerError(f"there is no flat of LED {unknown[0]}", path=root, remedy="check --filter", value=unknown[0])
    kinds, remark = dataset_kinds()
    register_storage_classes()
    with open_repository(options.repo, writeable=True) as butler:
        wanted = _timespan(calibrations, options.repo)
        names = RepositoryNames.read(butler, options.repo, options.instrument)
        with asking(options.repo, "the calibrations cannot be compared"):
            present = _present(butler, kinds, options)
            planned = [
                _plan(product, kind, names, options, calibrations=calibrations, wanted=wanted, present=present)
                for product in calibrations.products
                for kind in kinds
                if kind.product == product.kind
            ]
        replaced = [entry for entry in planned if entry.change.replaced]
        if replaced and not options.replace:
            shown = ", ".join(map(str, replaced[:_MOST_LISTED])) + (" ..." if len(replaced) > _MOST_LISTED else "")
            raise ButlerError(
                f"{len(replaced)} products differ from those in {options.collection} for these dates: {shown}",
                path=options.repo,
                remedy="choose another validity or collection, or give --replace",
                value=[str(entry) for entry in replaced],
            )
        with asking(
            options.repo,
            "the products cannot be put",
            remedy="check permissions, and that no other process puts them at the same time",
        ):
            written = _put(butler, planned, options, wanted)
    lines = [*_describe(planned), f"{options.collection}: {calibrations.validity}"]
    return [*lines, *([f"written to {written}"] if written else []), *remark]


def _timespan(calibrations: Calibrations, repo: str) -> Any:
    """Return the validity as a timespan.

    Raises
    ------
    ButlerError
        If a repository cannot store a bound.
    """
    from lsst.daf.butler import Timespan

    bounds = (calibrations.begin, calibrations.end)
    try:
        timespan = Timespan(*bounds)
        kept = (timespan.begin, timespan.end)
    except ValueError:
        kept = (None, None)
    # A bound that is too early or too late becomes none.
    for bound, known, option in zip(bounds, kept, ("--begin", "--end"), strict=True):
        if bound is not None and known is None:
            raise ButlerError(
                f"a repository cannot store the date {bound.isot} (TAI)",
                path=repo,
                remedy=f"give dates from 1970 to 2100, or leave {option} out for no bound",
                value=bound.isot,
            )
    return timespan


def _present(butler: Any, kinds: Sequence[DatasetKind], options: PutOptions) -> dict[tuple[Any, ...], list[Certified]]:
    """Return the certified datasets of the collection, by dataset type and data id.

    Raises
    ------
    ButlerError
        If the collection is of another type.
    """
    from lsst.daf.butler import CollectionType, MissingCollectionError, MissingDatasetTypeError

    try:
        kind = butler.collections.get_info(options.collection).type
    except MissingCollectionError:
        return {}
    if kind is not CollectionType.CALIBRATION:
        raise ButlerError(
            f"{options.collection} is a collection of type {kind.name}, not CALIBRATION",
            path=options.repo,
            remedy="give another --collection",
            value=options.collection,
        )
    found: dict[tuple[Any, ...], list[Certified]] = defaultdict(list)
    digests: dict[Any, str] = {}
    for dataset_kind in kinds:
        try:
            dataset_type = butler.get_dataset_type(dataset_kind.name)
        except MissingDatasetTypeError:
            continue
        for entry in butler.registry.queryDatasetAssociations(dataset_type, collections=[options.collection]):
            if entry.ref.id not in digests:
                digests[entry.ref.id] = _digest_of(butler, entry.ref)
            key = (dataset_kind.name, *(entry.ref.dataId[name] for name in dataset_kind.dimensions))
            found[key].append(Certified(entry.ref, digests[entry.ref.id], entry.timespan))
    return found


def _digest_of(butler: Any, ref: Any) -> str:
    """Return the digest in the file of a dataset, "" if the file is missing or has none."""
    try:
        uri = butler.getURI(ref)
        if uri.getExtension() == ".ecsv":
            return stored_digest(Table.read(uri.read().decode(), format="ascii.ecsv").meta)
        with uri.open("rb") as stream:
            return stored_digest(fits.Header.fromfile(stream))
    except (LookupError, OSError, ValueError):
        return ""


def _plan(
    product: RunProduct,
    kind: DatasetKind,
    names: RepositoryNames,
    options: PutOptions,
    *,
    calibrations: Calibrations,
    wanted: Any,
    present: Mapping[tuple[Any, ...], list[Certified]],
) -> _Planned:
    """Return how a product is put."""
    detector = calibrations.detector(product)
    every = {
        "instrument": names.instrument,
        "detector": names.detector_number(detector) if detector else None,
        "physical_filter": names.physical_filter(product.led, options.filters) if product.led else "",
    }
    data_id = {name: every[name] for name in kind.dimensions}
    digest = content_digest(product)
    change = change_needed(present.get((kind.name, *data_id.values()), []), digest, wanted)
    cards = calibrations.cards(product, instrument=names.instrument, physical_filter=str(every["physical_filter"]))
    return _Planned(product, kind, data_id, cards, digest, change)


def _put(butler: Any, planned: Sequence[_Planned], options: PutOptions, wanted: Any) -> str:
    """Write new products and certify those not yet valid; return the RUN collection that was written to, "" if none was."""
    from lsst.daf.butler import CollectionType, DatasetRef, DatasetType, FileDataset

    needed = [entry for entry in planned if entry.change.timespans]
    new = [entry for entry in needed if entry.change.known is None]
    run = f"{options.collection}/{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    types: dict[str, Any] = {}
    for kind in {entry.kind for entry in needed}:
        types[kind.name] = DatasetType(kind.name, kind.dimensions, kind.storage, universe=butler.dimensions, isCalibration=True)
        butler.registry.registerDatasetType(types[kind.name])
    if needed:
        butler.collections.register(options.collection, CollectionType.CALIBRATION)
    if new:
        butler.collections.register(run, CollectionType.RUN)
    with tempfile.TemporaryDirectory(prefix="permil-") as folder, butler.transaction():
        certified: dict[Any, list[Any]] = defaultdict(list)
        for number, entry in enumerate(needed):
            ref = entry.change.known
            if ref is None:
                data_id = butler.registry.expandDataId(dict(entry.data_id))
                ref = DatasetRef(types[entry.kind.name], data_id, run=run)
                path = Path(folder) / f"{number}{entry.suffix}"
                entry.write(path)
                # One file at a time is on the disk twice.
                butler.ingest(FileDataset(str(path), ref, formatter=entry.kind.formatter), transfer="move")
            if entry.change.replaced:
                butler.registry.decertify(options.collection, types[entry.kind.name], wanted, dataIds=[ref.dataId])
            for timespan in entry.change.timespans:
                certified[timespan].append(ref)
        for timespan, refs in certified.items():
            butler.registry.certify(options.collection, refs, timespan)
    return run if new else ""


def _describe(planned: Sequence[_Planned]) -> list[str]:
    """Return the numbers of new, replaced and unchanged products, one line for each dataset type."""
    lines = []
    for name in dict.fromkeys(entry.kind.name for entry in planned):
        count = Counter(_outcome(entry.change) for entry in planned if entry.kind.name == name)
        lines.append(f"{name}: {', '.join(f'{number} {outcome}' for outcome, number in sorted(count.items()))}")
    return lines


def _outcome(change: Change) -> str:
    if not change.timespans:
        return "unchanged"
    if change.replaced:
        return "replaced"
    return "new" if change.known is None else "certified for further dates"
