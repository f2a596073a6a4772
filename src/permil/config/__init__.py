"""The YAML file of a run as validated sections, one per stage; unknown keys are errors that name the valid ones."""

from permil.config.load import load_config
from permil.config.model import Config

__all__ = ["Config", "load_config"]
