"""Job ``clear-online``: remove one data set's features from the online store.

Feast never lets an older row replace a newer one, which is right for a live shop. Going back to
an earlier cut-off of historical data needs the newer rows removed first.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator

from redis import Redis
from redis.exceptions import RedisClusterException, RedisError

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.embedded import connect
from feature_repo.contract.errors import StoreUnavailable

log = logging.getLogger(__name__)

BATCH = 1_000


def clear_online(dataset: Dataset, client: Redis | None = None) -> int:
    """Delete every key of the data set's project; return how many there were.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    store = client or connect(timeout_s=30.0)
    removed = 0
    try:
        for keys in _batches(store, dataset.name.encode()):
            removed += len(keys)
            store.unlink(*keys)
    except (RedisError, RedisClusterException, OSError) as error:
        raise StoreUnavailable(
            f"The online store went away after {removed} keys were removed ({error}); "
            "run the same command again."
        ) from error
    log.info("Removed %d entities of %s from the online store.", removed, dataset.name)
    return removed


def _batches(store: Redis, project: bytes) -> Iterator[list[bytes]]:
    keys: list[bytes] = []
    for key in store.scan_iter(match=b"*" + project, count=BATCH):
        if project_of(key) == project:
            keys.append(key)
        if len(keys) >= BATCH:
            yield keys
            keys = []
    if keys:
        yield keys


def project_of(key: bytes) -> bytes | None:
    """The project at the end of a key of Feast's Redis store; None for any other key."""
    try:
        (num_keys,) = struct.unpack_from("<I", key, 0)
        place = 4
        for _ in range(2 * num_keys):  # join keys, then their values: type, length, bytes
            (length,) = struct.unpack_from("<I", key, place + 4)
            place += 8 + length
    except struct.error:
        return None
    return key[place:] if num_keys and place <= len(key) else None
