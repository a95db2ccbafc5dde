"""Batches: many conversions, which may be stopped and gone on with, on one machine or on many."""
