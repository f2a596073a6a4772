"""Completeness and purity of defects that were found, against those that were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.camera import Detector
from permil.config.flat import DefectsConfig
from permil.defects import DefectBox, DefectKind
from permil.flat.combine import DEAD_RESPONSE
from permil.simulate.sensor import REFERENCE_ELECTRONS, DrawnDefect

QUARTER = 1.25
"""Factor by which defects exceed their limit that must be found."""

FOUND_AS = {
    "dark": {DefectKind.DARK_PIXEL},
    "vampire": {DefectKind.VAMPIRE},
    "cluster": {DefectKind.DARK_CLUSTER},
    "weak_column": {DefectKind.WEAK_COLUMN},
    "dead_column": {DefectKind.DEAD_COLUMN},
    "unstable": {DefectKind.UNSTABLE},
    "nonlinear": {DefectKind.NONLINEAR},
    "hot": {DefectKind.HOT_BIAS},
}
"""Reasons of what is drawn."""

IMPLIES = {DefectKind.DARK_PIXEL: {"nonlinear", "unstable"}, DefectKind.BRIGHT_PIXEL: {"unstable"}}
"""Further drawn kinds that deviate in the flat: a non-linear pixel loses signal, an unstable one is at one of its levels."""


@dataclass(frozen=True)
class Score:
    """Number of drawn defects beyond their limit by a quarter, of those that were found, of defects found, and of the pure ones."""

    drawn: int = 0
    complete: int = 0
    found: int = 0
    pure: int = 0

    def __add__(self, other: Score) -> Score:
        """Return the sum of all numbers."""
        return Score(*(getattr(self, name) + getattr(other, name) for name in ("drawn", "complete", "found", "pure")))


def limit_of(kind: str, options: DefectsConfig, brightest: float) -> float:
    """Return the strength at which a drawn defect reaches its limit.

    Parameters
    ----------
    brightest
        Electrons of an ordinary pixel in the brightest exposure.
    """
    if kind == "nonlinear":
        # A response 1 - s Q / Q_ref, relative to its mean in about 0.9 of the brightest light.
        charge = brightest / REFERENCE_ELECTRONS
        return options.nonlinearity / (charge * (1 + 0.9 * options.nonlinearity))
    return {
        "dark": options.pixel,
        "vampire": options.pixel,
        "cluster": options.cluster,
        "weak_column": options.column,
        "dead_column": 0.8,
        "unstable": options.scatter,
    }[kind]


def scores(
    found: Sequence[DefectBox],
    drawn: Sequence[DrawnDefect],
    detector: Detector,
    *,
    brightest: float,
    hot: NDArray | None = None,
    bad_columns: Sequence[tuple[slice, slice, float]] = (),
) -> dict[str, Score]:
    """Return the score of each drawn kind, of the hot pixels, and of the reasons that nothing drawn explains.

    Parameters
    ----------
    hot : ndarray, shape (n, 3)
        Rows, columns and electrons in the superbias of hot pixels. What touches one is not counted, since the flat has no value there.
    bad_columns
        Rows, columns and remaining response of further columns.
    """
    options = DefectsConfig()
    hot = np.empty((0, 3)) if hot is None else hot
    is_hot = np.zeros(detector.shape, dtype=bool)
    is_hot[hot[:, 0].astype(int), hot[:, 1].astype(int)] = True
    reasons = {reason: np.zeros(detector.shape, dtype=bool) for reason in DefectKind}
    for box in found:
        reasons[DefectKind(box.reason)][box.slices] = True
    kinds = {kind: np.zeros(detector.shape, dtype=bool) for kind in FOUND_AS} | {"hot": is_hot}
    for defect in drawn:
        kinds[defect.kind][defect.slices] = True
    for rows, columns, left in bad_columns:
        kinds["dead_column" if left < DEAD_RESPONSE else "weak_column"][rows, columns] = True
    result = {}
    for kind, expected in FOUND_AS.items():
        seen = np.logical_or.reduce([reasons[reason] for reason in expected])
        if kind == "hot":
            wanted = hot[hot[:, 2] >= QUARTER * options.hot_electrons]
            hits = [bool(seen[int(row), int(column)]) for row, column, _ in wanted]
        else:
            factor = 1.0 if kind == "dead_column" else QUARTER
            limit = factor * limit_of(kind, options, brightest)
            own = [each for each in drawn if each.kind == kind and each.strength >= limit]
            own = [each for each in own if kind.endswith("column") or not is_hot[each.slices].any()]
            hits = [bool(np.mean(seen[each.slices][~is_hot[each.slices]]) > 0.9) for each in own]
        allowed = kinds[kind].copy()
        for reason in expected:
            for other in IMPLIES.get(reason, ()):
                allowed |= kinds[other]
        defects = _by_defect([box for box in found if box.reason in expected])
        pure = [any(allowed[box.slices].any() for box in boxes) for boxes in defects]
        result[kind] = Score(len(hits), sum(hits), len(pure), sum(pure))
    anything = np.logical_or.reduce(list(kinds.values()))
    others = _by_defect([box for box in found if not any(box.reason in each for each in FOUND_AS.values())])
    result["other"] = Score(0, 0, len(others), sum(any(anything[box.slices].any() for box in boxes) for boxes in others))
    return result


def _by_defect(boxes: Sequence[DefectBox]) -> list[list[DefectBox]]:
    grouped: dict[int, list[DefectBox]] = {}
    for box in boxes:
        grouped.setdefault(box.defect, []).append(box)
    return list(grouped.values())
