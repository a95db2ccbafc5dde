"""Tests of ``inflate.io``."""
