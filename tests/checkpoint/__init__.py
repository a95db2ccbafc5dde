"""Tests of ``inflate.checkpoint``."""
