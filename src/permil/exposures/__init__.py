"""Exposures: headers and names of raw files, the index of all exposures, raw segments and their assembly."""

from permil.exposures.classify import BIAS, OTHER, POINTING, SCAN, SPOT, classify, position_table
from permil.exposures.consistency import Duplicate
from permil.exposures.exposure import LEDS, Exposure, exposures_to_table, in_time_order, read_exposure
from permil.exposures.file_names import (
    CcobFolder,
    FileName,
    bias_folder,
    file_name,
    observation_id,
    parse_ccob_folder,
    parse_file_name,
    run_and_job,
    run_folder,
)
from permil.exposures.hdu import Checksums, warn_of_file
from permil.exposures.index import Index, Unreadable, build_index, find_files, summarise_files
from permil.exposures.positions import RunOffset, measure_offsets, require_one_kind, resolve_positions
from permil.exposures.raw_file import RawDetector, RawFile, RawHeaders, RowPlaces, assemble, read_raw

__all__ = [
    "BIAS",
    "LEDS",
    "OTHER",
    "POINTING",
    "SCAN",
    "SPOT",
    "CcobFolder",
    "Checksums",
    "Duplicate",
    "Exposure",
    "FileName",
    "Index",
    "RawDetector",
    "RawFile",
    "RawHeaders",
    "RowPlaces",
    "RunOffset",
    "Unreadable",
    "assemble",
    "bias_folder",
    "build_index",
    "classify",
    "exposures_to_table",
    "file_name",
    "find_files",
    "in_time_order",
    "measure_offsets",
    "observation_id",
    "parse_ccob_folder",
    "parse_file_name",
    "position_table",
    "read_exposure",
    "read_raw",
    "require_one_kind",
    "resolve_positions",
    "run_and_job",
    "run_folder",
    "summarise_files",
    "warn_of_file",
]
