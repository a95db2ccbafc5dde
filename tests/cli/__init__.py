"""Tests of ``inflate.cli``."""
