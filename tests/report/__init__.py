"""Tests of ``inflate.report``."""
