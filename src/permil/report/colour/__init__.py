"""The page about the colour of the flats, and its section of the index page."""
