"""Tables of the page of a joint solution."""

from __future__ import annotations

import math

import numpy as np

from permil.report.joint_inputs import JointProducts
from permil.report.joint_maps import mode_sizes
from permil.report.joint_numbers import counted, shown_term, two_digits
from permil.report.pages import Cell, Grid, count_cell, grid, text_cell
from permil.report.quantities import MISSING, format_measurement, with_minus

_LABELS = {
    "photon": ("signals' own noise", "VARIANCE of a flat (there for each pixel)"),
    "common": ("in common", "MODES and REMAINDER of a flat"),
    "modes": ("in common, largest modes", "MODES of a flat"),
    "remainder": ("in common, the rest", "REMAINDER of a flat"),
    "detector_scale": ("scale of a detector", "COVARIANCE and PLACES of a flat"),
    "gradient_x": ("gradient along X", "joint.fits, GRADX, GRADXERR"),
    "gradient_y": ("gradient along Y", "joint.fits, GRADY, GRADYERR"),
    "drift_x": ("of which drift, X", "joint.fits, DRIFT"),
    "drift_y": ("of which drift, Y", "joint.fits, DRIFT"),
    "exposure_scale": ("scale of an exposure", "joint.fits, EXPOSURES, scale_err"),
    "fit": ("fit", "joint.fits, REDCHI2"),
    "photodiode": ("photodiode, noise", "joint.fits, PDNOISE, PDNOISER"),
    "photodiode_drift": ("photodiode, drift", "joint.fits, PDDRIFT, DRIFT"),
    "position": ("stage move", "joint.fits, POSERROR"),
    "split_half": ("odd against even exposures", ""),
    "split_half_noise": ("the same, noise alone", ""),
    "split_time": ("later against earlier exposures", ""),
    "cross_validation": ("exposures left out", ""),
}
_NUMBERS = ("fit", "cross_validation")
"""Terms that are ratios, not errors."""


def budget_table(products: JointProducts) -> Grid:
    """Return the error budget: term, error, unit, meaning, where it stands in the products."""
    rows = []
    for name, term in products.budget.items():
        shown, unit = (f"{term.error:.4g}", "") if name in _NUMBERS else shown_term(term)
        if name == "photodiode":
            shown = format_measurement(1e3 * term.error, 1e3 * products.card("PDNOISER"))
        label, where = _LABELS.get(name, (name.replace("_", " "), ""))
        rows.append(
            (text_cell(label), Cell(shown, term.error), text_cell(unit), text_cell(term.meaning), text_cell(where or "BUDGET"))
        )
    content = grid(("term", "error", "unit", "meaning", "where"), rows)
    return Grid(content.headings, content.rows, (False, True, False, False, False))


def detector_table(products: JointProducts, links: dict[str, str]) -> Grid:
    """Return one row for each detector: level with its error, errors of its super-pixels, how it fits."""
    headings = [
        "detector", "level (‰)", "error of a super-pixel, own (‰)", "in common (‰)",
        "χ² of a signal", "later - earlier, rms (‰)", "of that noise (‰)",
    ]  # fmt: skip
    rows = []
    for name, share in products.detectors.items():
        found = products.residuals.detectors.get(name) if products.residuals is not None else None
        cells = [text_cell(name, link=links.get(name, ""))]
        if found is None:
            level_error = Cell(f"± {two_digits(1e3 * share.level_error)}", "")
            cells += [level_error, Cell(MISSING), _per_mil(share.common_rms), *[Cell(MISSING)] * 3]
            rows.append(cells)
            continue
        level = float(np.nanmean(np.expm1(found.log_response)))
        chi_square, count = float(np.nanmean(found.chi_square)), int(np.isfinite(found.chi_square).sum())
        scatter = float(np.nanstd(found.chi_square)) / math.sqrt(max(count, 1))
        changed = np.isfinite(found.change)
        change, noise = (
            float(np.sqrt(np.mean(part[changed] ** 2))) if changed.any() else math.nan
            for part in (found.change, found.change_error)
        )
        cells += [
            Cell(format_measurement(1e3 * level, 1e3 * share.level_error), level),
            _per_mil(float(np.nanmedian(found.error))), _per_mil(share.common_rms),
            Cell(format_measurement(chi_square, scatter), chi_square),
            Cell(format_measurement(1e3 * change, 1e3 * change / math.sqrt(2 * max(changed.sum(), 1))), _key(change)), _per_mil(noise),
        ]  # fmt: skip
        rows.append(cells)
    return grid(headings, rows)


def finding_table(products: JointProducts) -> Grid | None:
    """Return the exposures that were left out, or whose photodiode reading was, with the reason; None if all fit."""
    flagged = np.flatnonzero(products.left_out | products.unused_reading | np.array([bool(text) for text in _findings(products)]))
    if not flagged.size:
        return None
    deviation, error = products.deviations
    rows = []
    for number in flagged:
        row = products.exposures[number]
        rows.append(
            (
                text_cell(row["obsid"]),
                text_cell(str(row["purpose"]) or MISSING),
                Cell("left out" if products.left_out[number] else "reading not used", verdict="no"),
                text_cell(_findings(products)[number] or "no reason is recorded"),
                Cell(with_minus(f"{row['x_mm']:.2f}"), float(row["x_mm"])),
                Cell(with_minus(f"{row['y_mm']:.2f}"), float(row["y_mm"])),
                Cell(format_measurement(1e3 * deviation[number], 1e3 * error[number]), _key(deviation[number])),
                Cell(f"{row['chi_square']:.3f}" if np.isfinite(row["chi_square"]) else MISSING, _key(float(row["chi_square"]))),
            )
        )
    headings = (
        "exposure",
        "purpose",
        "what was done",
        "reason",
        "X (mm, CCS)",
        "Y (mm, CCS)",
        "photodiode / scale - 1 (‰)",
        "χ²",
    )
    return grid(headings, rows, text_columns=4)


def stage_table(products: JointProducts) -> Grid:
    """Return beam centre, rotation, scale and errors of moves, with their errors."""
    rows = [
        _measured(products, "beam centre, u_x", "mm", "BEAMX", "BEAMXERR"),
        _measured(products, "beam centre, u_y", "mm", "BEAMY", "BEAMYERR"),
    ]
    if "ROTATION" in products.header:
        rows.append(_measured(products, "rotation of the stage's axes", "mrad", "ROTATION", "ROTATERR", 1e3))
        rows.append(_measured(products, "scale of the stage's axes - 1", "‰", "STAGESCL", "STAGESER", 1e3))
    kept = ~products.left_out & np.isfinite(products.column("shift_x_mm"))
    for axis in "xy":
        shift, error = (1e3 * products.column(f"shift_{axis}{suffix}_mm")[kept] for suffix in ("", "_err"))
        if shift.size > 1:
            spread = float(np.std(shift))
            rows.append((text_cell(f"scatter of positions, {axis.upper()}"), text_cell("µm"),
                         Cell(format_measurement(spread, spread / math.sqrt(2 * shift.size)), spread)))  # fmt: skip
            rows.append((text_cell(f"of that their own errors, {axis.upper()} (rms)"), text_cell("µm"),
                         Cell(two_digits(float(np.sqrt(np.mean(error**2)))), float(np.sqrt(np.mean(error**2))))))  # fmt: skip
    jitter = products.error_of("position")
    if math.isfinite(jitter):
        rows.append((text_cell("error of a stage move, estimated"), text_cell("µm"), Cell(two_digits(1e3 * jitter), jitter)))
    return grid(("result", "unit", "value"), rows, text_columns=2)


def drift_table(products: JointProducts) -> Grid | None:
    """Return the hypotheses of drift with their probabilities, the likeliest first; None without any."""
    if not products.has_photodiode or not len(products.drift):
        return None
    rows = [("none", math.nan, 1.0 - float(np.sum(products.drift["probability"])))]
    rows += [
        (two_digits(1e3 * float(row["amplitude"])), float(row["length"]), float(row["probability"])) for row in products.drift
    ]
    cells = [
        (
            Cell(amplitude),
            Cell(f"{length:.2g}" if math.isfinite(length) else MISSING, _key(length)),
            Cell(f"{chance:.2g}", chance),
        )
        for amplitude, length, chance in sorted(rows, key=lambda row: -row[2])
    ]
    return grid(("amplitude (‰)", "length (part of the campaign)", "probability"), cells, text_columns=0)


def frame_table(products: JointProducts) -> Grid | None:
    """Return the residuals of each frame: rms, noise, what is beyond it, its cause; None without residuals."""
    found = products.residuals
    if found is None:
        return None
    change, change_noise = found.change_rms
    count = sum(int(np.isfinite(one.change).sum()) for one in found.detectors.values())
    rows = [
        _frame("beam (moves with the projector)", found.beam.rms, found.beam.noise, int(np.isfinite(found.beam.mean).sum()),
               "structure of the beam finer than its knots"),
        _frame("reflection (moves against it)", found.reflected.rms, found.reflected.noise,
               int(np.isfinite(found.reflected.mean).sum()), "light reflected between camera and projector"),
        _frame("detectors (stands still in the camera), later - earlier", change, change_noise, count,
               "a response that changed; the part that does not change is the flat"),
    ]  # fmt: skip
    content = grid(("frame", "rms (‰)", "noise (‰)", "beyond noise (‰)", "what would cause it"), rows)
    return Grid(content.headings, content.rows, (False, True, True, True, False))


def mode_table(products: JointProducts) -> Grid:
    """Return the sizes of all modes that are kept, and their share of the variance in common."""
    sizes = mode_sizes(products)
    total = products.error_of("common") ** 2
    rows = []
    for number, size in enumerate(sizes, start=1):
        share = size**2 / total if total > 0 else math.nan
        rows.append(
            (
                count_cell(number),
                _per_mil(float(size)),
                Cell(f"{100 * share:.2g}" if math.isfinite(share) else MISSING, _key(share)),
            )
        )
    return grid(("mode", "rms (‰)", "share of the variance in common (%)"), rows, text_columns=0)


def facts(products: JointProducts) -> tuple[tuple[str, str], ...]:
    """Return what the solution was made of."""
    purposes = np.asarray(products.exposures["purpose"], dtype=np.str_)
    kinds = [f"{int((purposes == kind).sum())} {name}" for kind, name in (("scan", "of the scan"), ("pointing", "of pointings"))]
    known = (purposes != "").any()
    return (
        ("detectors", str(len(products.detectors))),
        ("exposures", str(len(products.exposures)) + (f" ({', '.join(kinds)})" if known else "")),
        ("left out", counted(int(products.left_out.sum()), "exposure")),
        (
            "readings not used",
            str(int((products.unused_reading & ~products.left_out).sum())) if products.has_photodiode else MISSING,
        ),
        ("unknowns besides the flat", str(int(products.card("NUNKNOWN")))),
        ("knots of the beam", f"{products.card('KNOTS'):.2f} mm apart"),
        ("signals used from", f"{products.card('LEASTSIG'):.0f} electrons on"),
        ("reflected pattern", "not fitted" if products.reflection is None else "fitted"),
    )


def _findings(products: JointProducts) -> list[str]:
    return [str(text) for text in products.exposures["finding"]]


def _measured(products: JointProducts, label: str, unit: str, card: str, error: str, factor: float = 1.0) -> tuple[Cell, ...]:
    number = factor * products.card(card)
    return text_cell(label), text_cell(unit), Cell(format_measurement(number, factor * products.card(error)), _key(number))


def _frame(name: str, rms: float, noise: float, count: int, cause: str) -> tuple[Cell, ...]:
    error = rms / math.sqrt(2 * count) if count else math.nan
    beyond = math.sqrt(max(rms**2 - noise**2, 0.0)) if math.isfinite(rms) else math.nan
    shown = format_measurement(1e3 * beyond, 1e3 * error * rms / beyond) if beyond > 3 * error else "within noise"
    return (
        text_cell(name), Cell(format_measurement(1e3 * rms, 1e3 * error), _key(rms)), _per_mil(noise),
        Cell(shown if math.isfinite(rms) else MISSING, _key(beyond)), text_cell(cause),
    )  # fmt: skip


def _per_mil(relative: float) -> Cell:
    return Cell(two_digits(1e3 * relative), _key(relative))


def _key(number: float) -> float | str:
    return float(number) if math.isfinite(number) else ""
