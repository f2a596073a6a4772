"""Results of many runs: their database, and results that deviate from those of other runs."""
