"""The configuration: its schema, the presets, and its reading through OmegaConf."""
