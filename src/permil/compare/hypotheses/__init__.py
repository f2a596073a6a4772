"""Joint fit of efficiency, pixel area and diffusion as fractions of the variance of a flat, with slopes and a verdict."""
