"""The joint solution: beam, flat and exposure scales together, with an error budget."""

from permil.flat.joint.budget import check_photodiode
from permil.flat.joint.covariance import CorrelatedModes, FlatCovariance
from permil.flat.joint.data import DetectorSignals, ExposureList, logarithm_of
from permil.flat.joint.design import DesignReport, check_design, footprint
from permil.flat.joint.knots import SpacingChoice, choose_spacing, coarse_spacing
from permil.flat.joint.photodiode import PhotodiodeModel
from permil.flat.joint.solution import Certificate, JointSolution, beam_centre
from permil.flat.joint.solve import solve_joint

__all__ = [
    "Certificate",
    "CorrelatedModes",
    "DesignReport",
    "DetectorSignals",
    "ExposureList",
    "FlatCovariance",
    "JointSolution",
    "PhotodiodeModel",
    "SpacingChoice",
    "beam_centre",
    "check_design",
    "check_photodiode",
    "choose_spacing",
    "coarse_spacing",
    "footprint",
    "logarithm_of",
    "solve_joint",
]
