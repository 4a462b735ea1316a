from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.contract.errors import BadInput, StoreUnavailable
from serving import batch
from serving.batch import write_lists
from serving.recommender import Recommender
from tests.serving.shop import NUM_USERS, TinyShop


def list_of(path: Path, user: int) -> list[tuple[int, float | None, str]]:
    """Return one user's items, scores and sources by rank."""
    rows = [row for row in pq.read_table(path).to_pylist() if row["user_id"] == user]
    rows.sort(key=lambda row: row["rank"])
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    return [(row["item_id"], row["score"], row["source"]) for row in rows]


@pytest.fixture
def point_in_time_rows(shop: TinyShop) -> Path:
    """Return the users' rows of the training set at the cut-off."""
    return shop.dataset.sets / "ranking_v1-users-t2" / "users.parquet"


@pytest.fixture
def two_users(tmp_path: Path) -> Path:
    """Return a file that names a known user, an unknown one, and the known one again."""
    pq.write_table(pa.table({"user_id": [1033, 999_999, 1033]}), tmp_path / "users.parquet")
    return tmp_path / "users.parquet"


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_lists_are_what_the_server_answers(
    recommender: Recommender, tmp_path: Path, exclude_seen: bool
) -> None:
    out = tmp_path / "lists.parquet"

    assert write_lists(recommender, out, exclude_seen=exclude_seen) == NUM_USERS

    for user in (1000, 1033, 1059):
        items = recommender.recommend(user, exclude_seen=exclude_seen).items
        found = list_of(out, user)
        assert [item for item, _, _ in found] == [item.item_id for item in items]
        assert [s for _, s, _ in found] == pytest.approx([i.score for i in items], abs=1e-5)
        assert [source for _, _, source in found] == [item.source for item in items]


def test_rows_of_a_file_give_the_lists_of_the_store(
    recommender: Recommender, cut_off: Recommender, point_in_time_rows: Path, tmp_path: Path
) -> None:
    online, offline = tmp_path / "online.parquet", tmp_path / "offline.parquet"

    write_lists(recommender, online, k=7)
    write_lists(cut_off, offline, k=7, user_rows=point_in_time_rows)

    assert pq.read_table(online).equals(pq.read_table(offline))
    assert len(pq.read_table(offline)) == 7 * NUM_USERS


def test_the_file_has_the_columns_and_types_of_the_data(
    recommender: Recommender, tmp_path: Path
) -> None:
    write_lists(recommender, tmp_path / "lists.parquet", k=2)

    assert pq.read_schema(tmp_path / "lists.parquet").equals(
        pa.schema(
            [
                ("user_id", pa.int64()),
                ("item_id", pa.int64()),
                ("rank", pa.int32()),
                ("score", pa.float32()),
                ("source", pa.string()),
            ]
        )
    )


def test_the_users_of_a_file_are_answered_once_each(
    recommender: Recommender, two_users: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "lists.parquet"

    assert write_lists(recommender, out, users=str(two_users), k=4) == 2

    assert pq.read_table(out)["user_id"].to_pylist() == [1033] * 4 + [999_999] * 4
    assert {source for _, _, source in list_of(out, 999_999)} == {"popular"}
    assert "Nothing is known of 1 of 2 users" in caplog.text


def test_the_users_of_a_file_find_their_rows_in_another(
    recommender: Recommender, two_users: Path, point_in_time_rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "lists.parquet"

    write_lists(recommender, out, users=str(two_users), k=4, user_rows=point_in_time_rows)

    assert [item for item, _, _ in list_of(out, 1033)] == [
        item.item_id for item in recommender.recommend(1033, 4).items
    ]
    assert len(list_of(out, 999_999)) == 4


def test_chunks_do_not_change_the_lists(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lists(recommender, tmp_path / "one.parquet", k=5)
    monkeypatch.setattr(batch, "CHUNK", 7)
    write_lists(recommender, tmp_path / "many.parquet", k=5)

    one, many = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("one", "many"))
    for column in ("user_id", "item_id", "rank", "source"):
        assert one[column].equals(many[column]), column


def test_without_the_store_no_file_is_written(cut_off: Recommender, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        write_lists(cut_off, tmp_path / "lists.parquet")

    assert list(tmp_path.iterdir()) == []


def test_lists_of_nobody_known_are_refused(recommender: Recommender, tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": [1, 2]}), tmp_path / "users.parquet")

    with pytest.raises(BadInput, match="Nothing is known of any of the 2 users"):
        write_lists(recommender, tmp_path / "out.parquet", users=str(tmp_path / "users.parquet"))

    assert not (tmp_path / "out.parquet").exists()


def test_users_of_another_type_are_refused(recommender: Recommender, tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": ["anna"]}), tmp_path / "users.parquet")

    with pytest.raises(BadInput, match="must hold int64"):
        write_lists(recommender, tmp_path / "out.parquet", users=str(tmp_path / "users.parquet"))


def test_a_length_below_one_is_refused(recommender: Recommender, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--k must be at least 1"):
        write_lists(recommender, tmp_path / "out.parquet", k=0)


def test_the_command_writes_the_file_and_prints_its_name(
    shop: TinyShop, point_in_time_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "lists.parquet"
    arguments = ["--release", str(shop.releases / "current"), "--users", "all", "--k", "3"]
    arguments += ["--exclude-seen", "--user-rows", str(point_in_time_rows), "--out", str(out)]

    assert batch.main(arguments) == 0

    assert capsys.readouterr().out == f"{out}\n"
    assert len(pq.read_table(out)) == 3 * NUM_USERS


def test_the_command_says_that_there_is_no_release(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--release", str(tmp_path / "current"), "--out", str(tmp_path / "out.parquet")]

    assert batch.main(arguments) == 2
    assert "Run `make quickstart`" in capsys.readouterr().err
