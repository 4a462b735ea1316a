"""A trained ranker, read from its bundle, that scores candidates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from feature_repo.contract.artifacts import read_json, read_manifest, write_json
from feature_repo.contract.candidates import Candidates
from feature_repo.contract.encoding import query_times_s
from feature_repo.contract.errors import ArtifactError, BadInput, ConfigError
from feature_repo.contract.schema import Entity
from feature_repo.contract.tables import Tables
from feature_repo.contract.vocabulary import Vocabulary
from ranking.features import Requests
from ranking.inputs import InputEncoder, Inputs, Side, side_inputs
from ranking.items import ItemSide
from ranking.wide_deep import SideInputs, WideDeep, WideDeepConfig, Widths

KIND = "ranker"
CHUNK = 65_536
"""Candidates that go through the network at once."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """The items' part of the network, for candidates named in ``vocabulary``."""

    vocabulary: Vocabulary
    side: ItemSide
    items: Side
    hidden_IH: Tensor


class Scorer:
    """Scores the candidates of requests, by the inputs and the network of the training.

    ``inputs``, ``config``, ``model``, ``tables`` and ``rows``, those of the items, are what it was
    made of.
    """

    def __init__(
        self,
        inputs: InputEncoder,
        config: WideDeepConfig,
        model: WideDeep,
        tables: Tables,
        items: pa.Table,
    ) -> None:
        self.inputs = inputs
        self.config = config
        self.model = model.eval()
        self.tables = tables
        self.rows = items
        self._prepared: Prepared | None = None

    @staticmethod
    def load(folder: Path, items: pa.Table) -> Scorer:
        """Read a ranker bundle.

        Args:
            folder: the bundle.
            items: rows of the items that may be scored, with the ranker's item features and the
                time as of which they hold (``event_timestamp``).

        Raises:
            ArtifactError: a part is missing, changed, or not of this ranker.
        """
        about = read_manifest(folder, KIND)
        config, widths = _read_shape(folder)
        model = WideDeep(config, widths)
        _read_weights(model, folder / "ranker.safetensors")
        sources, half_life_days = tuple(about["sources"]), float(about["half_life_days"])
        inputs = InputEncoder.load(folder, config, sources, half_life_days)
        return Scorer(inputs, config, model, Tables.load(folder / "tables"), items)

    def prepare(self, item_vocabulary: Vocabulary) -> Prepared:
        """The items' part of the network, for candidates named in a vocabulary: computed once.

        ``score`` does it at its first call; a server does it before it takes requests.
        """
        if self._prepared is not None and self._prepared.vocabulary is item_vocabulary:
            return self._prepared
        side = ItemSide.of(self.rows, item_vocabulary, self.inputs.encoder)
        items = self.inputs.items(side)
        with torch.inference_mode():
            hidden = self.model.items(self.inputs_of(items, Entity.ITEM))
        self._prepared = Prepared(item_vocabulary, side, items, hidden)
        return self._prepared

    def score(
        self,
        user_rows: pa.Table,
        candidates: Candidates,
        item_vocabulary: Vocabulary,
        now_s: Ints | None = None,
    ) -> Floats:
        """[N] scores aligned with ``candidates.item_row``: higher is better within a request.

        Args:
            user_rows: B rows of the ranker's user features, one a request.
            candidates: of those requests, from the sources that the ranker was trained on.
            item_vocabulary: the one that candidates are named in.
            now_s: [B] epoch seconds; by default the rows' ``event_timestamp``.

        Raises:
            BadInput: the candidates are of other sources or requests, or a feature is missing.
        """
        _require_matching(user_rows, candidates, self.inputs.sources)
        now = query_times_s(user_rows) if now_s is None else now_s
        prepared = self.prepare(item_vocabulary)
        encoder, days = self.inputs.encoder, self.inputs.half_life_days
        requests = Requests.of(user_rows, candidates, now, prepared.side, encoder.schema, days)
        return self._run(self.inputs.encode(user_rows, requests), prepared)

    def _run(self, inputs: Inputs, prepared: Prepared) -> Floats:
        scores = [torch.zeros(0)]
        with torch.inference_mode():
            users = self.model.users(self.inputs_of(inputs.users, Entity.USER))
            for part in _parts(len(inputs.user_of)):
                pairs = self.inputs.pair_inputs(
                    inputs.users,
                    prepared.items,
                    inputs.user_of[part],
                    inputs.item_of[part],
                    inputs.columns.take(part),
                )
                scores.append(self.model(users, prepared.hidden_IH, pairs))
        return torch.cat(scores).numpy()

    def inputs_of(self, side: Side, entity: Entity) -> SideInputs:
        """What the network reads of users or items, with the pooled rows of their tables."""
        keys = self.inputs.keys(entity, self.config.without)
        bags = side.encoded.bags
        pooled = {key: torch.from_numpy(self.tables.pooled(key, bags[key])) for key in keys}
        return side_inputs(side, pooled, keys)


def _parts(size: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, size, CHUNK))


def _require_matching(
    user_rows: pa.Table, candidates: Candidates, sources: tuple[str, ...]
) -> None:
    if candidates.sources != sources:
        raise BadInput(
            f"The candidates come from {list(candidates.sources)}, but the ranker was trained on "
            f"{list(sources)}; export both from one run."
        )
    if len(user_rows) != len(candidates):
        raise BadInput(f"There are {len(user_rows)} user rows for {len(candidates)} requests.")


def write_network(
    folder: Path, inputs: InputEncoder, config: WideDeepConfig, widths: Widths, model: WideDeep
) -> None:
    """Write everything of a ranker bundle but its tables and its manifest."""
    inputs.save(folder)
    write_json(folder / "ranker.json", {"config": asdict(config), "widths": widths._asdict()})
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    save_file(weights, folder / "ranker.safetensors")


def _read_shape(folder: Path) -> tuple[WideDeepConfig, Widths]:
    saved = read_json(folder / "ranker.json")
    try:
        return WideDeepConfig(**saved["config"]), Widths(**saved["widths"])
    except (KeyError, TypeError, ConfigError) as error:
        raise ArtifactError(f"{folder / 'ranker.json'} is not of this version: {error}") from error


def _read_weights(model: WideDeep, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{path} does not hold this ranker's weights: {error}") from error
