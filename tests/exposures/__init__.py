"""Tests of the package exposures."""
