"""The check that a video decoder starts out as its image decoder: probes, metrics, verdict."""
