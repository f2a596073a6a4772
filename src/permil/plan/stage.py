"""Commands of a plan: its predicted errors, its acquisition files, and its improvement."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from permil.camera import Camera
from permil.config import Config
from permil.config.plan import PlanConfig
from permil.plan.acquisition import LedExposure, acquisition_text, unknown_signals
from permil.plan.campaign import PlannedFile, duration, planned_files, with_notes
from permil.plan.check import PlanCheck, check_plan, detector_table
from permil.plan.improve import describe_steps, improve_plan, step_table
from permil.plan.positions import is_reordered
from permil.plan.prediction import mode_table
from permil.products import Description, RunFolder, atomic_output, check_output, make_folder, write_table
from permil.progress import console, say


def write_plan_check(
    plan: PlanConfig, camera: Camera, folder: RunFolder, *, has_photodiode: bool = True, seed: int = 0
) -> Description:
    """Predict the errors of a plan, write them below ``plan/`` in the run's folder, and return a summary text.

    Parameters
    ----------
    plan
        Section ``plan``.
    camera
        Camera with the positions of the detectors.
    folder
        Folder of the run; ``plan/check.ecsv``, ``plan/modes.ecsv`` and, if matplotlib is installed, ``plan/check.png`` are written.
    has_photodiode
        Whether exposures will have a photodiode reading.
    seed
        Seed of a shuffled order.

    Returns
    -------
    Description
        Summary text; ``facts`` are its values.

    Raises
    ------
    PermilError
        If a named detector, file or LED does not exist, or no detector is illuminated.
    """
    with console.status("checking which modes the signals determine"):
        check = check_plan(None, camera, plan, has_photodiode=has_photodiode, seed=seed)
    prediction = check.prediction
    cells = sum(len(each.pixel_error) for each in prediction.signals)
    say(
        f"  checked {len(prediction.positions)} positions on {cells} cells of {len(prediction.signals)} detectors, beam with knots every "
        f"{check.knots_mm:g} mm"
    )
    where = folder.root / "plan"
    files = [where / "check.ecsv", where / "modes.ecsv"]
    write_table(files[0], detector_table(prediction, plan))
    write_table(files[1], mode_table(prediction))
    if importlib.util.find_spec("matplotlib") is not None:
        from permil.plan.summary import write_error_map

        write_error_map(where / "check.png", prediction)
    return Description(f"{check}\nDetails: {files[0]}, {files[1]}", check.facts() | {"files": files})


def write_acquisition_files(
    plan: PlanConfig,
    camera: Camera,
    folder: Path,
    *,
    has_photodiode: bool = True,
    seed: int = 0,
    inputs: Iterable[str | Path] = (),
) -> Description:
    """Write the acquisition files of a plan, with time, data volume and predicted errors in comments.

    Parameters
    ----------
    folder
        Folder for the files, which is made.
    inputs
        Files that are never overwritten.

    Returns
    -------
    Description
        Summary text; ``facts`` are its values.

    Raises
    ------
    PermilError
        If a named detector, file or LED does not exist, no detector is illuminated, or a file cannot be written.
    """
    files = planned_files(plan, camera, seed=seed)
    with console.status("predicting the errors of the plan"):
        check = check_plan(None, camera, plan, has_photodiode=has_photodiode, seed=seed)
    seconds, size = sum(file.seconds for file in files), sum(file.size for file in files)
    notes = [
        (
            f"whole plan, {len(files)} file{'s' if len(files) > 1 else ''}: {duration(seconds)}, {size / 1e9:.3g} GB "
            f"(readout {plan.files.readout_s:g} s, move {plan.files.move_s:g} s)"
        ),
        *_error_notes(check, plan),
    ]
    texts = {make_folder(folder) / file.name: acquisition_text(with_notes(file, notes), plan.files.dialect) for file in files}
    for path, text in texts.items():
        with atomic_output(check_output(path, inputs=[*inputs, *plan.acquisition])) as temporary:
            temporary.write_text(text, encoding="utf-8")
    lines = [f"{path}: {file.exposures} exposures, {duration(file.seconds)}" for path, file in zip(texts, files, strict=True)]
    facts = {
        "files": list(texts),
        "seconds": seconds,
        "bytes": size,
        "exposures": sum(file.exposures for file in files),
        "leds": [{"led": led.led, "current_a": led.current_a, "exposure_s": led.exposure_s} for led in _leds(files)],
        "errors": check.facts(),
    }
    return Description("\n".join([*lines, *notes]), facts)


def write_improvement(config: Config, camera: Camera) -> Description:
    """Improve the plan of a configuration within its budget; write the steps and the improved configuration.

    ``plan/improve.ecsv`` and ``plan/improved.yaml`` are written in the run's folder; `permil plan check` and `permil plan write` take the
    latter.

    Returns
    -------
    Description
        Table of the changes and their gains; ``facts`` are its values.

    Raises
    ------
    PermilError
        If the plan does not fit into the budget, a named detector, file or LED does not exist, or no detector is illuminated.
    """
    plan = config.plan
    budget_s = None if plan.budget_hours is None else 3600.0 * plan.budget_hours
    with console.status("predicting the errors of changed plans"):
        steps = improve_plan(plan, camera, budget_s=budget_s, has_photodiode=config.isr.photodiode == "header", seed=config.seed)
    best = steps[-1].plan
    if is_reordered(best):
        # One sequence reads out different parts of the camera.
        best = best.model_copy(update={"files": best.files.model_copy(update={"dialect": "columns"})})
    where = RunFolder(config.output).root / "plan"
    table, improved = where / "improve.ecsv", where / "improved.yaml"
    write_table(table, step_table(steps))
    content = config.model_copy(update={"plan": best}).model_dump(mode="json", exclude_defaults=True)
    with atomic_output(check_output(improved, inputs=plan.acquisition)) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    rows = [
        {name: row[name] for name in ("change", "seconds", "gradient_error", "gain", "large_scale_error")}
        for row in step_table(steps)
    ]
    facts = {"steps": rows, "files": [table, improved]}
    text = (
        f"{describe_steps(steps)}\nSteps: {table}\nImproved configuration: {improved}; its acquisition files: "
        f"permil plan write {improved}"
    )
    return Description(text, facts)


def _leds(files: Sequence[PlannedFile]) -> list[LedExposure]:
    return list(dict.fromkeys(led for file in files for led in file.content.leds))


def _error_notes(check: PlanCheck, plan: PlanConfig) -> list[str]:
    design = check.prediction.design
    notes = [
        (
            f"predicted errors of the flat of an LED, relative, {plan.electrons:g} electrons at the beam's maximum, photodiode noise "
            f"{plan.photodiode_noise:g}, drift {plan.photodiode_drift:g}:"
        ),
        (
            f"  pixel {check.prediction.pixel_error:.2g}, large scale {design.large_scale_error:.2g}, "
            f"super-pixel of {plan.super_pixel_mm:g} mm {check.super_pixel_error:.2g}, "
            f"gradient along X {design.gradient_error[0]:.2g} and Y {design.gradient_error[1]:.2g} per mm"
        ),
    ]
    unknown = unknown_signals(plan)
    if unknown:
        notes.append(
            f"exposure times of plan.files.leds or default ones, not scaled to {plan.electrons:g} electrons, "
            f"since their electrons are unknown (plan.files.leds, key electrons): {', '.join(unknown)}"
        )
    return notes
