"""The response of the sensors: flats of pointings, of detectors, and of all detectors on one scale.

Data flow of a flat, for the solver `divide` and the solver `joint`::

    exposures -> lit_by_beam, divide_by_beam         a stack over the beam of the scan (divide)
    exposures -> measure_detector                    signals on super-pixels (signals)
      signals of an LED -> solve_joint               beam, flat and scales together, with their errors (joint)
    pointings with their light -> combine_detector   the flat of one detector, by inverse variance (combine)
    flats of all detectors -> composite_median       the common scale, the mosaic (composite)

`permil.flat.steps` runs this on the files of a run, `permil.flat.stage` declares the tasks. Functions for users are in `flat` (the
class), `apply`, `difference` and `ratio_parts`; errors shared by pixels are in `shared_errors`.
"""
