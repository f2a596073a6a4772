"""Tests of the package camera."""
