"""The plain way to serve the same models, which ``benchmarks.serving`` compares with.

What a first version looks like: Feast's SDK reads the user's features and the candidates', the
towers and the ranker's network run once a request in torch, candidates are the nearest items of a
flat index, and pydantic checks the answer. One request is answered after the other in a thread.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from feature_repo.contract.candidates import Candidates
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.online import arrow_type
from feature_repo.contract.schema import Entity
from feature_repo.contract.vocabulary import Vocabulary
from feature_repo.jobs.feast_repo import open_store
from ranking.features import Requests
from ranking.items import ItemSide
from serving.release import DEFAULT_RANKER, Release

CANDIDATES = 200

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Asked(BaseModel):
    """A request."""

    user_id: int | str
    n: int = 10


class ShownItem(BaseModel):
    """An item of an answer."""

    item_id: int | str
    score: float
    position: int
    title: str | None
    category: str | None
    price: float | None


class Answered(BaseModel):
    """An answer."""

    items: list[ShownItem]
    model_version: str
    degraded: list[str] = []


class PlainRecommender:
    """One request at a time, each step by the library made for it."""

    def __init__(self, release: Release, dataset: Dataset) -> None:
        self._release = release
        self._store = open_store(dataset)
        self._scorer = release.scorers[DEFAULT_RANKER]
        self._features = {
            entity: list(self._scorer.inputs.encoder.schema.of(entity)) for entity in Entity
        }
        vectors = release.retriever.item_vectors
        if vectors is None:
            raise ArtifactError("The release has no item vectors.")
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(np.ascontiguousarray(vectors[1:], dtype=np.float32))

    def recommend(self, asked: Asked) -> Answered:
        """The best items for one user."""
        now = self._release.about.now()
        user = self._read(Entity.USER, [asked.user_id], now)
        retriever, now_s = self._release.retriever, np.array([int(now.timestamp())])
        scores, places = self._index.search(retriever.user_vectors(user, now_s), CANDIDATES)
        rows, order = np.sort(places[0] + 1), np.argsort(places[0])
        candidates = self._candidates(rows, scores[0][order], 1 + order)
        ids = retriever.items.ids_of(rows)
        items = self._read(Entity.ITEM, ids, now)
        logits = self._scored(user, candidates, items, now_s)
        best = np.argsort(-logits)[: asked.n].tolist()
        shown = items.select(["title", "category", "price"]).take(best).to_pylist()
        found = [
            ShownItem(item_id=ids[place], score=float(logits[place]), position=position, **texts)
            for position, (place, texts) in enumerate(zip(best, shown, strict=True), 1)
        ]
        return Answered(items=found, model_version=self._release.about.version)

    def _read(self, entity: Entity, ids: list[Any], now: datetime) -> pa.Table:
        """Features by Feast's SDK."""
        name, features = f"{entity.value}_id", self._features[entity]
        names = [f"{feature.view}:{feature.name}" for feature in features]
        found = self._store.get_online_features(names, [{name: value} for value in ids]).to_dict()
        columns = {f.name: pa.array(found[f.name], arrow_type(f)) for f in features}
        times = pa.array([now] * len(ids), pa.timestamp("us", tz="UTC"))
        return pa.table({name: pa.array(ids), "event_timestamp": times, **columns})

    def _candidates(self, rows: Ints, score: Floats, rank: Ints) -> Candidates:
        """As found by ``ann`` alone."""
        sources = self._scorer.inputs.sources
        column = sources.index("ann")
        scores = np.full((len(rows), len(sources)), np.nan, np.float32)
        ranks = scores.copy()
        scores[:, column], ranks[:, column] = score, rank
        return Candidates(sources, np.array([0, len(rows)]), rows, scores, ranks)

    def _scored(
        self, user: pa.Table, candidates: Candidates, items: pa.Table, now_s: Ints
    ) -> Floats:
        """[N] logits by the network as it was trained."""
        inputs = self._scorer.inputs
        own = Vocabulary.build(
            items.column("item_id").combine_chunks(), self._release.about.item_id
        )
        mine = replace(candidates, item_row=own.rows(items.column("item_id").combine_chunks()))
        side = ItemSide.of(items, own, inputs.encoder)
        requests = Requests.of(
            user, mine, now_s, side, inputs.encoder.schema, inputs.half_life_days
        )
        encoded, rows = inputs.encode(user, requests), inputs.items(side)
        pairs = inputs.pair_inputs(
            encoded.users, rows, encoded.user_of, encoded.item_of, encoded.columns
        )
        logits = []
        with torch.inference_mode():
            for member in self._scorer.members:
                network, read = member.network, self._scorer.inputs_of
                users_BH = network.users(read(member, encoded.users, Entity.USER))
                items_IH = network.items(read(member, rows, Entity.ITEM))
                logits.append(network(users_BH, items_IH, pairs)[:, 0])
        found: Floats = torch.stack(logits).mean(dim=0).numpy()
        return found


def main(arguments: list[str]) -> int:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    recommender = PlainRecommender(
        Release.load(given.release), Dataset.load(given.data / "dataset.json")
    )
    app = FastAPI()

    @app.post("/recommend/")
    def recommend(asked: Asked) -> Answered:
        return recommender.recommend(asked)

    @app.get("/health/ready")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    uvicorn.run(app, port=given.port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
