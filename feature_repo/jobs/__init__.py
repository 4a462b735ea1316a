"""From raw data to canonical tables, feature sources and training sets.

Each job is a sub-command of ``python -m feature_repo.jobs``.
"""
