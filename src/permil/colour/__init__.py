"""The flat against wavelength: ratios of LEDs, vendors, and variance common to LEDs."""
