"""Response of stars to a flat: light profile, response kernels, the flat at their positions, and the compared pairs."""
