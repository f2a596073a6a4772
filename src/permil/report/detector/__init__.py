"""The page of one detector and LED, and the overview of all detectors of an LED on the index page."""
