"""Check a plan: the positions, the light on the detectors, and the predicted errors of the flat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import QTable, Table
from numpy.typing import ArrayLike

from permil.arrays import plain_array
from permil.beam.fits import model_from_hdus
from permil.camera import Camera, load_camera
from permil.config.load import make_section
from permil.config.plan import PlanConfig, Readout
from permil.engine.threads import one_thread
from permil.errors import ConfigError, InputError, PositionError
from permil.plan.acquisition import led_exposures
from permil.plan.photodiode import DriftEstimate
from permil.plan.positions import PlannedPoint, PlannedPosition, in_order, named_detectors, only_these, planned_points, read_with
from permil.plan.prediction import (
    FEWEST_CELLS,
    BeamShape,
    PlannedSignals,
    PlanPrediction,
    cells_for,
    knots_for,
    mode_table,
    planned_signals,
    plateau,
    predict,
)
from permil.plan.summary import describe, draw_errors
from permil.progress import parallel_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class PlanCheck:
    """Predicted errors of a plan; ``print`` shows a summary.

    Attributes
    ----------
    prediction : PlanPrediction
        Positions, signals and modes.
    plan : PlanConfig
        The assumptions.
    knots_mm : float
        Distance of the knots of the fitted beam, mm.
    wanted : tuple of str
        Detectors that the plan names.
    has_photodiode : bool
        Whether exposures have a photodiode reading.

    Examples
    --------
    >>> import permil
    >>> check = permil.check_plan([(0, 0), (9, 0), (0, 9)], "lsstcam-bin8", cells=4, beam_knots_mm=20.0)
    >>> len(check.detectors), check.super_pixel_error < 0.1
    (1, True)
    """

    prediction: PlanPrediction
    plan: PlanConfig
    knots_mm: float
    wanted: tuple[str, ...]
    has_photodiode: bool

    @property
    def detectors(self) -> QTable:
        """Predicted errors, one row for each detector (see `detector_table`)."""
        return QTable(detector_table(self.prediction, self.plan))

    @property
    def modes(self) -> QTable:
        """Modes of the flat that signals alone do not determine, with their error including the photodiode."""
        return QTable(mode_table(self.prediction))

    @property
    def super_pixel_error(self) -> float:
        """Relative error of a super-pixel (``plan.super_pixel_mm``): photon noise and correlated errors."""
        return self.prediction.super_pixel_error(self.plan.super_pixel_mm)

    def facts(self) -> dict[str, Any]:
        """Return the predicted errors by name, those of each detector, and the undetermined modes."""
        detectors, modes = detector_table(self.prediction, self.plan), mode_table(self.prediction)
        return {
            **detectors.meta,
            "super_pixel_error": self.super_pixel_error,
            "knots_mm": self.knots_mm,
            "wanted_without_light": [name for name in self.wanted if name not in set(detectors["detector"])],
            "detectors": [{name: row[name] for name in detectors.colnames} for row in detectors],
            "modes": [{name: row[name] for name in modes.colnames} for row in modes],
        }

    def __str__(self) -> str:
        """Return the table of predicted errors, the undetermined modes and suggested remedies."""
        return describe(
            self.prediction,
            super_pixel_mm=self.plan.super_pixel_mm,
            knots_mm=self.knots_mm,
            wanted=self.wanted,
            has_photodiode=self.has_photodiode,
            with_drift=self.has_photodiode and self.plan.photodiode_drift > 0,
        )

    def __repr__(self) -> str:
        """Return numbers of positions and detectors, and the error of a super-pixel, in one line."""
        positions, detectors = len(self.prediction.positions), len(self.prediction.signals)
        return f"<PlanCheck: {positions} positions, {detectors} detectors; error of a super-pixel {self.super_pixel_error:.2g}>"

    def _repr_html_(self) -> str:
        """Return the summary as preformatted text."""
        return f"<pre>{escape(str(self))}</pre>"

    def plot(self, ax: Axes | None = None, *, modes: bool = False) -> Axes:
        """Draw the predicted errors on the focal plane, DVCS mm.

        Parameters
        ----------
        ax
            Axes to draw in; by default new ones.
        modes
            Draw the error from undetermined modes instead of that of a pixel from photon and read noise.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from permil.plotting import new_axes

        ax = new_axes() if ax is None else ax
        draw_errors(ax, self.prediction, modes=modes)
        return ax


@one_thread()
def check_plan(
    positions: ArrayLike | Sequence[PlannedPosition] | None,
    camera: Camera | str = "lsstcam",
    plan: PlanConfig | None = None,
    *,
    images: int = 1,
    read: Readout = "detector",
    has_photodiode: bool = True,
    seed: int = 0,
    **options: Any,
) -> PlanCheck:
    """Predict which parts of a flat a list of projector positions determines, and the errors.

    Parameters
    ----------
    positions : array_like, shape (n, 2)
        Projector positions, CCS X and Y, mm, in the order of time; None for those of ``plan``.
    camera
        The camera, or its name.
    plan
        Assumed lamp, beam and photodiode: section ``plan`` of a configuration.
    images
        Images at each position.
    read
        Detectors read out at each position: the ``detector`` aimed at, its ``board``, its ``raft``, or ``all``.
    has_photodiode
        Whether exposures will have a photodiode reading.
    seed
        Seed of a shuffled order.
    **options
        Keys of the section ``plan`` instead of ``plan``, such as ``electrons=5e4``, ``detectors=["R22"]``.

    Returns
    -------
    PlanCheck

    Raises
    ------
    ConfigError
        If an option is unknown or not allowed.
    PositionError
        If a position is not finite, or no detector is illuminated.
    InputError
        If the positions are not an array of shape (n, 2).
    FlatError
        If the positions determine so little that the errors cannot be computed.

    Examples
    --------
    >>> import permil
    >>> camera = permil.load_camera("lsstcam-bin8")
    >>> x, y = camera["R22_S11"].to_ccs(*camera["R22_S11"].centre_pixel)
    >>> near = [(x + dx, y + dy) for dx in (-9, 0, 9) for dy in (-9, 0, 9)]
    >>> check = permil.check_plan(near, camera, cells=8, beam_knots_mm=10.0)
    >>> check.detectors["detector"].tolist()
    ['R22_S11']
    """
    camera = load_camera(camera) if isinstance(camera, str) else camera
    if plan is not None and options:
        raise ConfigError(f"{next(iter(options))} is given together with a complete plan", remedy="give one of the two")
    plan = plan or make_section(PlanConfig, options)
    if positions is None:
        points = planned_points(plan, camera)
    else:
        points = [PlannedPoint(position) for position in _placed(positions, camera, images, read, plan)]
    return check_points(points, camera, plan, has_photodiode=has_photodiode, seed=seed)


def check_points(
    points: Sequence[PlannedPoint],
    camera: Camera,
    plan: PlanConfig,
    *,
    has_photodiode: bool = True,
    seed: int = 0,
    is_search: bool = False,
) -> PlanCheck:
    """Predict the errors of the points of a plan, as listed, in the order of the plan.

    Parameters
    ----------
    is_search
        One of many checks: take the drift of the photodiode as known, and show no progress.
    """
    placed = [point.position for point in in_order(points, plan, seed=seed)]
    signals, knots_mm = _signals(plan, camera, placed, with_progress=not is_search)
    prediction = predict(
        placed,
        signals,
        photodiode_noise=plan.photodiode_noise if has_photodiode else None,
        photodiode_drift=plan.photodiode_drift,
        knots_mm=knots_mm,
        limit=plan.mode_limit,
        drift_length=1.0 if plan.interleaved else float(len(led_exposures(plan))),
        estimate=None if is_search else DriftEstimate(seed=seed),
    )
    wanted = tuple(detector.name for detector in named_detectors(camera, plan.detectors)) if plan.detectors else ()
    return PlanCheck(prediction, plan, knots_mm, wanted, has_photodiode)


def _placed(
    positions: ArrayLike | Sequence[PlannedPosition], camera: Camera, images: int, read: Readout, plan: PlanConfig
) -> list[PlannedPosition]:
    """Return given positions with the detectors that are read out there, restricted to those of the plan."""
    if images < 1:
        raise InputError(f"{images} images at a position are not possible", remedy="give 1 or more", value=images)
    if isinstance(positions, Sequence) and positions and all(isinstance(entry, PlannedPosition) for entry in positions):
        placed = list(positions)
    else:
        places = plain_array(positions, name="positions", unit="mm", ndim=2)
        if places.shape[1] != 2 or not len(places):
            raise InputError(
                f"positions have the shape {places.shape}", remedy="give an array of shape (n, 2): CCS X and Y in mm"
            )
        if not np.isfinite(places).all():
            raise PositionError("a position is masked or not finite", remedy="leave it out")
        placed = [PlannedPosition(x, y, images, read_with(camera, (x, y), read)) for x, y in places.tolist()]
    return only_these(placed, {detector.name for detector in named_detectors(camera, plan.detectors)})


def _signals(
    plan: PlanConfig, camera: Camera, positions: Sequence[PlannedPosition], *, with_progress: bool
) -> tuple[list[PlannedSignals], float]:
    """Return the planned signals of all detectors, and the knot spacing of the beam, mm."""
    read = set().union(*(position.read for position in positions)) if positions else set()
    detectors = [detector for detector in camera.science if detector.name in read]
    beam = _beam_shape(plan)

    def seen(cells: int) -> list[PlannedSignals]:
        function = partial(
            planned_signals, positions=positions, beam=beam, cells=cells, electrons=plan.electrons, lit_above=plan.lit_above
        )
        if with_progress:
            found = parallel_map(function, detectors, workers=1, description="light on the detectors")
        else:
            found = [function(detector) for detector in detectors]
        return [each for each in found if each is not None]

    coarse = seen(FEWEST_CELLS)
    if not coarse:
        raise PositionError(
            "no position of the plan illuminates a detector of the plan that it reads out",
            remedy="check plan.detectors, the positions, their readout and the width of the beam",
        )
    if max(int(np.isfinite(each.footprint.log_signal).sum(axis=0).max()) for each in coarse) < 2:
        raise PositionError(
            "no pixel is illuminated from two positions, so that beam and flat cannot be separated",
            remedy="add pointings that illuminate the same detectors (plan.scan, plan.pointings)",
        )
    knots_mm = plan.beam_knots_mm or knots_for(coarse, positions)
    return seen(plan.cells or cells_for([each.detector for each in coarse], knots_mm)), knots_mm


def _beam_shape(plan: PlanConfig) -> BeamShape:
    if not plan.beam:
        return plateau(plan.beam_fwhm_mm)
    model = model_from_hdus(plan.beam)
    return lambda ux, uy: model.evaluate(ux, uy)[0]


def detector_table(prediction: PlanPrediction, plan: PlanConfig) -> Table:
    """Return the predicted errors, one row for each detector.

    Returns
    -------
    Table
        ``detector``; ``images`` that illuminate it; ``electrons`` per pixel, summed over all images (median); relative errors:
        ``pixel_error`` and ``super_pixel_error`` from photon and read noise (medians), ``level_error`` of its level relative to the mean
        of all, ``mode_error`` from modes not determined by signals (rms). Errors of the whole flat are in the metadata.
    """
    signals, design = prediction.signals, prediction.design
    table = Table(
        {
            "detector": [each.detector.name for each in signals],
            "images": [each.images for each in signals],
            "electrons": [float(np.median(each.electrons)) for each in signals],
            "pixel_error": [float(np.median(each.pixel_error)) for each in signals],
            "super_pixel_error": [each.independent_error(plan.super_pixel_mm) for each in signals],
            "level_error": design.level_error,
            "mode_error": [float(np.sqrt(np.nanmean(np.square(errors)))) for errors in prediction.mode_error_maps()],
        }
    )
    table["electrons"].unit = "electron"
    table.meta = {
        "positions": len(prediction.positions),
        "images": prediction.images,
        "super_pixel_mm": plan.super_pixel_mm,
        "pixel_error": prediction.pixel_error,
        "large_scale_error": design.large_scale_error,
        "gradient_error_x_per_mm": float(design.gradient_error[0]),
        "gradient_error_y_per_mm": float(design.gradient_error[1]),
        "undetermined": {name: int(count) for name, count in design.counts().items()},
    }
    return table
