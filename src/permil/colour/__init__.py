"""The flat against wavelength: ratios of LEDs, sensors of both vendors, and what LEDs share."""
