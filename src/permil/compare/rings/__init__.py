"""Tree rings in a flat: search, profile, and zone of significance."""
