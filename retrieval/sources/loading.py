"""Reading the sources of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from feature_repo.contract.errors import ArtifactError
from retrieval.index import ItemIndex
from retrieval.sources.ann import AnnSource
from retrieval.sources.base import Source, Transform, load_arrays
from retrieval.sources.blend import BlendSource
from retrieval.sources.buy_again import BuyAgainSource
from retrieval.sources.content import ContentSource
from retrieval.sources.factors import FactorSource
from retrieval.sources.ncf import NcfSource
from retrieval.sources.neighbours import NeighbourSource
from retrieval.sources.popular import PopularSource, SegmentPopularSource
from retrieval.sources.similar_users import SimilarUsersSource, UserClusterSource


def load_source(folder: Path, name: str, settings: dict[str, Any]) -> Source:
    """Read one source of a bundle.

    Args:
        folder: the bundle, with ``sources/<name>/`` and what its vectors need.
        name: the source's.
        settings: its ``about``.

    Raises:
        ArtifactError: its files are missing or its kind is unknown.
    """
    new_only = bool(settings.get("new_only", False))
    half_life = float(settings.get("half_life_days", 0.0))
    where = folder / "sources" / name
    match settings["kind"]:
        case "ann":
            vectors = load_arrays(folder, "item_vectors")["item_vectors"]
            return AnnSource(
                ItemIndex.load(folder / "index", vectors=vectors), vectors, new_only, name
            )
        case "buy_again":
            return BuyAgainSource(half_life, name)
        case "popular":
            return PopularSource.load(where, name, new_only)
        case "segment_popular":
            segments = tuple(settings["segments"])
            return SegmentPopularSource.load(where, name, settings["attribute"], segments, new_only)
        case "content":
            return ContentSource.load(where, name, settings)
        case "similar_users":
            return SimilarUsersSource.load(where, name, settings)
        case "user_clusters":
            return UserClusterSource.load(where, name, settings)
        case "neighbours":
            transform = Transform(settings["transform"])
            return NeighbourSource.load(where, name, transform, half_life, new_only)
        case "factors":
            return FactorSource.load(where, name, new_only)
        case "ncf":
            return NcfSource.load(where, name, int(settings["layers"]), new_only)
        case kind:
            raise ArtifactError(f"{folder} has a source {name} of unknown kind {kind!r}.")


def load_sources(folder: Path, settings: Mapping[str, dict[str, Any]]) -> tuple[Source, ...]:
    """Read the sources of a bundle; blends come last, for they are of the others.

    Raises:
        ArtifactError: files are missing, a kind is unknown, or a blend lacks one of its sources.
    """
    blends = {name: own for name, own in settings.items() if own["kind"] == "blend"}
    found = {
        name: load_source(folder, name, own) for name, own in settings.items() if name not in blends
    }
    for name, own in blends.items():
        found[name] = BlendSource.of(name, own, found)
    return tuple(found.values())
