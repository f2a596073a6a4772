"""The page of the artificial stars of one detector and band, and their section on the index page."""
