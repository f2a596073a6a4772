"""The section of gains and linearity that the campaign itself measures."""
