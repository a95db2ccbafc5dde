"""Tests of what hostile, damaged and interrupted work may not do."""
