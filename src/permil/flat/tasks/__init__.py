"""What worker processes do for flats, each task by itself: signals on super-pixels, the solution, one detector, the composite."""
