"""Stability of the light and of the electronics over a campaign."""
