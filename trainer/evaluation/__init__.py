"""Judging recommendation lists on a window of time, beside the baselines that they must beat."""
