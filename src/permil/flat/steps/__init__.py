"""The work of worker processes for flats: signals on super-pixels, the joint solution, the flat of one detector, the composite."""
