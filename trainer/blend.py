"""``python -m trainer model=blend``: candidate models as one source, by weights that are learned.

The weights maximise the likelihood of what users bought after the cut-off, listwise, over the
candidates of all models (Cao et al., "Learning to Rank: From Pairwise Approach to Listwise
Approach", 2007): on one half of the users, the other half judges. Shapes: N candidates of all
users, P parts of the blend's sum.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.errors import ArtifactError, ConfigError
from retrieval.index import ItemIndex
from retrieval.sources import AnnSource, BlendSource, Source
from retrieval.sources.base import load_arrays
from trainer import fitted, two_tower
from trainer.config import RunConfig
from trainer.distributed import Process
from trainer.judge import Judged, judge_source
from trainer.runs import Run
from trainer.sets import judged_users
from trainer.source_config import BlendConfig

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

FILE = "blend.json"
"""In the run's folder: names, weights and depth."""
CHUNK = 512
"""Users whose candidates are found at once."""


@dataclass
class Members:
    """The blended models, over the same vocabularies."""

    encoder: Encoder
    sources: list[Source] = field(default_factory=list)
    towers: Path | None = None
    """Folder of the two-tower model among them."""

    @staticmethod
    def load(runs: dict[str, str], cutoff: str) -> Members:
        """Read finished runs by the names that they are blended under.

        Raises:
            ArtifactError: a run is not finished.
            ConfigError: runs do not fit each other, or two are two-tower models.
        """
        found: Members | None = None
        for name, run in runs.items():
            source, encoder, towers = _member(name, Path(run), cutoff)
            found = found or Members(encoder)
            if not encoder.items.ids.equals(found.encoder.items.ids):
                raise ConfigError(
                    f"The run {run} names other items than {next(iter(runs.values()))}: train both "
                    "on the same set, with the same model.min_buyers."
                )
            if towers is not None and found.towers is not None:
                raise ConfigError(f"{run} is a second two-tower model; a blend takes one.")
            found.sources.append(source)
            found.towers = towers or found.towers
        assert found is not None
        return found

    def judged(self, rows: pa.Table, half_life_days: float) -> tuple[Judged, Floats | None]:
        """Users and what they bought later, with the vectors of the two-tower model."""
        vectors = None
        if self.towers is not None:
            towers_encoder = Encoder.load(self.towers / "encoder")
            vectors = two_tower.user_vectors(self.towers, towers_encoder, rows, half_life_days)
        return Judged.of(rows, self.encoder, vectors), vectors


def _member(name: str, run: Path, cutoff: str) -> tuple[Source, Encoder, Path | None]:
    if not (run / "result.json").exists():
        raise ArtifactError(f"{run} is not a finished run of a candidate model.")
    trained = read_json(run / "run.json")["cutoff"]
    if trained != cutoff:
        raise ConfigError(f"{run} was trained before {trained}; the blend's cut-off is {cutoff}.")
    towers = run / two_tower.FOLDER
    if (towers / "towers.json").exists():
        vectors = load_arrays(towers, "item_vectors")["item_vectors"]
        source = AnnSource(ItemIndex.exact(vectors), vectors, new_only=True, name=name)
        return source, Encoder.load(towers / "encoder"), towers
    return *fitted.load_fitted(run, name), None


def train(config: RunConfig, model: BlendConfig, process: Process) -> Path:
    """Learn or take over the weights, judge, and return the run's folder."""
    dataset = config.dataset()
    cutoff = dataset.edge(config.cutoff).isoformat()
    inputs = {name: Path(run).name for name, run in model.runs.items()}
    run = Run.open(config, inputs, process)
    if run.result is not None:
        log.info("%s is finished already: %s", run.folder, run.result)
        return run.folder
    if process.is_first:
        members = Members.load(model.runs, cutoff)
        rows = judged_users(dataset, config.cutoff)
        run.finish(_blend(config, model, members, rows, run.folder))
    process.barrier()
    return run.folder


def _blend(
    config: RunConfig, model: BlendConfig, members: Members, rows: pa.Table, folder: Path
) -> dict[str, float]:
    half_life_days = config.dataset().half_life_days
    if model.weights is not None:
        weights, judged = weights_of(Path(model.weights), list(model.runs)), rows
    else:
        halves = _halves(len(rows), config.seed)
        weights = learn(members, rows.take(halves[0][: model.users]), model, half_life_days)
        judged = rows.take(halves[1])
    blend = BlendSource("blend", tuple(members.sources), weights, model.depth)
    log.info("Weights: %s", blend.about["weights"])
    write_json(folder / FILE, blend.about)
    if not config.validate:
        return {}
    _, vectors = members.judged(judged, half_life_days)
    return judge_source(blend, judged, members.encoder, vectors=vectors)


def _halves(num_users: int, seed: int) -> tuple[Ints, Ints]:
    order = np.random.default_rng(seed).permutation(num_users)
    return order[: num_users // 2], np.sort(order[num_users // 2 :])


def weights_of(run: Path, names: list[str]) -> Floats:
    """The weights that an earlier blend of the same models learned.

    Raises:
        ArtifactError: the run is not finished.
        ConfigError: it blended others.
    """
    about = read_json(run / FILE)
    if about["sources"] != names:
        raise ConfigError(f"{run} blended {about['sources']}; expected {names}, in that order.")
    return np.array(about["weights"], dtype=np.float32)


def learn(members: Members, rows: pa.Table, model: BlendConfig, half_life_days: float) -> Floats:
    """[P] weights under which the purchases of these users are most likely."""
    size = 2 * len(members.sources)
    blend = BlendSource("blend", tuple(members.sources), np.zeros(size, np.float32), model.depth)
    parts, labels, sizes = [], [], []
    for start in range(0, len(rows), CHUNK):
        judged, _ = members.judged(rows.slice(start, CHUNK), half_life_days)
        offsets, items = blend.candidates(judged.users)
        parts.append(blend.parts(judged.users, offsets, items))
        labels.append(_labels(offsets, items, judged.relevant))
        sizes.append(np.diff(offsets))
    return fit_listwise(
        np.concatenate(parts), np.concatenate(labels), np.concatenate(sizes), model.l2
    )


def _labels(offsets: Ints, items: Ints, relevant: list[Ints]) -> npt.NDArray[np.bool_]:
    lists = [
        np.isin(items[start:stop], mine)
        for start, stop, mine in zip(offsets[:-1], offsets[1:], relevant, strict=True)
    ]
    return np.concatenate(lists)


def fit_listwise(
    parts_NP: Floats, labels_N: npt.NDArray[np.bool_], sizes_B: Ints, l2: float
) -> Floats:
    """[P] weights of the largest likelihood: softmax over each user's candidates.

    Args:
        parts_NP: of the candidates, user by user.
        labels_N: which of them were bought.
        sizes_B: candidates of each user.
        l2: times the squared weights, against the mean over users.
    """
    owner = torch.from_numpy(np.repeat(np.arange(len(sizes_B)), sizes_B))
    parts, labels = torch.from_numpy(parts_NP), torch.from_numpy(labels_N)
    bought = torch.bincount(owner[labels], minlength=len(sizes_B)).clamp_min(1).float()
    share = 1.0 / bought[owner[labels]] / max(len(sizes_B), 1)
    weights = torch.zeros(parts.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = parts @ weights
        largest = torch.full((len(sizes_B),), -torch.inf)
        largest = largest.scatter_reduce(0, owner, scores.detach(), "amax")
        sums = torch.zeros(len(sizes_B)).index_add(0, owner, (scores - largest[owner]).exp())
        total = (largest + sums.clamp_min(1e-30).log())[owner[labels]]
        found = ((total - scores[labels]) * share).sum() + l2 * weights.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    return weights.detach().numpy()
