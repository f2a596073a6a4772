"""The efficiency flat: the flat corrected for pixel area and diffusion measured by stars, validated on left-out dithers."""
