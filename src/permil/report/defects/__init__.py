"""Defects on the page of a detector, and their section of the index page."""
