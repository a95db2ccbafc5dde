"""The parity check of a video decoder with its image decoder: probes, metrics, verdict."""
