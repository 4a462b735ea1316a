"""A trained ranker, read from its bundle, that scores candidates.

A ranker has one or more members: networks of one kind, trained from different seeds on the same
inputs, whose logits are averaged. B requests, I items, N candidates, H width of the projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from feature_repo.contract.columns import AnyRows
from feature_repo.contract.encoding import query_times_s
from feature_repo.contract.errors import ArtifactError, BadInput, ConfigError
from feature_repo.contract.schema import Entity
from feature_repo.contract.tables import Tables
from feature_repo.contract.vocabulary import Vocabulary
from ranking.calibration import Calibration, load_calibration
from ranking.features import Requests, numeric_matrix
from ranking.inputs import InputEncoder, Side, side_inputs
from ranking.items import ItemSide
from ranking.network import (
    NetworkConfig,
    RankerNetwork,
    SideInputs,
    Widths,
    with_one_head,
)
from ranking.projection import Projection
from ranking.rankers import make_network, shape_json, shape_of

KIND = "ranker"
SHAPE, CALIBRATION = "ranker.json", "calibration.json"
"""Files of a bundle; not every one has the second."""
WEIGHTS = "network.safetensors"
"""File of a member."""
CHUNK = 65_536
"""Candidates that go through the network at once."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Member:
    """One network with its tables."""

    network: RankerNetwork
    tables: Tables

    def inputs_of(self, side: Side, keys: Sequence[str]) -> SideInputs:
        """What the network reads of users or items: the pooled rows of ``keys`` too."""
        bags = side.encoded.bags
        pooled = {key: torch.from_numpy(self.tables.pooled(key, bags[key])) for key in keys}
        return side_inputs(side, pooled, keys)


@dataclass(frozen=True)
class Prepared:
    """The items' part of the networks, for candidates named in ``vocabulary``."""

    vocabulary: Vocabulary
    side: ItemSide
    items: Side
    hidden_IH: tuple[Tensor, ...]
    """Of each member."""


class Scorer:
    """Scores the candidates of requests, by the inputs and the networks of the training.

    ``inputs``, ``config``, ``members``, ``rows``, those of the items, and ``calibration``, if there
    is one, are what it was made of.
    """

    def __init__(
        self,
        inputs: InputEncoder,
        config: NetworkConfig,
        members: Sequence[Member],
        items: pa.Table,
        calibration: Calibration | None = None,
    ) -> None:
        self.inputs = inputs
        self.config = config
        self.members = tuple(members)
        self.rows = items
        self.calibration = calibration
        self._prepared: Prepared | None = None
        num_columns = len(inputs.numeric[Entity.PAIR].names)
        self._projections = [Projection.of(each.network, num_columns) for each in self.members]
        for member in self.members:
            member.network.eval()

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
        config, widths, num_members = _read_shape(folder / SHAPE)
        sources, half_life_days = tuple(about["sources"]), float(about["half_life_days"])
        inputs = InputEncoder.load(folder, config, sources, half_life_days)
        folders = [member_folder(folder, index) for index in range(num_members)]
        members = [_read_member(each, make_network(config, widths)) for each in folders]
        path = folder / CALIBRATION
        calibration = load_calibration(path) if path.exists() else None
        return Scorer(inputs, config, members, items, calibration)

    def prepare(self, item_vocabulary: Vocabulary) -> Prepared:
        """The items' part of the networks, for candidates named in a vocabulary: computed once.

        ``score`` does it at its first call; a server does it before it takes requests.
        """
        if self._prepared is not None and self._prepared.vocabulary is item_vocabulary:
            return self._prepared
        side = ItemSide.of(self.rows, item_vocabulary, self.inputs.encoder)
        items = self.inputs.items(side)
        with torch.inference_mode():
            hidden = tuple(
                member.network.items(self.inputs_of(member, items, Entity.ITEM))
                for member in self.members
            )
        self._prepared = Prepared(item_vocabulary, side, items, hidden)
        return self._prepared

    def score(
        self,
        user_rows: AnyRows,
        candidates: Candidates,
        item_vocabulary: Vocabulary,
        now_s: Ints | None = None,
    ) -> Floats:
        """[N] logits aligned with ``candidates.item_row``: higher is better within a request.

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
        users = self.inputs.users(user_rows, requests)
        return self._run(users, requests, prepared)

    def probabilities(self, scores_N: Floats) -> npt.NDArray[np.float64]:
        """[N] probabilities that candidates with these scores are bought, within the time of a
        label window; they order candidates as the scores do.

        Raises:
            BadInput: the ranker was trained without a calibration.
        """
        if self.calibration is None:
            raise BadInput(
                "The ranker has no probabilities: train it with model.calibration.method=platt or "
                "isotonic."
            )
        return self.calibration.probabilities(scores_N)

    @torch.inference_mode()
    def _run(self, users: Side, requests: Requests, prepared: Prepared) -> Floats:
        codes_FN, scores_FN = self.inputs.numeric[Entity.PAIR].encode_columns(
            numeric_matrix(requests).T
        )
        parts_BH = [
            member.network.users(self.inputs_of(member, users, Entity.USER))
            for member in self.members
        ]
        found = np.empty(len(requests.item_of), np.float32)
        for part in _parts(len(found)):
            rows = requests.user_of[part], requests.item_of[part]
            codes, scores = codes_FN[:, part], scores_FN[:, part]
            wide = torch.from_numpy(self.inputs.wide_rows(users, prepared.items, *rows, codes))
            logits = [
                member.network.logits(project(users_BH, items_IH, rows, codes, scores), wide)[:, 0]
                for member, project, users_BH, items_IH in zip(
                    self.members, self._projections, parts_BH, prepared.hidden_IH, strict=True
                )
            ]
            found[part] = torch.stack(logits).mean(dim=0).numpy()
        return found

    def inputs_of(self, member: Member, side: Side, entity: Entity) -> SideInputs:
        """What a member reads of users or items."""
        return member.inputs_of(side, self.inputs.keys(entity, self.config.without))


def _parts(size: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, size, CHUNK))


def _require_matching(user_rows: AnyRows, candidates: Candidates, sources: tuple[str, ...]) -> None:
    if candidates.sources != sources:
        raise BadInput(
            f"The candidates come from {list(candidates.sources)}, but the ranker was trained on "
            f"{list(sources)}; export both from one run."
        )
    if len(user_rows) != len(candidates):
        raise BadInput(f"There are {len(user_rows)} user rows for {len(candidates)} requests.")


def write_ranker(
    folder: Path, inputs: InputEncoder, config: NetworkConfig, widths: Widths, num_members: int = 1
) -> None:
    """Write everything of a ranker bundle but its members and its manifest."""
    inputs.save(folder)
    write_json(folder / SHAPE, {**shape_json(config, widths), "members": num_members})


def write_network(folder: Path, network: RankerNetwork, weights: Sequence[float] = (1.0,)) -> None:
    """Write a member but for its tables into ``folder``; see ``member_folder``.

    Args:
        folder: is made.
        network: a network of T heads.
        weights: of their logits in the score.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = with_one_head(network, weights)
    save_file({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS)


def member_folder(folder: Path, index: int) -> Path:
    """Where a bundle has a member: its network and its folder ``tables``."""
    return folder / "members" / str(index)


def _read_shape(path: Path) -> tuple[NetworkConfig, Widths, int]:
    saved = read_json(path)
    try:
        return *shape_of(saved), int(saved["members"])
    except (KeyError, ConfigError) as error:
        raise ArtifactError(f"{path} is not of this version: {error} Train it again.") from error


def _read_member(folder: Path, network: RankerNetwork) -> Member:
    path = folder / WEIGHTS
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{path} does not hold this ranker's weights: {error}") from error
    return Member(network, Tables.load(folder / "tables"))
