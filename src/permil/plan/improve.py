"""Improve a plan within a time budget: order, interleaved LEDs, fiducials and number of images that lower the error of the gradient.

The search is greedy. In each step every change not yet made is tried, with as many images at each pointing as the budget allows,
and the one with the smallest predicted error is kept. The errors of the steps are those of `permil.check_plan` under the stated drift; the
search takes the drift's covariance as known, which is faster.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table

from permil.camera import Camera
from permil.config.plan import PlanConfig
from permil.errors import ConfigError
from permil.plan.acquisition import led_exposures
from permil.plan.campaign import duration, plan_seconds
from permil.plan.check import PlanCheck, check_plan, check_points
from permil.plan.positions import planned_points, with_parts

_COARSE_KNOTS_MM = 12.0
_LEAST_GAIN = 0.02
_FIDUCIALS = (40, 20, 10, 5)
_PASSES = (2, 3, 5)
_MOST_IMAGES = 100
_ROUNDING = 1e-9


@dataclass(frozen=True)
class PlanStep:
    """A plan on the way to an improved one.

    Attributes
    ----------
    change : str
        Difference from the step before.
    plan : PlanConfig
        The plan with this and all earlier changes.
    seconds : float
        Time that it takes, s.
    check : PlanCheck
        Its predicted errors.
    """

    change: str
    plan: PlanConfig
    seconds: float
    check: PlanCheck

    @property
    def gradient_error(self) -> float:
        """Predicted error of the gradient, 1/mm, rms of both axes."""
        return gradient_of(self.check)


def gradient_of(check: PlanCheck) -> float:
    """Return the predicted error of the gradient of the flat, 1/mm, rms of both axes."""
    return float(np.sqrt(np.mean(np.square(check.prediction.design.gradient_error))))


def improve_plan(
    plan: PlanConfig, camera: Camera, *, budget_s: float | None = None, has_photodiode: bool = True, seed: int = 0
) -> list[PlanStep]:
    """Return the steps from a plan to one with a smaller predicted error of the gradient in the same time.

    Parameters
    ----------
    plan
        The plan; the improved plan is made for its drift (``photodiode_drift``).
    camera
        The camera.
    budget_s
        Time, s; by default that of the plan.
    has_photodiode
        Whether exposures will have a photodiode reading.
    seed
        Seed of a random order.

    Returns
    -------
    list of PlanStep
        The plan itself first; each later step adds one change. Only one step if nothing helps.

    Raises
    ------
    ConfigError
        If the plan does not fit into the budget with one image at each pointing.
    PermilError
        If a named detector, file or LED does not exist, or no detector is illuminated.
    """
    plan = with_parts(plan)
    first = check_plan(None, camera, plan, has_photodiode=has_photodiode, seed=seed)
    coarse_mm = max(first.knots_mm, plan.beam_knots_mm or _COARSE_KNOTS_MM)

    def predicted(candidate: PlanConfig, knots_mm: float, *, is_search: bool = True) -> PlanCheck:
        known = candidate.model_copy(update={"beam_knots_mm": knots_mm})
        points = planned_points(known, camera)
        return check_points(points, camera, known, has_photodiode=has_photodiode, seed=seed, is_search=is_search)

    def seconds(candidate: PlanConfig) -> float:
        return plan_seconds(candidate, camera, seed=seed)

    steps = [PlanStep("as planned", plan, seconds(plan), first)]
    budget = steps[0].seconds if budget_s is None else budget_s

    def next_step(change: str, changed: PlanConfig) -> PlanStep:
        if (images := _images(changed)) != _images(steps[-1].plan):
            number = f"{images} image{'' if images == 1 else 's'} at each position of the {_flexible(changed)}"
            change = ", ".join(filter(None, [change, number]))
        return PlanStep(change, changed, seconds(changed), predicted(changed, first.knots_mm, is_search=False))

    best, error = _filled(plan, budget, seconds), np.inf
    if best is not None:
        error = gradient_of(predicted(best, coarse_mm))
        if best != plan:
            steps.append(next_step("", best))
    while True:
        candidates = [
            (change, filled)
            for change, changed in _changes(best or plan, len(led_exposures(plan)))
            if (filled := _filled(changed, budget, seconds)) is not None
        ]
        found = [(gradient_of(predicted(candidate, coarse_mm)), change, candidate) for change, candidate in candidates]
        least, change, changed = min(found, key=lambda each: each[0], default=(np.inf, "", plan))
        if not candidates or least > (1.0 - _LEAST_GAIN) * error:
            break
        step = next_step(change, changed)
        # The search takes the drift as known.
        if best is not None and step.gradient_error > (1.0 - _LEAST_GAIN) * steps[-1].gradient_error:
            break
        steps.append(step)
        error, best = least, changed
    if best is None:
        raise ConfigError(
            f"the plan does not fit into {duration(budget)} even with one image at each position of the {_flexible(plan)}",
            remedy="raise plan.budget_hours, or plan fewer positions",
            value=budget,
        )
    return steps


def step_table(steps: Sequence[PlanStep]) -> Table:
    """Return one row for each step.

    Returns
    -------
    Table
        ``change``; ``seconds``; relative errors as predicted: ``gradient_error`` (1/mm, rms of both axes), ``large_scale_error`` and
        ``super_pixel_error``; ``gain``, the gradient's error of the step before over that of this one.
    """
    errors = np.array([step.gradient_error for step in steps])
    table = Table(
        {
            "change": [step.change for step in steps],
            "seconds": [step.seconds for step in steps],
            "gradient_error": errors,
            "gain": np.concatenate([[1.0], errors[:-1] / errors[1:]]),
            "large_scale_error": [step.check.prediction.design.large_scale_error for step in steps],
            "super_pixel_error": [step.check.super_pixel_error for step in steps],
        }
    )
    table["seconds"].unit = "s"
    table["gradient_error"].unit = "1 / mm"
    return table


def describe_steps(steps: Sequence[PlanStep]) -> str:
    """Return the steps as a table, and the gain of all together."""
    rows = step_table(steps)
    width = max(len(str(change)) for change in rows["change"])
    lines = [f"{'change':{width}}  {'time':>9}  gradient error, 1/mm  gain  large-scale error"]
    lines += [
        f"{row['change']:{width}}  {duration(row['seconds']):>9}  {row['gradient_error']:20.2e}  {row['gain']:4.2f}  "
        f"{row['large_scale_error']:17.2e}"
        for row in rows
    ]
    drift, before, after = steps[0].check.plan.photodiode_drift, steps[0].gradient_error, steps[-1].gradient_error
    if drift == 0:
        lines.append("No drift is stated. Set plan.photodiode_drift to the drift that the plan should withstand.")
    if len(steps) == 1:
        what = f"no change lowers the error of the gradient by more than {_LEAST_GAIN:.0%}"
    else:
        verb = "falls" if after < before else "rises"
        what = f"the error of the gradient {verb} from {before:.3g} to {after:.3g} per mm, the gain is {before / after:.3g}"
    lines.append(f"Predicted with a drift of {drift:g}: {what}.")
    return "\n".join(lines)


def _changes(plan: PlanConfig, leds: int) -> Iterator[tuple[str, PlanConfig]]:
    """Yield each change that a plan does not have yet, with the changed plan."""
    if not plan.interleaved and leds > 1:
        yield "all LEDs at each position", plan.model_copy(update={"interleaved": True})
    if plan.order == "listed":
        yield "positions in random order", plan.model_copy(update={"order": "shuffled"})
    for every in _FIDUCIALS:
        if plan.fiducial_every == 0 or every < plan.fiducial_every:
            yield f"fiducial after every {every} visits", plan.model_copy(update={"fiducial_every": every})
    for passes in _PASSES:
        if plan.passes < passes <= _images(plan):
            yield f"images in {passes} passes", plan.model_copy(update={"passes": passes})
    if plan.scan is not None and plan.pointings is not None:
        images = 2 * plan.scan.images
        scan = plan.scan.model_copy(update={"images": images})
        yield f"{images} images at each position of the scan", plan.model_copy(update={"scan": scan})


def _flexible(plan: PlanConfig) -> str:
    """Return the part of a plan whose number of images follows from the budget; empty if there is none."""
    return "pointings" if plan.pointings is not None else "scan" if plan.scan is not None else ""


def _images(plan: PlanConfig) -> int:
    """Return the images at each position of the part whose number follows from the budget."""
    part = plan.pointings or plan.scan
    return part.images if part is not None else 1


def _with_images(plan: PlanConfig, images: int) -> PlanConfig:
    name = _flexible(plan)
    return plan.model_copy(update={name: getattr(plan, name).model_copy(update={"images": images})}) if name else plan


def _filled(plan: PlanConfig, budget: float, seconds: Callable[[PlanConfig], float]) -> PlanConfig | None:
    """Return a plan with as many images at each pointing as the budget allows; None if one is too many."""
    limit = budget * (1.0 + _ROUNDING)
    if not _flexible(plan):
        return plan if seconds(plan) <= limit else None
    images = bisect_right(range(1, _MOST_IMAGES + 1), limit, key=lambda images: seconds(_with_images(plan, images)))
    return _with_images(plan, images) if images else None
