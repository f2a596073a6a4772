"""Tree rings in a flat: found, measured, and where they stand out."""
