"""Products of a run as calibrations of other programs: a list of them, their cards, and files with these cards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astropy.io import fits
from astropy.time import Time
from erfa import ErfaWarning

from permil.camera import Camera, Detector, load_camera
from permil.config.load import RECORD, read_record
from permil.errors import InputError
from permil.products import SERIAL_CARD, RunFolder, provenance, read_table, whole_file, write_hdus, write_table
from permil.products.fits import check_sums
from permil.products.sensor_identity import card_of

DIGEST_CARD = "CONTDIG"
"""Card with the digest of the content of a product."""
UNBOUNDED = "1970-01-01T00:00:00"
"""Begin of a validity without one, as in the curated calibrations of the LSST stack."""

_LONGEST_KEYWORD = 8
_PLANES = ("IMAGE", "MASK", "VARIANCE")
_VOLATILE = {
    "DATE", "CHECKSUM", "PERMILVE", "FINGERPR", "CONFDIG", "VALIDBEG", "VALIDEND", "COMMENT", "HISTORY", "", "fingerprint", "CALIBDATE",
    "CALIB_ID", "CALIB_CREATION_DATE", "CALIB_CREATION_TIME", DIGEST_CARD,
}  # fmt: skip
"""Cards that may differ between products with the same content."""


@dataclass(frozen=True)
class RunProduct:
    """A product of a run that other programs can use.

    Attributes
    ----------
    kind
        ``flat``, ``efficiency_flat``, ``mosaic``, ``defects``, ``gain_ratios`` or ``summary``.
    path
        Its file.
    led, detector
        LED and detector; "" for a product of all.
    """

    kind: str
    path: Path
    led: str = ""
    detector: str = ""

    def __str__(self) -> str:
        """Return kind, LED and detector."""
        return " ".join(filter(None, (self.kind, self.led, self.detector)))

    @property
    def is_image(self) -> bool:
        """Whether it is an image with mask and variance, else a table."""
        return self.kind in ("flat", "efficiency_flat", "mosaic")


@dataclass(frozen=True)
class Calibrations:
    """The products of a run that other programs can use, and when they are valid.

    Attributes
    ----------
    camera
        Camera of the run.
    products
        The products.
    begin, end
        Validity, TAI; None for no bound.
    """

    camera: Camera
    products: tuple[RunProduct, ...]
    begin: Time | None
    end: Time | None

    @property
    def validity(self) -> str:
        """Validity as a phrase."""
        begin, end = (bound.isot if bound is not None else "no bound" for bound in (self.begin, self.end))
        return f"valid from {begin} until {end} (TAI)"

    def cards(self, product: RunProduct, *, instrument: str, physical_filter: str) -> dict[str, tuple[Any, str]]:
        """Return the cards of a product as a calibration, with the names that ip_isr of the LSST stack uses.

        Parameters
        ----------
        instrument
            Name of the instrument.
        physical_filter
            Name of the filter; "" for a product of all.

        Returns
        -------
        dict
            Value and comment by card; None for an unknown value.
        """
        date = UNBOUNDED if self.begin is None else _seconds(self.begin)
        detector = self.detector(product)
        name, number = (detector.name, detector.id) if detector else (None, None)
        raft, slot = (detector.raft, detector.slot) if detector else (None, None)
        identifier = {
            "instrument": instrument,
            "raftName": raft,
            "detectorName": name,
            "detector": number,
            "filter": physical_filter or None,
            "calibDate": date,
        }
        return {
            "OBSTYPE": (product.kind, "kind of calibration"),
            "INSTRUME": (instrument, "instrument"),
            "RAFTNAME": (raft, "bay of the raft"),
            "SLOTNAME": (slot, "slot of the sensor"),
            "DETECTOR": (number, "number of the detector"),
            "DET_NAME": (name, "name of the detector"),
            "FILTER": (physical_filter or None, "physical filter"),
            "CALIBDATE": (date, "begin of the validity (TAI)"),
            "CALIB_ID": (" ".join(f"{key}={entry}" for key, entry in identifier.items() if entry is not None), ""),
            "VALIDBEG": (None if self.begin is None else _seconds(self.begin, "utc"), "valid from this date (UTC)"),
            "VALIDEND": (None if self.end is None else _seconds(self.end, "utc"), "valid until this date (UTC)"),
        }

    def detector(self, product: RunProduct) -> Detector | None:
        """Return the detector of a product, None for a product of all."""
        return self.camera[product.detector] if product.detector else None


def find_calibrations(root: Path, *, begin: str = "", end: str = "") -> Calibrations:
    """Find the products of a run that other programs can use.

    Parameters
    ----------
    root
        Folder of the run.
    begin, end
        Validity, TAI; see `validity_of`.

    Raises
    ------
    InputError
        If it is not the folder of a run, has no flat, or a date is wrong.
    """
    camera = load_camera(run_camera(root))
    products = run_products(root, camera)
    return Calibrations(camera, tuple(products), *validity_of(products, begin, end))


def run_camera(root: Path) -> str:
    """Return the camera of a run.

    Raises
    ------
    InputError
        If it is not the folder of a run.
    """
    if not (root / RECORD).is_file():
        raise InputError(
            f"this is not the folder of a run: {RECORD} is missing",
            path=root,
            remedy="give the folder that `output` names in the configuration",
        )
    return read_record(root / RECORD).camera


def run_products(root: Path, camera: Camera) -> list[RunProduct]:
    """Return the products of a run that other programs can use.

    These are flats, efficiency flats and mosaics of each LED, defects, gain ratios, and the summary.

    Raises
    ------
    InputError
        If there is no flat.
    """
    folder = RunFolder(root)
    flats, efficiency_flats, mosaics = [], [], []
    for path in sorted((root / "flat").glob("*/*.fits")):
        led, detector = path.parent.name, camera.find(path.stem)
        if detector is not None:
            flats.append(RunProduct("flat", path, led, detector.name))
            if (efficiency := folder.efficiency_flat(led, path.stem)).is_file():
                efficiency_flats.append(RunProduct("efficiency_flat", efficiency, led, detector.name))
        elif path == folder.focal_plane(led):
            mosaics.append(RunProduct("mosaic", path, led))
    if not flats:
        raise InputError("there is no flat in this run", path=root, remedy="make the flats first: permil flat CONFIG")
    defects = [
        RunProduct("defects", path, detector=found.name)
        for path in sorted((root / "defects").glob("*.ecsv"))
        if (found := camera.find(path.stem)) is not None
    ]
    tables = (("gain_ratios", folder.measured_gains), ("summary", folder.summary))
    return [*flats, *efficiency_flats, *mosaics, *defects, *(RunProduct(kind, path) for kind, path in tables if path.is_file())]


def content_digest(product: RunProduct) -> str:
    """Return a digest of the content of a product: data and cards, but not times of writing, versions and validity.

    The data of images enter by their checksums (DATASUM), which `write_curated` verifies.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    if product.is_image:
        try:
            with whole_file(product.path), fits.open(product.path, memmap=True) as hdus:
                content: Any = [
                    [[card.keyword, card.value] for card in hdu.header.cards if card.keyword not in _VOLATILE] for hdu in hdus
                ]
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot be read as FITS ({error})", path=product.path, remedy="make the file again: permil flat CONFIG"
            ) from error
    else:
        table = read_table(product.path)
        meta = {name: entry for name, entry in table.meta.items() if name not in _VOLATILE}
        content = [meta, {name: [str(table[name].unit), table[name].tolist()] for name in table.colnames}]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _seconds(time: Time, scale: str = "tai") -> str:
    """Return a time in a scale, without a fraction of a second that is 0."""
    with _any_year():
        return str(getattr(time, scale).isot).removesuffix(".000")


@contextlib.contextmanager
def _any_year() -> Iterator[None]:
    """Ignore warnings of unknown leap seconds in distant years."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ErfaWarning)
        yield


def write_curated(
    product: RunProduct, out: Path, cards: Mapping[str, tuple[Any, str]], *, digest: str = "", planes_only: bool = False
) -> None:
    """Write a copy of a product with the cards of a calibration; its numbers are those of the product, bit by bit.

    The extensions IMAGE, MASK and VARIANCE of an image get EXTTYPE, by which the LSST stack recognises them.

    Parameters
    ----------
    digest
        Of the content, see `content_digest`.
    planes_only
        Whether an image is written without its other extensions, as the LSST stack writes it.

    Raises
    ------
    InputError
        If the product cannot be read, or its data do not match its checksums.
    OutputError
        If the file cannot be written.
    """
    entries = {**cards, DIGEST_CARD: (digest or None, "digest of data and cards")}
    if not product.is_image:
        table = read_table(product.path)
        table.meta |= {name: entry for name, (entry, _) in entries.items() if entry is not None}
        write_table(out, table)
        return
    with whole_file(product.path), fits.open(product.path, memmap=False) as hdus:
        check_sums(hdus, product.path)
        for hdu in hdus[1:]:
            # Once its data are read an HDU does not need the file.
            _ = hdu.data
            if hdu.name in _PLANES:
                hdu.header["EXTTYPE"] = (hdu.name, "plane of an image of the LSST stack")
        copies = [hdu.copy() for hdu in hdus if not planes_only or hdu is hdus[0] or hdu.name in _PLANES]
    header = copies[0].header
    for name in ("VALIDBEG", "VALIDEND", "FILTER", "DETECTOR"):
        header.remove(name, ignore_missing=True)
    serial = (card_of(header, SERIAL_CARD), "serial number of the sensor")
    header.update(fits.Header(_header({**entries, "DET_SER": serial})))
    write_hdus(out, copies)


def _header(entries: Mapping[str, tuple[Any, str]]) -> list[fits.Card]:
    """Return cards of the values that are known; longer names need the HIERARCH convention."""
    return [
        fits.Card(name if len(name) <= _LONGEST_KEYWORD else f"HIERARCH {name}", entry, comment)
        for name, (entry, comment) in entries.items()
        if entry is not None
    ]


def write_stack_defects(product: RunProduct, out: Path, cards: Mapping[str, tuple[Any, str]], *, digest: str = "") -> None:
    """Write a table of defects as FITS, with the columns that the class ``Defects`` of ip_isr reads.

    Raises
    ------
    InputError
        If the table cannot be read.
    OutputError
        If the file cannot be written.
    """
    names = ("x0", "y0", "width", "height")
    table = read_table(product.path, columns=names, purpose="table of defects")
    columns = [fits.Column(name, "J", array=table[name]) for name in names]
    header = provenance(fits.Header(_header({**cards, DIGEST_CARD: (digest or None, "digest of data and cards")})))
    write_hdus(out, [fits.PrimaryHDU(header=header), fits.BinTableHDU.from_columns(columns, header=header, name="DEFECTS")])


def stored_digest(header: Mapping[str, Any]) -> str:
    """Return the digest that `write_curated` wrote into a header, or into the metadata of a table; "" if there is none."""
    return str(header.get(DIGEST_CARD) or "")


def parse_validity(text: str, option: str, *, scale: str = "tai") -> Time | None:
    """Return a bound of a validity, None for an empty text.

    Parameters
    ----------
    text
        Date, or date and time (``2021-12-03T18:00:00``).
    option
        Where it was given, for messages.
    scale
        Time scale of the text: ``tai`` or ``utc``.

    Raises
    ------
    InputError
        If the text is not a date.
    """
    if not text:
        return None
    try:
        with _any_year():
            return Time(text, scale=scale, format="isot" if "T" in text else "iso").tai
    except ValueError as error:
        raise InputError(
            f"{option} {text!r} is not a date", remedy="write 2021-12-03, or 2021-12-03T18:00:00 (TAI)", value=text
        ) from error


def validity_of(products: Sequence[RunProduct], begin: str, end: str) -> tuple[Time | None, Time | None]:
    """Return the validity of the products of a run: the dates given, else those in their headers.

    Parameters
    ----------
    begin, end
        Dates, TAI; empty: those of the configuration of the run (cards VALIDBEG and VALIDEND of the flats, UTC).

    Returns
    -------
    begin, end : Time or None
        TAI; None for no bound.

    Raises
    ------
    InputError
        If a date is invalid, or the end is not after the begin.
    """
    header = fits.getheader(next(product.path for product in products if product.kind == "flat"))
    bounds = []
    for given, option, card in ((begin, "--begin", "VALIDBEG"), (end, "--end", "VALIDEND")):
        written = str(card_of(header, card) or "")
        bounds.append(parse_validity(given, option) if given else parse_validity(written, f"card {card}", scale="utc"))
    first, last = bounds
    if first is not None and last is not None and last <= first:
        raise InputError(
            f"the end of the validity ({last.isot}) is not after its beginning ({first.isot})", remedy="check --begin and --end"
        )
    return first, last
