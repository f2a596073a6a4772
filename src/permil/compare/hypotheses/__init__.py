"""Joint fit of efficiency, pixel area and diffusion as fractions of the variance of a flat, with slopes and a verdict.

`predict` predicts the quantities of stars band by band, `equations` sets up and solves the moment equations, `fit` derives fractions and
slopes with errors, `results` has their classes and the verdict.
"""
