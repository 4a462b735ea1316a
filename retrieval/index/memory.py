"""An exact index in memory, for what is too small or too short-lived for files."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.index.built import Built
from retrieval.index.config import Kind
from retrieval.index.files import flat_view


def exact_index(item_vectors: npt.NDArray[Any]) -> Built:
    """Over the rows from 1 of [R, V]; row 0, the unknown item, is left out."""
    vectors = np.ascontiguousarray(item_vectors[1:], dtype=np.float32)
    return Built(flat_view(vectors), Kind.flat, None, kept=vectors)
