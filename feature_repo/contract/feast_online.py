"""Feast's Redis store, with the connection taken from ``REDIS_URL`` or the embedded server.

The one module of the contract that imports Feast; ``feature_store.yaml`` names its class.
"""

from __future__ import annotations

from typing import Any, Literal

from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from redis import asyncio as redis_asyncio

from feature_repo.contract.embedded import connect, online_url, split_cluster

TYPE = "feature_repo.contract.feast_online.ShopRedisOnlineStore"
TIMEOUT_S = 60.0
"""For one answer; the store may be busy saving its data."""


class ShopRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """Settings of Feast's Redis store; the connection is found when it is first needed."""

    type: Literal["feature_repo.contract.feast_online.ShopRedisOnlineStore"] = TYPE  # type: ignore[assignment]
    connection_string: str = ""
    full_scan_for_deletion: bool | None = False


class ShopRedisOnlineStore(RedisOnlineStore):
    """Feast's Redis store on the online store in use: same keys, same bytes."""

    def _get_client(self, online_store_config: Any) -> Any:
        if self._client is None and not online_store_config.connection_string:
            self._client = connect(timeout_s=TIMEOUT_S)
        return super()._get_client(online_store_config)

    async def _get_client_async(self, online_store_config: Any) -> Any:
        if self._client_async is None and not online_store_config.connection_string:
            url, is_cluster = split_cluster(online_url())
            kind = redis_asyncio.RedisCluster if is_cluster else redis_asyncio.Redis
            self._client_async = kind.from_url(url, socket_timeout=TIMEOUT_S)
        return await super()._get_client_async(online_store_config)
