"""Tree rings in a flat: `search` finds their axis, `profile` has their azimuthal means and the zone of significance."""
