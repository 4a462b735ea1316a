"""Fitting the sources: nothing from the cut-off on is seen, and runs must fit."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feature_repo.contract.artifacts import read_json, read_table, write_table
from feature_repo.contract.dataset import Dataset, IdType
from feature_repo.contract.errors import ArtifactError, ConfigError
from feature_repo.contract.vocabulary import Vocabulary
from retrieval.retriever import Retriever
from retrieval.sources import PopularSource
from tests.retrieval import shop
from tests.trainer.shop import fit_bundle, run_config, sources_config
from trainer.fitting import events_before, group_codes
from trainer.sets import judged_users
from trainer.sources import compose_sources, main, make_bundle


@pytest.fixture(scope="module")
def bundle(shop_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_bundle(shop_dataset, tmp_path_factory.mktemp("runs"))


def files(folder: Path) -> dict[str, str]:
    """Hashes of the sources' files."""
    found = read_json(folder / "manifest.json")["files"]
    return {name: digest for name, digest in found.items() if name.startswith("sources/")}


def test_counts_decay_to_the_cutoff(tmp_path: Path) -> None:
    dataset = shop.make_shop(tmp_path)
    cutoff = dataset.edges[1]
    times = [cutoff - timedelta(days=56), cutoff - timedelta(days=112), cutoff]
    events = {(1, times[0]): [100], (1, times[1]): [100, 101], (2, times[2]): [100]}
    shop.write_events(dataset, events)

    found = events_before(dataset, cutoff).to_pylist()

    assert found == [
        {"user_id": 1, "item_id": 100, "weight": 0.75, "first_days": 112.0, "last_days": 56.0},
        {"user_id": 1, "item_id": 101, "weight": 0.25, "first_days": 112.0, "last_days": 112.0},
    ]


def test_what_happens_from_the_cutoff_on_changes_nothing(
    bundle: Path, shop_dataset: Dataset, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(shop_dataset.root, root)
    changed, run = Dataset.load(root / "dataset.json"), tmp_path / bundle.parent.name
    shutil.copytree(bundle.parent, run, ignore=shutil.ignore_patterns("retriever"))
    path = changed.canonical / "events.parquet"
    events = read_table(path)
    kept = events.filter(pc.less(events.column("event_timestamp"), pa.scalar(changed.edges[1])))
    planted = {(user, changed.edges[1]): [100 + user] for user in range(20)}
    shop.write_events(changed, planted)
    write_table(path, pa.concat_tables([kept, read_table(path)]))

    again = make_bundle(sources_config(changed, run))

    assert files(again) == files(bundle)


def test_popularity_is_of_the_last_days_before_the_cutoff(
    bundle: Path, shop_dataset: Dataset
) -> None:
    cutoff = shop_dataset.edges[1]
    buyers: dict[int, set[int]] = {}
    for (user, time), items in shop.baskets().items():
        if cutoff - timedelta(days=28) <= time < cutoff:
            for item in items:
                buyers.setdefault(item, set()).add(user)

    found = PopularSource.load(bundle / "sources" / "popular", "popular", False)

    ids = Retriever.load(bundle).items.ids_of(np.asarray(found.rows))
    assert dict(zip(ids, found.scores.tolist(), strict=True)) == {
        item: float(len(users)) for item, users in buyers.items()
    }
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_first_time_buyers_bought_the_item_never_before(
    bundle: Path, shop_dataset: Dataset
) -> None:
    cutoff = shop_dataset.edges[1]
    first: dict[tuple[int, int], datetime] = {}
    for (user, time), items in sorted(shop.baskets().items(), key=lambda entry: entry[0][1]):
        for item in items:
            first.setdefault((user, item), time)
    recent = [
        item for (_, item), time in first.items() if cutoff - timedelta(days=28) <= time < cutoff
    ]

    found = PopularSource.load(bundle / "sources" / "first_time_popular", "x", False)

    ids = Retriever.load(bundle).items.ids_of(np.asarray(found.rows))
    assert dict(zip(ids, found.scores.tolist(), strict=True)) == {
        item: float(recent.count(item)) for item in set(recent)
    }


def test_groups_are_combinations_of_attributes() -> None:
    items = pa.table(
        {"item_id": [10, 11, 12, 13], "a": ["x", "x", "y", None], "b": ["1", "2", "1", "1"]}
    )
    vocabulary = Vocabulary.build([10, 11, 12, 13, 14], IdType.INT64)

    one = group_codes(items, ["a"], vocabulary)
    both = group_codes(items, ["a", "b"], vocabulary)

    assert one[1] == one[2] != one[3]
    assert one[[0, 4, 5]].tolist() == [0, 0, 0]
    assert len({*both[1:4]}) == 3
    assert both[4] == 0


def test_an_attribute_that_items_lack_is_named(shop_dataset: Dataset) -> None:
    items = shop.item_table(shop_dataset.edges[1])

    with pytest.raises(ConfigError, match="no attribute \\['colour'\\]"):
        group_codes(items, ["colour"], Vocabulary.build([100], IdType.INT64))


def test_starters_are_of_visits_that_count_less_the_larger_they_are(
    bundle: Path, shop_dataset: Dataset
) -> None:
    cutoff = shop_dataset.edges[1]
    weights: dict[int, float] = {}
    for (_, time), items in shop.baskets().items():
        if cutoff - timedelta(days=28) <= time < cutoff:
            for item in set(items):
                weights[item] = weights.get(item, 0.0) + 1 / len(set(items)) ** 0.5

    retriever = Retriever.load(bundle)

    found = retriever.starters
    assert found is not None
    got = dict(zip(retriever.items.ids_of(found.rows), found.scores.tolist(), strict=True))
    assert got == {item: pytest.approx(weight, rel=1e-6) for item, weight in weights.items()}
    assert "starters" not in {source.name for source in retriever.sources}


def test_a_quota_of_zero_leaves_a_source_out(
    bundle: Path, shop_dataset: Dataset, tmp_path: Path
) -> None:
    run = tmp_path / bundle.parent.name
    shutil.copytree(bundle.parent, run, ignore=shutil.ignore_patterns("retriever"))

    made = make_bundle(sources_config(shop_dataset, run, "sources.quotas.ease=0"))

    assert "ease" not in Retriever.load(made).quotas
    assert not (made / "sources" / "ease").exists()


def test_sources_with_a_quota_join_the_bundle(
    bundle: Path, shop_dataset: Dataset, tmp_path: Path
) -> None:
    run = tmp_path / bundle.parent.name
    shutil.copytree(bundle.parent, run, ignore=shutil.ignore_patterns("retriever"))
    names = ["content", "similar_users", "trending"]
    content = ["topics=1", "topics_of=category"]
    settings = [
        *(f"sources.quotas.{name}=5" for name in names),
        *(f"sources.content.{setting}" for setting in content),
        "~sources.content.weights.brand_tier",
    ]

    made = Retriever.load(make_bundle(sources_config(shop_dataset, run, *settings)))

    users = judged_users(shop_dataset, "t1")
    found = made.candidates(users)
    assert set(names) < set(found.sources)
    ranks = found.rank[:, [found.sources.index(name) for name in names]]
    assert np.nanmax(ranks, axis=0).tolist() == [5, 5, 5]


def test_an_unfinished_run_is_refused(shop_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a finished run"):
        make_bundle(sources_config(shop_dataset, tmp_path))


def test_a_run_of_another_cutoff_is_refused(bundle: Path, shop_dataset: Dataset) -> None:
    config = sources_config(shop_dataset, bundle.parent, "cutoff=t2")

    with pytest.raises(ConfigError, match="was trained on shop before 2021-02-10"):
        make_bundle(config)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sources.quotas.nearby=3", "nearby"),
        ("sources.ease.l2=0", "ease.l2 must be above zero; got 0"),
        ("sources.quotas.ann=-1", "must not be negative"),
        ("index=best", "index/best"),
    ],
)
def test_mistaken_settings_get_a_sentence(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_sources(["cutoff=t1", "two_tower=x", override])

    assert said in str(caught.value)


def test_help_says_how_to_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "python -m trainer.sources cutoff=TIME two_tower=RUN" in capsys.readouterr().out


def test_the_same_run_is_found_again(shop_dataset: Dataset, bundle: Path) -> None:
    assert fit_bundle(shop_dataset, bundle.parent.parent) == bundle
    assert run_config(shop_dataset, bundle.parent.parent).experiment == "two_tower"
