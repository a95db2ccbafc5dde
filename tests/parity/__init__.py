"""Tests of ``inflate.parity``."""
