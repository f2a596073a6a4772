"""The page on the stability of light, photodiode, electronics and beam."""
