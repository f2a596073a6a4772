"""The projector beam: nodes of the scan, the beam model, and its errors."""

from permil.beam.mixture import BeamPosition
from permil.beam.model import BeamModel, Outlier
from permil.beam.nodes import BeamNodes, nodes_from_table

__all__ = ["BeamModel", "BeamNodes", "BeamPosition", "Outlier", "nodes_from_table"]
