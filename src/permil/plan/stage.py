"""Check the plan of a configuration: tables, a map of the errors and a summary text."""

from __future__ import annotations

import importlib.util

from permil.camera import Camera
from permil.config.plan import PlanConfig
from permil.plan.check import check_plan, detector_table
from permil.plan.prediction import mode_table
from permil.products import Description, RunFolder, write_table
from permil.progress import console


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
    console.print(
        f"  checked {len(prediction.positions)} positions on {cells} cells of {len(prediction.signals)} detectors, beam with knots every "
        f"{check.knots_mm:g} mm",
        highlight=False,
        soft_wrap=True,
    )
    where = folder.root / "plan"
    files = [where / "check.ecsv", where / "modes.ecsv"]
    write_table(files[0], detector_table(prediction, plan))
    write_table(files[1], mode_table(prediction))
    if importlib.util.find_spec("matplotlib") is not None:
        from permil.plan.summary import write_error_map

        write_error_map(where / "check.png", prediction)
    return Description(f"{check}\nDetails: {files[0]}, {files[1]}", check.facts() | {"files": files})
