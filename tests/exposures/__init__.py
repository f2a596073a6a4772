"""Tests of the room exposures."""
