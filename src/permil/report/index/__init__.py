"""The index page: the whole run, its verdicts, a section for each LED, and the sections of other pages."""
