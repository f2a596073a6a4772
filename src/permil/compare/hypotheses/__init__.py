"""Efficiency, pixel area, diffusion: fitted together, as fractions of the variance of a flat, with slopes and a verdict."""
