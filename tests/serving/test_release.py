from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feature_repo.contract.artifacts import (
    MANIFEST,
    read_json,
    read_table,
    write_json,
    write_manifest,
    write_table,
)
from feature_repo.contract.errors import ArtifactError
from serving.release import Release
from tests.serving.shop import NAME, TinyShop
from trainer.export import ExportConfig, export


@pytest.fixture
def copied(shop: TinyShop, tmp_path: Path) -> Path:
    """Return a copy of the release that may be damaged."""
    return Path(shutil.copytree((shop.releases / "current").resolve(), tmp_path / "release"))


def sign(folder: Path, **changes: Any) -> None:
    """Write a manifest that fits the files as they are now."""
    about = {**read_json(folder / MANIFEST)["about"], **changes}
    write_manifest(folder, "release", about)


def test_a_release_says_what_it_is(release: Release, shop: TinyShop) -> None:
    about = release.about

    assert about.version == release.folder.name
    assert about.version.startswith("tiny_shop-2020-06-20-")
    assert about.dataset == about.project == "tiny_shop"
    assert about.cutoff == about.as_of == shop.dataset.edge("t2")
    assert set(about.fingerprints) == {"release", "retriever", "rankers/default"}


def test_a_copied_release_loads_elsewhere(copied: Path, release: Release) -> None:
    assert Release.load(copied).about == release.about


@pytest.mark.parametrize(
    "name",
    [
        "items.parquet",
        "retriever/item_vectors.npy",
        "rankers/default/members/0/network.safetensors",
    ],
)
def test_a_changed_file_is_refused(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[-1] ^= 1
    (copied / name).write_bytes(bytes(content))

    with pytest.raises(ArtifactError, match="does not match its hash"):
        Release.load(copied)


def test_another_score_than_at_export_is_refused(copied: Path) -> None:
    path = copied / "golden" / "lists.parquet"
    lists = read_table(path)
    scores = pc.add(lists["score"], pa.scalar(0.5, pa.float32()))
    place = lists.column_names.index("score")
    write_table(path, lists.set_column(place, "score", scores))
    sign(copied)

    with pytest.raises(ArtifactError, match=r"does not answer as it did.*place 1 scores"):
        Release.load(copied)


def test_other_models_behind_the_same_golden_rows_are_refused(copied: Path) -> None:
    path = copied / "golden" / "users.parquet"
    users = read_table(path)
    order = pa.array([*range(1, len(users)), 0])
    write_table(path, users.take(order))
    sign(copied)

    with pytest.raises(ArtifactError, match="does not answer as it did when it was exported"):
        Release.load(copied)


def test_a_release_without_golden_rows_is_refused(copied: Path) -> None:
    path = copied / "golden" / "users.parquet"
    write_table(path, read_table(path).slice(0, 0))
    sign(copied)

    with pytest.raises(ArtifactError, match="holds no golden rows"):
        Release.load(copied)


def test_a_manifest_that_lacks_a_part_is_refused(copied: Path) -> None:
    manifest = read_json(copied / MANIFEST)
    del manifest["about"]["clock"]
    write_json(copied / MANIFEST, manifest)

    with pytest.raises(ArtifactError, match=r"does not describe a release \(KeyError\('clock'\)"):
        Release.load(copied)


def test_a_missing_release_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"There is no release at .*Run `make quickstart`"):
        Release.load(tmp_path / "current")


def test_a_wall_clock_moves(copied: Path) -> None:
    sign(copied, clock="wall")

    about = Release.load(copied).about

    assert about.now() > about.as_of


def test_new_items_are_asked_of_the_ranker_named_discover(
    shop: TinyShop, release: Release, tmp_path: Path
) -> None:
    bundle = shop.bundle("ranker")
    parts = [f"retriever={shop.bundle('retriever@t2')}", f"ranker={bundle}"]
    parts += [f"ranker.discover={bundle}", "cutoff=t2", f"data={NAME}", f"data.root={shop.root}"]
    both = Release.load(export(ExportConfig.parse([*parts, f"out={tmp_path}"])))

    assert both.ranker_for(exclude_seen=True) == "discover"
    assert both.ranker_for(exclude_seen=False) == "default"
    assert release.ranker_for(exclude_seen=True) == "default"
