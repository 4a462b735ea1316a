"""Candidates of windows and their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.artifacts import write_json
from feature_repo.contract.candidates import Candidates
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.events import EventType
from tests.ranking import shop
from tests.trainer.ranker_shop import make_viewed
from trainer.ranker_windows import Part, require_labels, targets_of
from trainer.sets import TrainingSet


def test_held_out_users_are_the_same_in_every_window() -> None:
    users = shop.user_rows()
    held, kept = (Part(0.25, seed=0, held_out=held) for held in (True, False))

    ids = [set(part.of(users)["user_id"].to_pylist()) for part in (held, kept)]

    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == set(users["user_id"].to_pylist())
    assert 0 < len(ids[0]) < len(ids[1])
    later = set(held.of(users.slice(10))["user_id"].to_pylist())
    assert later == ids[0] & set(users.slice(10)["user_id"].to_pylist())


def test_candidates_of_chunks_are_those_of_all_at_once() -> None:
    users = shop.user_rows()
    parts = [shop.candidates(users.slice(start, 10)) for start in range(0, len(users), 10)]

    found, expected = Candidates.joined(parts), shop.candidates(users)

    np.testing.assert_array_equal(found.offsets, expected.offsets)
    np.testing.assert_array_equal(found.item_row, expected.item_row)
    np.testing.assert_array_equal(found.rank, expected.rank)


def test_targets_leave_out_what_was_seen() -> None:
    users = shop.user_rows()
    every = targets_of(users, shop.vocabulary())

    new = targets_of(users, shop.vocabulary(), seen=[rows[:1] for rows in every])

    assert [rows.tolist() for rows in new] == [rows[1:].tolist() for rows in every]


@pytest.mark.parametrize(
    ("until", "reason"),
    [(None, "has no labels"), ("2020-10-15T00:00:00+00:00", "past the cut-off t2")],
)
def test_labels_from_the_cutoff_on_are_refused(
    ranker_dataset: Dataset, tmp_path: Path, until: str | None, reason: str
) -> None:
    write_json(tmp_path / "set.json", {"until": until})

    with pytest.raises(ConfigError, match=reason):
        require_labels(TrainingSet(tmp_path, shop.SCHEMA), ranker_dataset, before="t2")


def test_labels_that_end_at_the_cutoff_are_taken(ranker_dataset: Dataset, tmp_path: Path) -> None:
    write_json(tmp_path / "set.json", {"until": ranker_dataset.edges[2].isoformat()})

    require_labels(TrainingSet(tmp_path, shop.SCHEMA), ranker_dataset, before="t2")


def test_other_events_are_labels_where_the_set_has_them() -> None:
    window = make_viewed()

    labels = window.labels_of(EventType.VIEW)

    starts = window.candidates.offsets[:-1]
    assert np.flatnonzero(labels).tolist() == sorted([*starts[1::2], *(starts[1::2] + 1)])
    with pytest.raises(ConfigError, match=r"names click, but .* no target_click_item_id"):
        window.labels_of(EventType.CLICK)
