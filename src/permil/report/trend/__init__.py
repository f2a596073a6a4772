"""The page of trends: results of many runs against run and date."""
