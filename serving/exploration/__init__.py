"""Exploration in a server: which items lists try out, and what is learned from it."""
