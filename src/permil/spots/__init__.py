"""Artificial stars: detection, measurement, grid labels, calibration, and maps of the residuals on the detector.

Data flow::

    raw exposures -> measure_exposure -> SpotCatalog        catalogs of the LSST stack, grid files -> read_catalog -> SpotCatalog
      SpotCatalog -> find_grid -> labels                    from the points alone
      labelled catalogs -> common_window, gather -> Measurements
      Measurements -> calibrate -> SpotCalibration          spots, exposures, residuals
      residuals -> bin_residuals, amplifier_table, radial_profile (dithered) or repeatability (fixed position)

`permil.spots.inputs` finds and measures exposures, `permil.spots.stage` reduces them and writes the products.
"""
