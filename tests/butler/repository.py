"""Butler repositories of simulated raw files, made with the public interface of lsst-daf-butler alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astropy.io import fits
from astropy.time import Time, TimeDelta
from lsst.daf.butler import Butler, DatasetRef, DatasetType, FileDataset, FormatterV2, Timespan

from permil.camera import Camera

INSTRUMENT, RAWS = "LSSTCam", "LSSTCam/raw/all"


class RawFormatter(FormatterV2):
    """Raw files are only found in the datastore, never read through it."""

    default_extension = ".fits"
    supported_extensions = frozenset({".fits", ".gz"})


def make_repository(root: Path, camera: Camera, *, detectors: Sequence[str] = (), dimensions: Any = None) -> Butler:
    """Make a repository with an instrument, its detectors (by default all) and the physical filter red."""
    Butler.makeRepo(root, dimensionConfig=dimensions)
    butler = Butler.from_config(root, writeable=True)
    limits = {"detector_max": 300, "visit_max": 1, "exposure_max": 1}
    insert(butler, "instrument", {"name": INSTRUMENT, "class_name": "lsst.obs.lsst.LsstCam", **limits})
    sensors = [sensor for sensor in camera.detectors.values() if not detectors or sensor.name in detectors]
    insert(
        butler,
        "detector",
        *({"id": each.id, "full_name": each.name, "name_in_raft": each.slot, "raft": each.raft} for each in sensors),
    )
    insert(butler, "physical_filter", {"name": "red", "band": "unknown"})
    return butler


def insert(butler: Butler, dimension: str, *records: Mapping[str, Any]) -> None:
    """Insert records of a dimension, with the fields that the universe of the repository knows."""
    known = {column.name for column in butler.dimensions[dimension].schema.all}
    given = [{"instrument": INSTRUMENT, **record} for record in records]
    butler.registry.insertDimensionData(
        dimension, *({name: value for name, value in record.items() if name in known} for record in given)
    )


def ingest_raws(butler: Butler, paths: Sequence[Path], camera: Camera, *, transfer: str = "direct") -> None:
    """Register the exposures of raw files as ingestion of raws does, and ingest the files."""
    dataset_type = DatasetType("raw", {"instrument", "detector", "exposure"}, "ExposureF", universe=butler.dimensions)
    butler.registry.registerDatasetType(dataset_type)
    butler.collections.register(RAWS)
    headers = [fits.getheader(path) for path in paths]
    exposures = {record["id"]: record for record in map(exposure_record, headers)}
    if "day_obs" in butler.dimensions.dimensions.names:
        insert(butler, "day_obs", *({"id": day} for day in sorted({record["day_obs"] for record in exposures.values()})))
        insert(butler, "group", *({"name": record["group"]} for record in exposures.values()))
    insert(butler, "exposure", *exposures.values())
    datasets = []
    for path, header in zip(paths, headers, strict=True):
        number = camera[f"{header['RAFTBAY']}_{header['CCDSLOT']}"].id
        data_id = butler.registry.expandDataId(instrument=INSTRUMENT, detector=number, exposure=exposure_record(header)["id"])
        datasets.append(FileDataset(str(path), DatasetRef(dataset_type, data_id, run=RAWS), formatter=RawFormatter))
    butler.ingest(*datasets, transfer=transfer)


def exposure_record(header: fits.Header) -> dict[str, Any]:
    """Return the fields of an exposure, in the names of all universes of dimensions."""
    day, number, name = int(header["DAYOBS"]), int(header["SEQNUM"]), str(header["OBSID"])
    exposure = day * 100000 + number
    end = Time(header["MJD-OBS"], format="mjd", scale="utc").tai
    return {
        "id": exposure,
        "obs_id": name,
        "name": name,
        "physical_filter": "red",
        "day_obs": day,
        "group": name,
        "group_name": name,
        "group_id": exposure,
        "seq_num": number,
        "seq_start": number,
        "seq_end": number,
        "exposure_time": float(header["EXPTIME"]),
        "dark_time": float(header["EXPTIME"]),
        "observation_type": str(header["IMGTYPE"]).lower(),
        "observation_reason": "ccob",
        "science_program": str(header["RUNNUM"]),
        "target_name": "none",
        "has_simulated": True,
        "timespan": Timespan(end - TimeDelta(max(header["EXPTIME"], 0.001), format="sec"), end),
    }
