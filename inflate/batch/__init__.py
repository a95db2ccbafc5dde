"""Batches: many resumable conversions, on one machine or on a Ray cluster."""
