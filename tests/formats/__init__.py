"""Tests of every format in and out, on files made the way the original tools make them."""
