"""The page of the joint solution of one LED, and its sentence on the index page."""
