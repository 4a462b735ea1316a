"""Experiments: which users see which variant, what they were shown, and what came of it."""
