"""Configuration of a run: the YAML file as validated sections, one per stage; unknown keys are errors."""

from permil.config.load import load_config
from permil.config.model import Config

__all__ = ["Config", "load_config"]
