"""Composite flat fields at the per-mil level from a scanned-beam projector.

How data flow through the packages (docs/development/architecture.md has them all)::

    raw FITS files
      |  exposures   headers -> one row per detector file: what was taken, where, for what purpose
      v
    exposures.parquet
      |  isr         raw counts -> electrons per detector; superbias; stack of the exposures at one position
      v
    |- scan exposures -> beam   photometry of reference bunches over the photodiode -> nodes -> BeamModel(u), with errors
    |- pointings      -> flat   stack / beam(u) per pointing -> per detector -> composite, with masks and variance
    |- star exposures -> spots  detect, measure, name by grid index, calibrate -> throughput where each star lay
      v
    beam/<LED>.fits, flat/<LED>/<CCD>.fits, spots/
      |  compare     stars beside what the flat predicts for them -> correlation, significance, QE / pixel area / diffusion
      v
    compare/
      |  report      pictures, tables, verdicts
      v
    report/index.html, summary.ecsv

``plan`` says before the data what a list of pointings determines. ``camera`` knows where a pixel is, ``products`` how things are
written, ``engine`` runs declared tasks as far as they are not up to date, ``simulate`` makes raw files with known truth, ``pipeline`` has
the stages in order, ``cli`` is the thin command line.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("permil")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
