"""The index page: the run as a whole, its verdicts, a section for each LED, and the sections of other pages."""
