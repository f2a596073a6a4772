"""Response of stars to a flat.

`profile` has the light of a star, `response` its kernels for the three kinds of flat, `flat_at_stars` the flat averaged over its light, and
`pairs` the measured and predicted values to be compared.
"""
