"""Tests of ``inflate.models``."""
