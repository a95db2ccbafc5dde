"""Tests of ``inflate.config``."""
