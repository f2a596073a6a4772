"""Defects of sensors, found in flats, superbias and exposures: dark, bright and hot pixels, columns, clusters, unstable, non-linear."""

from permil.defects.find import DefectKind, LedResponse, find_defects
from permil.defects.table import DefectBox, defect_table

__all__ = ["DefectBox", "DefectKind", "LedResponse", "defect_table", "find_defects"]
