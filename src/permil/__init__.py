"""Composite flat fields at the per-mil level from a scanned-beam projector.

The names in ``permil.__all__`` are the public interface: the functions and classes that the command line runs. They are loaded when
first used, so that ``import permil`` is quick::

    import permil

    run = permil.open_run("out")
    flat = run.flat("red", "R22_S11")
    corrected = flat.apply(image)

Data flow through the packages (docs/development/architecture.md describes all of them)::

    raw FITS files
      |  exposures   headers -> one row per detector file: position and purpose
      v
    exposures.parquet
      |  isr         raw counts -> electrons per detector; superbias; stack of the exposures at one position
      v
    |- scan exposures -> beam   photometry of reference bunches over the photodiode -> nodes -> BeamModel(u), with errors
    |- pointings      -> flat   stack / beam(u) per pointing -> per detector -> composite, with masks and variance
    |- star exposures -> spots  detect, measure, name by grid index, calibrate -> throughput at the position of each star
      v
    beam/<LED>.fits, flat/<LED>/<CCD>.fits, spots/
      |  compare     stars against the prediction of the flat -> correlation, significance, QE / pixel area / diffusion
      v
    compare/
      |  report      figures, tables, verdicts
      v
    report/index.html, summary.ecsv

``plan`` predicts the errors of a list of pointings. ``camera`` holds the geometry, ``products`` reads and writes files, ``engine``
runs declared tasks that are not up to date, ``simulate`` makes raw files with known truth, ``pipeline`` runs the stages in order,
``results`` gives access to the products of a run, ``cli`` is the command line.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from permil.beam.model import BeamModel
    from permil.beam.stage import load_beam
    from permil.camera.load import load_camera
    from permil.camera.model import Camera, Detector
    from permil.compare.correlation.correlate import correlate
    from permil.compare.correlation.result import CorrelationResult
    from permil.compare.flats import FlatComparison, compare_flats
    from permil.config.load import load_config
    from permil.config.model import Config
    from permil.errors import PermilError
    from permil.exposures.raw_file import assemble
    from permil.flat.difference import FlatDifference
    from permil.flat.flat import Flat, divide
    from permil.flat.joint.data import DetectorSignals, ExposureList
    from permil.flat.joint.solve import solve_joint
    from permil.isr.files import reduce, stack
    from permil.plan.check import PlanCheck, check_plan
    from permil.products.masks import MaskPlane
    from permil.results import RunResults, open_run, run
    from permil.simulate.simulated import SimulatedCampaign, simulate_campaign
    from permil.spots.catalog import SpotCatalog
    from permil.spots.grid import find_grid
    from permil.spots.measure import measure_spots
    from permil.spots.stage import calibrate_spots

    __version__: str

__all__ = [
    "BeamModel",
    "Camera",
    "Config",
    "CorrelationResult",
    "Detector",
    "DetectorSignals",
    "ExposureList",
    "Flat",
    "FlatComparison",
    "FlatDifference",
    "MaskPlane",
    "PermilError",
    "PlanCheck",
    "RunResults",
    "SimulatedCampaign",
    "SpotCatalog",
    "__version__",
    "assemble",
    "calibrate_spots",
    "check_plan",
    "compare_flats",
    "correlate",
    "divide",
    "find_grid",
    "load_beam",
    "load_camera",
    "load_config",
    "measure_spots",
    "open_run",
    "reduce",
    "run",
    "simulate_campaign",
    "solve_joint",
    "stack",
]

_MODULE_OF = {
    "BeamModel": "beam.model",
    "Camera": "camera.model",
    "Config": "config.model",
    "CorrelationResult": "compare.correlation.result",
    "Detector": "camera.model",
    "DetectorSignals": "flat.joint.data",
    "ExposureList": "flat.joint.data",
    "Flat": "flat.flat",
    "FlatComparison": "compare.flats",
    "FlatDifference": "flat.difference",
    "MaskPlane": "products.masks",
    "PermilError": "errors",
    "PlanCheck": "plan.check",
    "RunResults": "results",
    "SimulatedCampaign": "simulate.simulated",
    "SpotCatalog": "spots.catalog",
    "assemble": "exposures.raw_file",
    "calibrate_spots": "spots.stage",
    "check_plan": "plan.check",
    "compare_flats": "compare.flats",
    "correlate": "compare.correlation.correlate",
    "divide": "flat.flat",
    "find_grid": "spots.grid",
    "load_beam": "beam.stage",
    "load_camera": "camera.load",
    "load_config": "config.load",
    "measure_spots": "spots.measure",
    "open_run": "results",
    "reduce": "isr.files",
    "run": "results",
    "simulate_campaign": "simulate.simulated",
    "solve_joint": "flat.joint.solve",
    "stack": "isr.files",
}
"""Module of each public name."""


def __getattr__(name: str) -> Any:
    """Load a public name at its first use (PEP 562)."""
    if name == "__version__":
        found: Any = _version()
    elif name in _MODULE_OF:
        found = getattr(import_module(f"permil.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module 'permil' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("permil")
    except PackageNotFoundError:  # a source tree that is not installed
        return "0+unknown"
