"""Bytes: files and remote folders read as tensors by name, and written atomically."""
