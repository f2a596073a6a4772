"""Composite flat fields at the per-mil level from a scanned-beam projector.

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
``cli`` is the command line.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("permil")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
