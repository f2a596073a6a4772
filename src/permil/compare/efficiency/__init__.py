"""The efficiency flat: the flat without the parts that stars show to be pixel area and diffusion, and the proof on left-out dithers."""
