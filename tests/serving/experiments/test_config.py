from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from feature_repo.contract.errors import ConfigError
from serving.experiments.config import parse_experiment, read_experiment, require_apart
from tests.serving.experiments.files import experiment, settings


def test_the_first_variant_is_the_control_and_weights_are_shares() -> None:
    found = experiment(variants={"b": {"weight": 3}, "a": None})

    assert found.control == "b"
    assert found.edges == [3 / (3 + 1), 1.0]


def test_times_are_dates_texts_or_times_and_of_utc(tmp_path: Path) -> None:
    path = tmp_path / "dates.yaml"
    path.write_text(
        "start: 2026-03-01\nend: '2026-03-02T06:00:00'\nvariants: {a: , b: {ranker: none}}\n"
    )

    found = read_experiment(path)

    assert found.start == datetime(2026, 3, 1, tzinfo=UTC)
    assert found.end == datetime(2026, 3, 2, 6, tzinfo=UTC)
    assert found.name == "dates"


def test_it_runs_from_its_start_until_before_its_end() -> None:
    found = experiment()

    assert found.running(found.start)
    assert not found.running(found.end)
    assert not experiment(enabled=False).running(found.start)


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        ({"variants": {"a": None}}, "variants", "at least 2 items"),
        ({"variants": {"a": {"weight": 0}, "b": None}}, "variants.a.weight", "greater than 0"),
        ({"variants": {"a": {"weight": "5"}, "b": None}}, "variants.a.weight", "valid number"),
        ({"variants": {"a": {"rank": "x"}, "b": None}}, "variants.a.rank", "not permitted"),
        ({"variants": {"a b": None, "b": None}}, "variants", "'a b' is not letters"),
        ({"variants": {True: None, "b": None}}, "variants", "valid string; got True"),
        (
            {"variants": {"a": {"policy": ["policy.divers=1"]}, "b": None}},
            "variants.a.policy",
            "divers",
        ),
        (
            {"variants": {"a": {"sources": {"x": 1.0, "y": 2.0}}, "b": None}},
            "variants.a",
            "ranker: none",
        ),
        ({"start": "soon"}, "start", "must be a time"),
        ({"end": datetime(2026, 2, 1)}, "end", "must be after start"),  # noqa: DTZ001
        ({"traffic": [0.5, 0.5]}, "traffic", "must rise"),
        ({"traffic": [0.5, 1.5]}, "traffic.1", "less than or equal to 1"),
        ({"enabled": "no"}, "enabled", "valid boolean"),
        ({"targeting": {"platform": []}}, "targeting.platform", "at least 1 item"),
        ({"colour": "red"}, "colour", "not permitted"),
        ({"guardrails": {"latency": -1.0}}, "guardrails.latency", "greater than 0"),
    ],
)
def test_a_wrong_file_is_refused_with_its_key(changes: Any, key: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_experiment(settings(**changes), Path("conf/lists.yaml"))

    assert str(caught.value).startswith("conf/lists.yaml: ")
    assert key in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("start: [", "is not YAML"),
        ("", "must hold the keys"),
        ("- start", "must hold the keys"),
        ("start: 2026-03-01\nstart: 2026-03-02\n", "the key 'start' is there twice"),
        ("start: 2026-03-01\nend: 2026-03-02\n", "variants: field required"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "lists.yaml"
    path.write_text(content)

    with pytest.raises(ConfigError, match=text):
        read_experiment(path)


def test_users_of_a_layer_are_of_one_experiment() -> None:
    first, second = experiment("one", traffic=[0.0, 0.5]), experiment("two", traffic=[0.4, 1.0])

    with pytest.raises(ConfigError, match="in common"):
        require_apart(first, second)

    require_apart(first, experiment("two", traffic=[0.5, 1.0]))
    require_apart(first, experiment("two", enabled=False))
    require_apart(first, experiment("two", start=first.end, end=datetime(2026, 5, 1, tzinfo=UTC)))


def test_a_lever_belongs_to_one_layer() -> None:
    ranked = {"control": None, "other": {"ranker": "none"}}
    first = experiment("one", layer="a", variants=ranked)

    with pytest.raises(ConfigError, match=r"both set \['ranker'\]"):
        require_apart(first, experiment("two", layer="b", variants=ranked))

    diverse = {"control": None, "other": {"policy": ["policy.diversity=0.3"]}}
    require_apart(first, experiment("two", layer="b", variants=diverse))


def test_the_revision_changes_with_what_deals_users_and_makes_lists_alone() -> None:
    plain = experiment().revision

    assert experiment(traffic=[0.0, 0.5]).revision == plain
    assert experiment(enabled=False).revision == plain
    assert experiment(salt="new").revision != plain
    assert experiment(variants={"control": {"weight": 2}, "other": None}).revision != plain


def test_the_files_of_the_repository_hold(repository: Path) -> None:
    for path in sorted((repository / "conf" / "experiments").glob("*.yaml")):
        assert not read_experiment(path).enabled
