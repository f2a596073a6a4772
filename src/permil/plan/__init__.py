"""Planning: the parts of a flat that a list of pointings determines, and their predicted errors."""

from permil.plan.acquisition import AcquisitionPoint, read_acquisition
from permil.plan.positions import PlannedPosition, quincunx, scan_grid
from permil.plan.prediction import PlannedSignals, PlanPrediction, planned_signals, plateau, predict

__all__ = [
    "AcquisitionPoint",
    "PlanPrediction",
    "PlannedPosition",
    "PlannedSignals",
    "planned_signals",
    "plateau",
    "predict",
    "quincunx",
    "read_acquisition",
    "scan_grid",
]
