"""Artificial stars: detect, measure, name by grid index, calibrate, and place the residuals on the detector.

Data flow::

    raw exposures -> measure_exposure -> SpotCatalog        catalogs of the LSST stack, grid files -> read_catalog -> SpotCatalog
      SpotCatalog -> find_grid -> labels                    from the points alone
      labelled catalogs -> common_window, gather -> Measurements
      Measurements -> calibrate -> Calibration              spots, exposures, residuals
      residuals -> bin_residuals, amplifier_table, radial_profile (dithered) or repeatability (fixed place)

`permil.spots.stage` reads and writes.
"""
