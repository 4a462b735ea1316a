"""Feast's Redis store, with the connection taken from ``REDIS_URL`` or the embedded server.

The one module of the contract that imports Feast; ``feature_store.yaml`` names its class.
"""

from __future__ import annotations

from typing import Any, Literal

from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig

from feature_repo.contract.embedded import feast_connection_string, online_url

TYPE = "feature_repo.contract.feast_online.ShopRedisOnlineStore"


class ShopRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """Settings of Feast's Redis store; the connection is found when it is first needed."""

    type: Literal["feature_repo.contract.feast_online.ShopRedisOnlineStore"] = TYPE  # type: ignore[assignment]
    connection_string: str = ""
    full_scan_for_deletion: bool | None = False


class ShopRedisOnlineStore(RedisOnlineStore):
    """Feast's Redis store on the online store in use: same keys, same bytes."""

    def _get_client(self, online_store_config: Any) -> Any:
        if self._client is None and not online_store_config.connection_string:
            text = feast_connection_string(online_url())
            online_store_config = online_store_config.model_copy(update={"connection_string": text})
        return super()._get_client(online_store_config)
