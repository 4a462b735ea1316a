from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from feature_repo.contract.artifacts import (
    MANIFEST,
    read_json,
    read_manifest,
    read_table,
    write_json,
    write_manifest,
)
from feature_repo.contract.errors import ArtifactError, ConfigError, SchemaMismatch
from feature_repo.contract.schema import Feature, Schema
from tests.serving import conftest as serving
from tests.serving.shop import NAME, NUM_USERS, TinyShop
from trainer.export import ExportConfig, content_digest, export, main, publish

pytestmark = pytest.mark.timeout(serving.BUILD_LIMIT_S)
shop = serving.shop
"""The tiny shop whose models are exported here again."""


def settings(shop: TinyShop, out: Path, **changes: str) -> list[str]:
    found = {
        "retriever": str(shop.bundle("retriever@t2")),
        "ranker": str(shop.bundle("ranker")),
        "cutoff": "t2",
        "data": NAME,
        "data.root": str(shop.root),
        "out": str(out),
        **changes,
    }
    return [f"{key}={value}" for key, value in found.items()]


def copied(bundle: Path, target: Path, **about: Any) -> Path:
    """Return a copy of a bundle that says other things of itself."""
    shutil.copytree(bundle, target)
    manifest = read_json(bundle / MANIFEST)
    write_manifest(target, manifest["kind"], {**manifest["about"], **about})
    return target


@pytest.fixture(scope="module")
def exported(shop: TinyShop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a release that was exported anew and not published."""
    out = tmp_path_factory.mktemp("releases")
    return export(ExportConfig.parse(settings(shop, out)))


def test_an_export_is_whole_and_not_published(exported: Path) -> None:
    about = read_manifest(exported, "release")

    assert exported.name == about["version"]
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]
    assert (exported / "retriever" / MANIFEST).is_file()
    assert (exported / "rankers" / "default" / MANIFEST).is_file()
    assert len(read_table(exported / "users.parquet")) == NUM_USERS
    assert about["config"]["retriever"]["dataset"] == NAME


def test_the_version_names_data_set_day_and_content(exported: Path) -> None:
    name, year, month, day, digest = exported.name.rsplit("-", 4)

    assert (name, year, month, day) == (NAME, "2020", "06", "20")
    assert len(digest) == 8
    assert int(digest, 16) >= 0


def test_the_same_parts_make_the_same_release(shop: TinyShop, exported: Path) -> None:
    before = (exported / MANIFEST).stat().st_mtime_ns

    again = export(ExportConfig.parse(settings(shop, exported.parent)))

    assert again == exported
    assert (exported / MANIFEST).stat().st_mtime_ns == before


def test_golden_rows_tell_nothing_of_what_came_later(exported: Path, shop: TinyShop) -> None:
    users = read_table(exported / "golden" / "users.parquet")
    rows = read_table(shop.dataset.sets / "ranking_v1-users-t2" / "users.parquet")

    assert "target_item_id" in rows.column_names
    assert "target_item_id" not in users.column_names
    assert set(users["user_id"].to_pylist()) <= set(rows["user_id"].to_pylist())
    assert len(users) == 8


def test_golden_lists_are_of_every_ranker_and_task(exported: Path) -> None:
    lists = read_table(exported / "golden" / "lists.parquet")

    cases = {(row["ranker"], row["exclude_seen"], row["row"]) for row in lists.to_pylist()}
    assert cases == {("default", seen, row) for seen in (False, True) for row in range(8)}


def test_a_second_ranker_has_a_name(shop: TinyShop, tmp_path: Path) -> None:
    again = {"ranker.discover": str(shop.bundle("ranker"))}

    release = export(ExportConfig.parse(settings(shop, tmp_path, **again)))

    assert read_manifest(release, "release")["rankers"] == ["default", "discover"]
    assert (release / "rankers" / "discover" / MANIFEST).is_file()


def test_publishing_moves_a_relative_link(exported: Path) -> None:
    link = publish(exported)

    assert link == exported.parent / "current"
    assert os.readlink(link) == exported.name
    publish(exported)
    assert sorted(path.name for path in exported.parent.iterdir()) == sorted(
        [exported.name, "current"]
    )
    link.unlink()


def test_publishing_through_the_link_keeps_the_release(exported: Path) -> None:
    link = publish(exported)

    publish(link)

    assert os.readlink(link) == exported.name
    link.unlink()


def test_a_changed_release_is_not_published(shop: TinyShop, tmp_path: Path) -> None:
    release = export(ExportConfig.parse(settings(shop, tmp_path)))
    os.unlink(release / "users.parquet")

    with pytest.raises(ArtifactError, match="named in the manifest but missing"):
        publish(release)

    assert not (tmp_path / "current").exists()


def test_something_else_named_current_is_left_alone(exported: Path) -> None:
    (exported.parent / "current").mkdir()

    with pytest.raises(ArtifactError, match="is not a symbolic link"):
        publish(exported)

    (exported.parent / "current").rmdir()


def test_a_retriever_of_another_time_is_refused(shop: TinyShop, tmp_path: Path) -> None:
    older = {"retriever": str(shop.bundle("retriever@t1"))}

    with pytest.raises(ArtifactError, match="does not belong into a release with cut-off 2020"):
        export(ExportConfig.parse(settings(shop, tmp_path, **older)))


def test_a_ranker_that_saw_later_events_is_refused(shop: TinyShop, tmp_path: Path) -> None:
    later = copied(shop.bundle("ranker"), tmp_path / "later", cutoff="2020-07-01T00:00:00+00:00")

    with pytest.raises(ArtifactError, match="is a ranker with cut-off 2020-07-01"):
        export(ExportConfig.parse(settings(shop, tmp_path / "out", ranker=str(later))))


def test_a_bundle_of_another_data_set_is_refused(shop: TinyShop, tmp_path: Path) -> None:
    other = copied(shop.bundle("retriever@t2"), tmp_path / "other", dataset="another_shop")

    with pytest.raises(ArtifactError, match="was fitted on another_shop; expected tiny_shop"):
        export(ExportConfig.parse(settings(shop, tmp_path / "out", retriever=str(other))))


def test_a_ranker_cannot_stand_for_a_retriever(shop: TinyShop, tmp_path: Path) -> None:
    wrong = {"retriever": str(shop.bundle("ranker"))}

    with pytest.raises(ArtifactError, match="holds a 'ranker'; expected a 'retriever'"):
        export(ExportConfig.parse(settings(shop, tmp_path, **wrong)))


def test_models_of_another_list_of_features_are_refused(shop: TinyShop, tmp_path: Path) -> None:
    bundle = shop.bundle("retriever@t2")
    schema = Schema.load(bundle / "encoder" / "schema.json")
    first = schema.features[0]
    changed = Feature(
        **{**{name: getattr(first, name) for name in first.__dataclass_fields__}, "buckets": 999}
    )
    other = Schema(schema.service, (changed, *schema.features[1:]))
    foreign = copied(bundle, tmp_path / "foreign", fingerprint=other.fingerprint)
    write_json(foreign / "encoder" / "schema.json", other.to_json())
    write_manifest(foreign, "retriever", {**read_json(foreign / MANIFEST)["about"]})

    with pytest.raises(SchemaMismatch, match=rf"\['{first.name}'\] differ"):
        export(ExportConfig.parse(settings(shop, tmp_path / "out", retriever=str(foreign))))

    assert list((tmp_path / "out").iterdir()) == []


def test_the_digest_follows_names_and_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = content_digest(tmp_path)
    (tmp_path / "a").write_text("2")
    second = content_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")

    assert len({first, second, content_digest(tmp_path)}) == 3


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["retriever=a", "cutoff=t2"], "A release needs a ranker"),
        (["retriever=a", "ranker=b"], r"missing: \['cutoff'\]"),
        (["retriever=a", "ranker=b", "cutoff=t2", "colour=red"], r"unknown: \['colour'\]"),
        (["retriever"], "'retriever' is not a setting"),
        (["retriever=a", "ranker=b", "ranker.a/b=c", "cutoff=t2"], "ranker.a/b: a name is"),
    ],
)
def test_settings_that_do_not_hold_are_refused(given: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ExportConfig.parse(given)


def test_the_command_prints_the_folder_and_then_the_link(
    shop: TinyShop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(settings(shop, tmp_path)) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder.parent == tmp_path

    assert main(["--publish", str(folder)]) == 0
    assert Path(capsys.readouterr().out.strip()) == tmp_path / "current"


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cutoff=t2"]) == 2
    assert "Settings are retriever=DIR ranker=DIR" in capsys.readouterr().err
