"""Build an index: choose its kind, write it, find its effort, and refuse it if it is not good."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from feature_repo.contract.artifacts import atomic_folder
from feature_repo.contract.errors import BadInput
from feature_repo.contract.vocabulary import Vocabulary
from retrieval.index.built import Built, Effort
from retrieval.index.choice import choose
from retrieval.index.config import IndexConfig, Kind
from retrieval.index.files import ITEMS, About, open_built
from retrieval.index.ids import vocabulary_in_order
from retrieval.index.structure import write_structure
from retrieval.index.tuning import TIMED, Judges, Tuned, judges, tune
from retrieval.index.vectors import ItemVectors

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Users = npt.NDArray[Any] | Callable[[], npt.NDArray[Any]]


def build_index(
    item_vectors: ItemVectors | npt.NDArray[Any] | Path | Sequence[Path],
    folder: Path,
    config: IndexConfig,
    users: Users | None = None,
    *,
    items: Vocabulary | None = None,
    ids: Any = None,
) -> About:
    """Index the rows from 1 of [R, V]; row 0, the unknown item, is left out.

    Vectors are read a stretch at a time, from arrays or ``.npy`` files that may be larger than
    memory.

    Args:
        item_vectors: an array, a file, or files whose rows follow each other.
        folder: where the index goes; all of it appears, or nothing.
        config: which index, of what quality.
        users: [U, V] vectors of users that the model was not trained on, whose nearest items the
            index has to find, or what returns them if they are needed. Only flat does without.
        items: the vocabulary of the rows, to name an item by.
        ids: instead of it [N] the ids of rows 1 to N, integers or strings; saved with the index.

    Raises:
        BadInput: a vector is zero or not finite, an id is given twice (the item is named), too few
            vectors or users for the kind of index, or shapes that do not fit.
        IndexRefused: no effort reaches the wanted recall.
    """
    started = time.monotonic()
    vectors = ItemVectors.of(item_vectors)
    named = vocabulary_in_order(ids) if ids is not None else items
    _require_ids(vectors, named)
    vectors.check(lambda row: _name(named, row))
    choice = choose(vectors, config, has_users=users is not None)
    with atomic_folder(folder) as temporary:
        factory = write_structure(temporary, vectors, choice.kind, config.seed)
        tuned = _tuned(open_built(temporary, choice.kind), vectors, users, config)
        if ids is not None:
            assert named is not None
            named.save(temporary / ITEMS)
        about = About(
            name=uuid.uuid4().hex,
            kind=choice.kind.value,
            factory=factory,
            effort=asdict(tuned.effort),
            recall=tuned.recall,
            target_recall=config.target_recall,
            k=config.k,
            num_queries=tuned.num_queries,
            query_us=tuned.query_us,
            num_items=vectors.num_items,
            dim=vectors.dim,
            seconds=time.monotonic() - started,
            num_bytes=sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file()),
            faiss=faiss.__version__,
            id_type=None if ids is None or named is None else named.id_type.value,
            choice=f"{choice.reason} {_told(tuned)}",
        )
        about.write(temporary)
    log.info("Index: %s", about.choice)
    return about


def _tuned(found: Built, vectors: ItemVectors, users: Users | None, config: IndexConfig) -> Tuned:
    if found.kind is Kind.flat:
        timed = vectors.sample(TIMED, config.seed)
        judging = Judges(timed, np.zeros((len(timed), min(config.k, vectors.num_items)), np.int64))
        return Tuned(Effort(), 1.0, judging.query_us(found, [Effort()])[0], 0)
    held_back = users() if callable(users) else users
    return tune(found, judges(vectors, held_back, config), config)


def _told(tuned: Tuned) -> str:
    if not tuned.num_queries:
        return f"It answers in {tuned.query_us / 1e3:.2g} ms."
    effort = ", ".join(f"{name}={value:g}" for name, value in asdict(tuned.effort).items() if value)
    return (
        f"With {effort} it finds {tuned.recall:.1%} of the exact nearest items of "
        f"{tuned.num_queries} users held back, in {tuned.query_us / 1e3:.2g} ms a user."
    )


def _require_ids(vectors: ItemVectors, named: Vocabulary | None) -> None:
    if named is not None and len(named) != vectors.num_items:
        raise BadInput(
            f"{vectors.num_items} items need as many ids, and row 0 has none; got {len(named)} ids."
        )


def _name(named: Vocabulary | None, row: int) -> str:
    if named is None:
        return f"item row {row}"
    return f"item {named.ids_of(np.array([row]))[0]!r}"
