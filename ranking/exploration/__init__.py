"""Exploration: lists that also learn, by multi-armed bandits over the head of the ranked list."""
