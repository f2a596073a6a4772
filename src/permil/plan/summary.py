"""Summary of a plan: a text with predicted errors, undetermined modes and remedies, and a map of the errors."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from permil.arrays import FloatArray
from permil.camera import Detector, frames
from permil.plan.prediction import PlanPrediction, errors_of_modes
from permil.products import atomic_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_error_map(path: Path, prediction: PlanPrediction) -> None:
    """Draw the pixel errors (photon noise) and the errors of undetermined modes on the focal plane, DVCS mm (PNG)."""
    from permil.plotting import own_settings  # before matplotlib

    # isort: split
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with own_settings():
        figure = Figure(figsize=(12, 5.5), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        photon_axes, mode_axes = figure.subplots(1, 2, sharex=True, sharey=True)
        draw_errors(photon_axes, prediction)
        draw_errors(mode_axes, prediction, modes=True)
        photon_axes.set_ylabel("y (DVCS, mm)")
        with atomic_output(path) as temporary:
            canvas.print_figure(temporary, format="png", dpi=110)


def draw_errors(axes: Axes, prediction: PlanPrediction, *, modes: bool = False) -> None:
    """Draw the errors of pixels from photon and read noise on the focal plane, DVCS mm, or those of undetermined modes."""
    from matplotlib.collections import PolyCollection

    errors = prediction.mode_error_maps() if modes else [each.pixel_error for each in prediction.signals]

    outlines = np.concatenate([_cell_outlines(each.detector, int(np.sqrt(len(each.pixel_error)))) for each in prediction.signals])
    cells = PolyCollection(list(outlines), cmap="viridis", linewidths=0)
    cells.set_array(np.ma.masked_invalid(1e3 * np.concatenate(errors)))
    axes.add_collection(cells)
    axes.autoscale_view()
    axes.set_aspect("equal")
    axes.set_title("modes not determined by signals" if modes else "one pixel: photon and read noise")
    axes.set_xlabel("x (DVCS, mm)")
    axes.figure.colorbar(cells, ax=axes, label="predicted error (‰)")


def _cell_outlines(detector: Detector, cells: int) -> FloatArray:
    """Return the corners (DVCS mm) of the cells of a detector, shape (cells^2, 4, 2)."""
    along_x, along_y = (np.arange(cells) / cells * side - 0.5 for side in (detector.nx, detector.ny))
    left, low = (part.ravel() for part in np.meshgrid(along_x, along_y))
    right, high = left + detector.nx / cells, low + detector.ny / cells
    x = np.stack([left, right, right, left], axis=1)
    y = np.stack([low, low, high, high], axis=1)
    return np.stack(frames.detector_to_dvcs(detector, x, y), axis=-1)


_WIDTH = 100
_MOST_NAMED = 6
_MOST_WAVES = 4


def describe(
    prediction: PlanPrediction,
    *,
    super_pixel_mm: float,
    knots_mm: float,
    wanted: Sequence[str] = (),
    has_photodiode: bool,
    with_drift: bool,
) -> str:
    """Return the table of predicted errors, the undetermined modes and suggested remedies as text.

    Parameters
    ----------
    super_pixel_mm
        Side of the super-pixels.
    knots_mm
        Knot spacing of the beam.
    wanted
        Detectors requested by the plan.
    has_photodiode
        Whether exposures have a photodiode reading.
    with_drift
        Whether the photodiode is expected to drift.
    """
    detectors = len(prediction.signals)
    head = (
        f"{_count(len(prediction.positions), 'projector position')}, {_count(prediction.images, 'image')}, "
        f"{_count(detectors, 'detector')}."
    )
    parts = [head, *_dark(prediction, wanted), "", _table(prediction, super_pixel_mm)]
    parts += _undetermined(prediction, has_photodiode=has_photodiode)
    if any(mode.name in ("lattice", "other") for mode in prediction.design.modes):
        parts.append(f"The beam is modelled with knots every {knots_mm:g} mm (plan.beam_knots_mm).")
    if with_drift:
        parts.append(
            "The photodiode drifts: if position changes with time, a drift looks like a gradient. Positions in random order "
            "(plan.order: shuffled), or repeated visits to one position, reduce this effect."
        )
    lines = (line for part in parts for line in part.split("\n"))
    return "\n".join(textwrap.fill(line, _WIDTH, subsequent_indent="    " if line.startswith("  -") else "") for line in lines)


def _dark(prediction: PlanPrediction, wanted: Sequence[str]) -> list[str]:
    """Return sentences about detectors, or parts of them, without light."""
    sentences = []
    lit = {signals.detector.name for signals in prediction.signals}
    missing = tuple(name for name in wanted if name not in lit)
    if missing:
        sentences.append(f"No position illuminates and reads out {_names(missing)}: add pointings there (plan.pointings.aim).")
    parts = {each.detector.name: 1.0 - float(np.isfinite(each.pixel_error).mean()) for each in prediction.signals}
    dark = [f"{name} ({part:.0%})" for name, part in parts.items() if part > 0]
    if dark:
        more = f" and {len(dark) - _MOST_NAMED} more" if len(dark) > _MOST_NAMED else ""
        sentences.append(f"Part of these detectors is never illuminated: {', '.join(dark[:_MOST_NAMED])}{more}.")
    return sentences


def _table(prediction: PlanPrediction, super_pixel_mm: float) -> str:
    design = prediction.design
    worst = int(np.argmax(design.level_error))
    independent = float(np.median([signals.independent_error(super_pixel_mm) for signals in prediction.signals]))
    places = np.concatenate([np.column_stack([each.footprint.x_mm, each.footprint.y_mm]) for each in prediction.signals])
    extent = np.ptp(places, axis=0)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("predicted error of the flat")
    table.add_column("relative", justify="right")
    table.add_row("one pixel: photon and read noise, median", _number(prediction.pixel_error))
    table.add_row(f"super-pixel of {super_pixel_mm:g} mm: photon and read noise", _number(independent))
    table.add_row("large scale: correlated error of super-pixels, rms", _number(design.large_scale_error))
    table.add_row(f"super-pixel of {super_pixel_mm:g} mm: total", _number(prediction.super_pixel_error(super_pixel_mm)))
    if len(prediction.signals) > 1:
        table.add_row("level of a detector relative to the mean of all, median", _number(float(np.median(design.level_error))))
        name = prediction.signals[worst].detector.name
        table.add_row(f"the same, largest ({name})", _number(float(design.level_error[worst])))
    for axis, error, size in zip("XY", design.gradient_error, extent, strict=True):
        table.add_row(f"gradient along {axis}, per mm (over {size:.0f} mm)", f"{_number(error)} ({_number(error * size)})")
    stream = io.StringIO()
    Console(file=stream, width=_WIDTH, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines()) + "\n"


def _undetermined(prediction: PlanPrediction, *, has_photodiode: bool) -> list[str]:
    """Return sentences about modes that signals alone do not determine."""
    modes = prediction.design.modes
    errors = errors_of_modes(prediction)
    names = [mode.name for mode in modes]
    held = "the photodiode limits it" if has_photodiode else "without a photodiode only a prior limits it"
    entries = _gradient(prediction, errors, held)
    if entries:
        entries[0] += (
            " A better photodiode, or more positions far apart, would help." if has_photodiode else " Use the photodiode."
        )
    entries += _sets(prediction, errors, held)
    entries += _lattice(prediction, errors)
    rest = names.count("other")
    if rest:
        entries.append(f"{_count(rest, 'further pattern')} without a simple name, up to {_number(_largest(prediction))} rms.")
    if not entries:
        return ["Signals alone determine everything except the common factor."]
    return ["This plan cannot determine from signals alone:", *(f"  - {entry}" for entry in entries)]


def _gradient(prediction: PlanPrediction, errors: FloatArray, held: str) -> list[str]:
    slopes = [
        (mode.name[-1].upper(), error)
        for mode, error in zip(prediction.design.modes, errors, strict=True)
        if mode.name.startswith("gradient") and not mode.detectors
    ]
    if not slopes:
        return []
    size = float(np.linalg.norm([error for _, error in slopes]))
    axes = " and ".join(axis for axis, _ in slopes)
    return [
        f"the gradient of the flat along {axes}: beam and exposure scales can compensate for it; {held} to {_number(size)} rms.",
    ]


def _sets(prediction: PlanPrediction, errors: FloatArray, held: str) -> list[str]:
    modes = prediction.design.modes
    sets = [(mode.detectors, error) for mode, error in zip(modes, errors, strict=True) if mode.name == "set of detectors"]
    if not sets:
        return []
    shown = "; ".join(f"{_names(detectors)} to {_number(error)} rms" for detectors, error in sets[:_MOST_NAMED])
    more = f"; {len(sets) - _MOST_NAMED} more in modes.ecsv" if len(sets) > _MOST_NAMED else ""
    entry = (
        f"the level of {_count(len(sets), 'set')} of detectors relative to the others, as no exposure illuminates and reads out both: "
        f"{shown}{more}; {held}. Also read out the neighbours (plan.pointings.read: all)."
    )
    slopes = sum(mode.name.startswith("gradient") and bool(mode.detectors) for mode in modes)
    return [entry, f"{_count(slopes, 'gradient')} of such sets, for the same reason."] if slopes else [entry]


def _lattice(prediction: PlanPrediction, errors: FloatArray) -> list[str]:
    waves = [(mode, error) for mode, error in zip(prediction.design.modes, errors, strict=True) if mode.name == "lattice"]
    if not waves:
        return []
    periods = np.array([mode.period_mm for mode, _ in waves])
    vectors = list(dict.fromkeys(mode.wave_vector for mode, _ in sorted(waves, key=lambda wave: -wave[0].period_mm)))
    shown = ", ".join(f"({x:.3f}, {y:.3f})" for x, y in vectors[:_MOST_WAVES])
    size = max(error for _, error in waves)
    more = ", ..." if len(vectors) > _MOST_WAVES else ""
    entry = (
        f"{_count(len(waves), 'wave')} of the flat with periods of {periods.min():.1f} to {periods.max():.1f} mm (wave vectors "
        f"{shown}{more} rad/mm), up to {_number(size)} rms each: all pointings that share pixels lie on one lattice, so that a wave of "
        "the beam compensates for them. A scan of the same detectors (plan.scan), or pointings at irregular positions "
        "(plan.pointings.points, each a few mm off), would determine them."
    )
    return [entry]


def _largest(prediction: PlanPrediction) -> float:
    return float(prediction.design.mode_errors.max())


def _names(detectors: tuple[str, ...]) -> str:
    rafts = {name.partition("_")[0] for name in detectors}
    if len(detectors) > _MOST_NAMED:
        return f"{len(detectors)} detectors of {', '.join(sorted(rafts))}"
    return ", ".join(detectors)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _number(size: float) -> str:
    return f"{size:.2g}" if size >= 0.1 else f"{size:.1e}"
