"""Measured comparisons with peers, each run by name: ``python -m benchmarks.NAME``."""
