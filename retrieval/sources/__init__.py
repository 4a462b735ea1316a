"""Candidate sources: each names the best items of a user by one simple idea.

A source is arrays and a rule; those that need fitting are fitted by the trainer and read here.
"""

from __future__ import annotations

from retrieval.sources.ann import AnnSource
from retrieval.sources.base import (
    Source,
    Transform,
    UserBatch,
    best,
    padded,
    stacked,
    transformed,
)
from retrieval.sources.blend import BlendSource
from retrieval.sources.buy_again import BuyAgainSource
from retrieval.sources.content import ContentSource
from retrieval.sources.factors import FactorSource
from retrieval.sources.loading import load_source, load_sources
from retrieval.sources.ncf import NcfSource
from retrieval.sources.neighbours import NeighbourSource
from retrieval.sources.popular import PopularSource, SegmentPopularSource
from retrieval.sources.similar_users import SimilarUsersSource, UserClusterSource

__all__ = [
    "AnnSource",
    "BlendSource",
    "BuyAgainSource",
    "ContentSource",
    "FactorSource",
    "NcfSource",
    "NeighbourSource",
    "PopularSource",
    "SegmentPopularSource",
    "SimilarUsersSource",
    "Source",
    "Transform",
    "UserBatch",
    "UserClusterSource",
    "best",
    "load_source",
    "load_sources",
    "padded",
    "stacked",
    "transformed",
]
