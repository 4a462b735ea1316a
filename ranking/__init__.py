"""Ranking of candidates: features, crosses, Wide & Deep, scoring, policy and list metrics."""
