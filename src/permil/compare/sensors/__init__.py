"""Many sensors together: combined results of detectors and bands, significance of many tests, origins of the variance of star fluxes."""
