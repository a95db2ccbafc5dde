"""Tests of ``inflate.inflation``."""
