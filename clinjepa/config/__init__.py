"""The configuration: one typed schema for the laptop demo and for the 8B run."""

from clinjepa.config.load import apply_overrides, load_config, save_config
from clinjepa.config.schema import Config
from clinjepa.config.section import result_fields

__all__ = ["Config", "apply_overrides", "load_config", "result_fields", "save_config"]
