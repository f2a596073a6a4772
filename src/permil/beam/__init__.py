"""The projector beam: nodes of the scan, the beam model, and its errors."""

from permil.beam.model import BeamModel, Outlier
from permil.beam.nodes import BeamNodes, nodes_from_table
from permil.beam.peak import BeamPosition

__all__ = ["BeamModel", "BeamNodes", "BeamPosition", "Outlier", "nodes_from_table"]
