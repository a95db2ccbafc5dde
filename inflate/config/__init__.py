"""The configuration: its schema, the presets, and loading through OmegaConf."""
