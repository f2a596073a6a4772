"""The kinds of pages of a report besides the index page.

A new kind is a module or package with a `PageKind`, and an entry here: pages are then written, skipped while current, removed when stale,
and shown by the index page. Blocks and sections of the index page are in the order of this list.
"""

from __future__ import annotations

from permil.report.calibration import CALIBRATION_SECTION
from permil.report.colour import COLOUR_PAGES
from permil.report.compare.page import COMPARE_PAGES
from permil.report.defects import DEFECTS_SECTION
from permil.report.detector.page import DETECTOR_PAGES
from permil.report.joint.page import JOINT_PAGES
from permil.report.kit.pages import PageKind
from permil.report.spots.page import SPOTS_PAGES
from permil.report.stability import STABILITY_PAGES

PAGE_KINDS: tuple[PageKind, ...] = (
    JOINT_PAGES,
    DETECTOR_PAGES,
    STABILITY_PAGES,
    COLOUR_PAGES,
    CALIBRATION_SECTION,
    DEFECTS_SECTION,
    SPOTS_PAGES,
    COMPARE_PAGES,
)
