"""Another model's best items as further targets of a session: what a user may like and never met.

Tang and Wang, "Ranking Distillation: Learning Compact Ranking Models With High Performance for
Recommender System" (2018). Own purchases alone teach towers to repeat a history; a model in closed
form that ranks new items well (``model=graph_filter``) shows them where else it leads, and the
towers keep what the index can search.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.columns import column_of
from feature_repo.contract.encoding import Bag, Encoder, query_times_s
from feature_repo.contract.errors import ArtifactError, ConfigError
from feature_repo.contract.vocabulary import Vocabulary
from retrieval.sources import Source, UserBatch
from trainer.fitted import load_fitted
from trainer.judge import histories_of
from trainer.model_config import TeacherConfig

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

CHUNK = 4096
"""Sessions whose lists are made at once."""


@dataclass(frozen=True)
class Teacher:
    """A finished run's source, telling in another model's item rows."""

    source: Source
    encoder: Encoder
    """Of the source."""
    row_of: Ints
    """[R] the other model's row of each of the source's item rows; 0 where it has none."""
    config: TeacherConfig

    @staticmethod
    def load(config: TeacherConfig, items: Vocabulary, cutoff: str) -> Teacher | None:
        """Read the run; None where the settings name none.

        Args:
            config: the run and how much it teaches.
            items: of the model that is taught.
            cutoff: ISO 8601, before which that model is trained.

        Raises:
            ArtifactError: the run is not a finished one of a fitted model.
            ConfigError: it was fitted before another cut-off.
        """
        if config.run is None:
            return None
        run = Path(config.run)
        if not (run / "result.json").exists() or not (run / "source").is_dir():
            raise ArtifactError(
                f"model.teacher.run={run} is not a finished run of a model that is fitted, such as "
                "model=graph_filter."
            )
        fitted = read_json(run / "run.json")["cutoff"]
        if fitted != cutoff:
            raise ConfigError(
                f"model.teacher.run={run} was fitted before {fitted}; the cut-off is {cutoff}."
            )
        source, encoder = load_fitted(run)
        row_of = np.concatenate([np.zeros(1, np.int64), items.rows(encoder.items.ids)])
        return Teacher(source, encoder, row_of, config)

    def taught(self, rows: pa.Table) -> Bag:
        """The best new items of B sessions, weighted by what the source thinks of them.

        Args:
            rows: ``user_id``, ``event_timestamp`` and whole histories.

        Returns:
            known item rows, at most ``config.items`` a session; their weights sum to one, and fall
            by ``exp((s - best) / |best| / temperature)`` with the score s.
        """
        parts = [
            self._taught(rows.slice(start, CHUNK)) for start in range(0, max(len(rows), 1), CHUNK)
        ]
        sizes = np.concatenate([size for _, _, size in parts])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        values = np.concatenate([value for value, _, _ in parts])
        return Bag(values, offsets, np.concatenate([weight for _, weight, _ in parts]))

    def _taught(self, rows: pa.Table) -> tuple[Ints, Floats, Ints]:
        users = UserBatch(
            histories_of(rows, self.encoder),
            query_times_s(rows),
            user_row=self.encoder.users.rows(column_of(rows, "user_id")),
            features=rows,
        )
        top = self.source.top(users, self.config.items)
        taught = self.row_of[top.item_row]
        known = taught > 0
        scores = np.where(known, top.score, -np.inf)
        best = np.where(known.any(axis=1), scores.max(axis=1, initial=-np.inf), 1.0)[:, None]
        falls = (scores - best) / np.maximum(np.abs(best), 1e-12)
        weights = np.exp(falls / self.config.temperature)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
        return taught[known], weights[known].astype(np.float32), known.sum(axis=1)
