"""The joint solution: beam, flat and exposure scales together, with an error budget."""

from permil.flat.joint.budget import SplitHalves, check_photodiode, odd_exposures, split_halves, without_drift
from permil.flat.joint.covariance import CorrelatedModes, FlatCovariance
from permil.flat.joint.data import DetectorSignals, ExposureList, logarithm_of
from permil.flat.joint.design import DesignReport, check_design, footprint
from permil.flat.joint.gain_steps import BoardResult, board_results
from permil.flat.joint.gains import BoardReadings, BoardTerms, Coefficient, board_terms
from permil.flat.joint.knots import SpacingChoice, choose_spacing, coarse_spacing
from permil.flat.joint.photodiode import PhotodiodeModel
from permil.flat.joint.residuals import ResidualMap, residual_map
from permil.flat.joint.solution import Certificate, JointSolution, beam_centre
from permil.flat.joint.solve import solve_again, solve_joint

__all__ = [
    "BoardReadings",
    "BoardResult",
    "BoardTerms",
    "Certificate",
    "Coefficient",
    "CorrelatedModes",
    "DesignReport",
    "DetectorSignals",
    "ExposureList",
    "FlatCovariance",
    "JointSolution",
    "PhotodiodeModel",
    "ResidualMap",
    "SpacingChoice",
    "SplitHalves",
    "beam_centre",
    "board_results",
    "board_terms",
    "check_design",
    "check_photodiode",
    "choose_spacing",
    "coarse_spacing",
    "footprint",
    "logarithm_of",
    "odd_exposures",
    "residual_map",
    "solve_again",
    "solve_joint",
    "split_halves",
    "without_drift",
]
