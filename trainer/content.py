"""Fitting the source of content: item vectors from text and attributes, and users' topics.

Shapes: U users, R rows of the item vocabulary, N items of the catalogue, T terms, P topics, G
groups.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

from feature_repo.contract.artifacts import read_table
from feature_repo.contract.columns import column_of
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.vocabulary import Vocabulary
from retrieval.sources.base import unit_rows
from retrieval.sources.content import ContentSource
from retrieval.sources.content_features import ContentEncoder, Term, Topics, terms_of
from trainer.neighbours import Purchases
from trainer.source_config import ContentConfig

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Groups = npt.NDArray[np.int32]
Number = TypeVar("Number", np.float32, np.int32)

VECTOR = "vector"
"""Column of the vectors that a file gives."""
TOPIC_USERS = 100_000
"""Users that topics are found on, at most."""
BALANCE_USERS = 256
"""Users on whose scores terms and topics are weighed against each other, at most."""


def fit_content(
    name: str,
    purchases: Purchases,
    items: pa.Table,
    vocabulary: Vocabulary,
    config: ContentConfig,
    half_life_days: float,
    new_only: bool,
    seed: int = 0,
) -> ContentSource:
    """Fit the vectors of all items, those of the vocabulary that nobody bought among them.

    Raises:
        ConfigError: the items lack a column of the settings, or no term has enough items.
        ArtifactError: the file of vectors is missing.
    """
    _require_columns(items, config)
    items, given = with_vectors(items, vocabulary, config)
    rows = vocabulary.rows(column_of(items, "item_id"))
    matrix = purchases.matrix(config.transform)
    sold = np.asarray(matrix.sum(axis=0)).ravel()[rows]
    encoder = fit_encoder(items, sold, given, config, seed)
    own = placed(encoder.vectors_of(items), rows, vocabulary.num_rows)
    topics = fit_topics(matrix, items, rows, config, seed)
    if topics is None:
        groups, vectors = np.zeros(vocabulary.num_rows, dtype=np.int32), own
    else:
        groups = placed(topics.groups_of(items), rows, vocabulary.num_rows)
        topics = balanced(topics, groups, matrix, own, config.topics_share)
        vectors = np.hstack([own, placed(topics.vectors_of(items), rows, vocabulary.num_rows)])
    named = named_items(purchases, config.max_buyers)
    return ContentSource(
        name, encoder, topics, vectors, groups, named, config.transform, half_life_days, new_only
    )


def named_items(purchases: Purchases, max_buyers: int | None) -> npt.NDArray[np.bool_]:
    """[R] items with at most so many buyers; null: all."""
    if max_buyers is None:
        return np.ones(purchases.num_rows, dtype=np.bool_)
    return purchases.buyers() <= max_buyers


def _require_columns(items: pa.Table, config: ContentConfig) -> None:
    wanted = {*config.weights, *([config.topics_of] if config.topics else [])}
    missing = sorted(wanted - set(items.column_names))
    if missing:
        raise ConfigError(f"Items have no column {missing}; they have {items.column_names}.")


def with_vectors(
    items: pa.Table, vocabulary: Vocabulary, config: ContentConfig
) -> tuple[pa.Table, str | None]:
    """The items with the given vectors as a column, and its name; None where none are given.

    Raises:
        ArtifactError: the file is missing.
        ConfigError: the items have no such column.
    """
    if config.vectors is None or config.vectors in items.column_names:
        return items, config.vectors
    if not config.vectors.endswith(".parquet"):
        raise ConfigError(
            f"content.vectors={config.vectors} is neither a column of the items nor a Parquet "
            f"file of item_id and {VECTOR}; columns are {items.column_names}."
        )
    table = read_table(Path(config.vectors), ["item_id", VECTOR])
    place = np.zeros(vocabulary.num_rows, dtype=np.int64)
    place[vocabulary.rows(column_of(table, "item_id"))] = 1 + np.arange(len(table))
    place[0] = 0
    wanted = place[vocabulary.rows(column_of(items, "item_id"))]
    indices = pa.array(wanted - 1, mask=wanted == 0)
    return items.append_column(VECTOR, column_of(table, VECTOR).take(indices)), VECTOR


def placed(values: npt.NDArray[Number], rows: Ints, num_rows: int) -> npt.NDArray[Number]:
    """[R, ...] values by row of the vocabulary; zero for row 0 and for rows without a value."""
    found = np.zeros((num_rows, *values.shape[1:]), dtype=values.dtype)
    found[rows] = values
    found[0] = 0
    return found


def fit_encoder(
    items: pa.Table,
    sold: npt.NDArray[np.floating],
    given: str | None,
    config: ContentConfig,
    seed: int,
) -> ContentEncoder:
    """Choose the terms, weigh them by their items' purchases, and find the projection.

    Args:
        items: N rows.
        sold: [N] purchases of each item.
        given: column of given vectors.
        config: settings.
        seed: of the randomised decomposition (Halko et al., 2011; scikit-learn's).

    Raises:
        ConfigError: no term has enough items.
    """
    from sklearn.decomposition import TruncatedSVD

    attributes = [column for column in config.weights if column not in config.texts]
    terms, masses = _terms(items, sold, attributes, config)
    weights = np.array([config.weights[column] for column, _ in terms])
    scales = (np.sqrt(weights) * (1 + masses) ** -config.rare).astype(np.float32)
    width = min(config.dim, len(terms) - 1, len(items) - 1)
    encoder = ContentEncoder(
        config.texts,
        attributes,
        terms,
        scales,
        np.zeros((len(terms), width), dtype=np.float32),
        given,
        config.vectors_share,
    )
    svd = TruncatedSVD(width, n_iter=3, random_state=seed).fit(encoder.matrix(items))
    encoder.projection[:] = svd.components_.T
    return encoder


def _terms(
    items: pa.Table,
    sold: npt.NDArray[np.floating],
    attributes: list[str],
    config: ContentConfig,
) -> tuple[list[Term], npt.NDArray[np.float64]]:
    """The terms of enough items, in order, and the purchases of the items that have them."""
    counts: Counter[Term] = Counter()
    masses: Counter[Term] = Counter()
    for place, found in enumerate(terms_of(items, config.texts, attributes)):
        for term in found:
            counts[term] += 1
            masses[term] += sold[place]
    terms = sorted(term for term, count in counts.items() if count >= config.min_items)
    if len(terms) < 2:
        raise ConfigError(
            f"Fewer than two terms of {sorted(config.weights)} occur in {config.min_items} items; "
            "lower content.min_items or name other columns in content.weights."
        )
    return terms, np.array([masses[term] for term in terms])


def fit_topics(
    matrix: sp.csr_matrix, items: pa.Table, rows: Ints, config: ContentConfig, seed: int
) -> Topics | None:
    """Topics over the groups of bought items; None where there are fewer than two groups."""
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    values = column_of(items, config.topics_of).cast(pa.string())
    names = sorted(value for value in values.unique().to_pylist() if value is not None)
    width = min(config.topics, len(names) - 1, matrix.shape[0])
    if width < 1:
        return None
    blank = np.ones(len(names), dtype=np.float32)
    topics = Topics(config.topics_of, names, np.zeros((width, len(names)), np.float32), blank)
    groups = placed(topics.groups_of(items), rows, matrix.shape[1])
    users = matrix[:: max(matrix.shape[0] // TOPIC_USERS, 1)]
    counts = group_counts(users, groups, len(names))[:, 1:]
    model = NMF(width, init="nndsvda", max_iter=60, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(counts.sqrt())
    sizes = np.maximum(np.bincount(groups, minlength=len(names) + 1)[1:], 1)
    found = model.components_.astype(np.float32)
    return Topics(config.topics_of, names, found, (sizes**-0.5).astype(np.float32))


def group_counts(matrix: sp.csr_matrix, groups: Groups, num_groups: int) -> sp.csr_matrix:
    """[U, G + 1] what users bought of each group; column 0 is of items without one."""
    ones = np.ones(len(groups), dtype=np.float32)
    places = np.arange(len(groups)), groups
    return (matrix @ sp.csr_matrix((ones, places), (len(groups), num_groups + 1))).tocsr()


def balanced(
    topics: Topics,
    groups: Groups,
    matrix: sp.csr_matrix,
    own: Floats,
    share: float,
) -> Topics:
    """The topics with scales by which they make up ``share`` of a score's deviation."""
    step = max(matrix.shape[0] // BALANCE_USERS, 1)
    users = matrix[::step]
    by_terms = unit_rows(np.asarray(users @ own, dtype=np.float32)) @ own.T
    mixtures = topics.mixtures(group_counts(users, groups, len(topics.groups)).toarray())
    column = np.hstack([np.zeros((len(topics.topics), 1)), topics.topics * topics.scales])
    by_topics = mixtures @ column[:, groups]
    ratio = by_terms.std(axis=1).mean() / max(float(by_topics.std(axis=1).mean()), 1e-12)
    factor = share / (1 - share) * ratio
    scales = (topics.scales * factor).astype(np.float32)
    return Topics(topics.attribute, topics.groups, topics.topics, scales)
