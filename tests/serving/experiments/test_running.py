from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from serving.answers import Recommendation
from serving.experiments.assignment import variant_of
from serving.experiments.exposure import Exposure
from serving.experiments.running import Experiments
from serving.ids import BadField
from serving.query import Query
from tests.serving.experiments.files import END, NOW, START, experiment, write

ANSWER = Recommendation("r1", [], None, "1", "1+0", [], 1.0)


class Kept:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.exposures: list[Exposure] = []

    def add(self, exposure: Exposure) -> None:
        self.exposures.append(exposure)

    def close(self) -> None: ...


def running(folder: Path, now: datetime = NOW) -> tuple[Experiments, Kept]:
    kept: Any = Kept()
    found = Experiments(folder, kept, lambda: now)
    found.look()
    return found, kept


def variant(experiments: Experiments, query: Query) -> str | None:
    treatment = experiments.assigned(query).treatment
    return None if treatment is None else treatment.label


def test_without_experiments_a_query_stays_as_it_is() -> None:
    query = Query(1007)

    assert Experiments().assigned(query) is query
    assert Experiments().shown(query, ANSWER) is ANSWER


def test_a_user_sees_the_variant_of_the_hash_every_time(tmp_path: Path) -> None:
    write(tmp_path)
    first, _ = running(tmp_path)
    second, _ = running(tmp_path)

    for user_id in range(50):
        want = f"lists:{variant_of(experiment(), user_id)}"
        assert variant(first, Query(user_id)) == variant(second, Query(user_id, 5)) == want


def test_an_answer_names_its_variant_and_is_logged(tmp_path: Path) -> None:
    write(tmp_path)
    experiments, kept = running(tmp_path)
    query = experiments.assigned(Query(1007))

    answer = experiments.shown(query, ANSWER)

    want = f"lists:{variant_of(experiment(), 1007)}"
    assert answer == replace(ANSWER, experiment=want)
    (exposure,) = kept.exposures
    assert (exposure.user_id, exposure.at, exposure.answer) == (1007, NOW, answer)
    assert exposure.lines()[0]["revision"] == experiment().revision


@pytest.mark.parametrize(
    ("now", "runs"), [(START, True), (END, False), (datetime(2025, 1, 1, tzinfo=NOW.tzinfo), False)]
)
def test_it_runs_in_its_time_alone(tmp_path: Path, now: datetime, runs: bool) -> None:
    write(tmp_path)
    experiments, _ = running(tmp_path, now)

    assert (variant(experiments, Query(1007)) is not None) == runs


def test_layers_are_dealt_together_and_named_together(tmp_path: Path) -> None:
    diverse = {"control": None, "other": {"policy": ["policy.diversity=0.3"]}}
    write(tmp_path, "lists", layer="a", variants={"control": None, "other": {"ranker": "none"}})
    write(tmp_path, "rules", layer="b", variants=diverse)
    experiments, kept = running(tmp_path)

    seen = {variant(experiments, Query(user_id)) for user_id in range(100)}

    pairs = [(one, two) for one in ("control", "other") for two in ("control", "other")]
    assert seen == {f"lists:{one},rules:{two}" for one, two in pairs}
    experiments.shown(experiments.assigned(Query(1)), ANSWER)
    assert len(kept.exposures[0].lines()) == 2


def test_only_targeted_requests_take_part(tmp_path: Path) -> None:
    write(tmp_path, targeting={"platform": ["app", "kiosk"], "scenario": ["discover"]})
    experiments, _ = running(tmp_path)
    query = Query(1007, scenario="discover", attributes={"platform": "app"})

    assert variant(experiments, query) is not None
    assert variant(experiments, replace(query, scenario=None)) is None
    assert variant(experiments, replace(query, attributes={"platform": "web"})) is None
    assert variant(experiments, replace(query, attributes={})) is None


def test_a_request_that_names_its_ranker_is_left_out_unless_it_is_targeted(tmp_path: Path) -> None:
    write(tmp_path, variants={"control": None, "other": {"ranker": "none"}})
    experiments, _ = running(tmp_path)

    assert variant(experiments, Query(1007, scenario="discover")) is None
    write(tmp_path, variants={"control": None, "other": {"sources": ["popular"]}})
    experiments.look()
    assert variant(experiments, Query(1007, scenario="discover")) is not None


def test_a_tester_sees_the_variant_that_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, traffic=[0.0, 0.01], start=END, end=datetime(2027, 1, 1, tzinfo=END.tzinfo))
    write(tmp_path, "rules", layer="rules")
    experiments, kept = running(tmp_path)

    for name in ("control", "other"):
        query = experiments.assigned(Query(1007, variant={"lists": name}))
        assert query.treatment is not None
        dealt = variant_of(experiment("rules"), 1007)
        assert query.treatment.label == f"rules:{dealt},lists:{name}"
        experiments.shown(query, ANSWER)
    assert [line["override"] for one in kept.exposures for line in one.lines()] == [True] * 4


def test_a_testers_experiment_takes_the_place_of_its_layers_others(tmp_path: Path) -> None:
    write(tmp_path, "lists", traffic=[0.0, 0.5])
    write(tmp_path, "more", traffic=[0.5, 1.0])
    experiments, _ = running(tmp_path)

    for user_id in range(20):
        query = Query(user_id, variant={"more": "other"})
        assert variant(experiments, query) == "more:other"


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"basket": "a"}, "there is no experiment 'basket' now, but ['lists']"),
        ({"off": "other"}, "there is no experiment 'off' now"),
        ({"lists": "third"}, "lists has the variants ['control', 'other']; got 'third'"),
    ],
)
def test_a_variant_that_there_is_not_is_refused(
    tmp_path: Path, asked: dict[str, str], text: str
) -> None:
    write(tmp_path)
    write(tmp_path, "off", enabled=False)
    experiments, _ = running(tmp_path)

    with pytest.raises(BadField) as caught:
        experiments.assigned(Query(1007, variant=asked))

    assert caught.value.field == "variant"
    assert text in str(caught.value)


def test_what_is_in_force_is_described(tmp_path: Path) -> None:
    write(tmp_path, variants={"control": None, "other": {"ranker": "none"}})
    (tmp_path / "wrong.yaml").write_text("start: [")
    experiments, _ = running(tmp_path)

    said = experiments.describe()

    assert said["experiments"] == {
        "lists": {
            "start": "2026-03-01T00:00:00Z",
            "end": "2026-04-01T00:00:00Z",
            "variants": {"control": {}, "other": {"ranker": "none"}},
            "running": True,
            "revision": experiments.folder.experiments["lists"].revision,
        }
    }
    assert "is not YAML" in said["refused"]["wrong"]


def test_answers_of_variants_are_cached_apart(tmp_path: Path) -> None:
    write(tmp_path)
    experiments, _ = running(tmp_path)
    asked = [experiments.assigned(Query(1007, variant={"lists": n})) for n in ("control", "other")]

    assert len({repr(query) for query in [*asked, experiments.assigned(Query(1007))]}) == 3
