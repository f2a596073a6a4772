"""The page that compares the stars of one detector and band with its flat, and its section of the index page."""
