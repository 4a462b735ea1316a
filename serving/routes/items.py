"""``/items``: what changed of the catalogue since the release."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

from fastapi import APIRouter

from serving.answers import ItemsChanged
from serving.asked import rows_of
from serving.ids import check_id, parse_id, within
from serving.item_requests import ItemsRequest
from serving.problems import RESPONSES
from serving.routes.paths import ItemPath
from serving.server import Server


def item_routes(server: Server) -> APIRouter:
    """The routes that change items; what they acknowledge is on disk."""
    router = APIRouter(tags=["items"], responses=RESPONSES)

    @router.put("/items")
    async def put_items(request: ItemsRequest) -> ItemsChanged:
        """Change prices, availability and attributes, or add items."""
        recommender = server.live.get()
        id_type, items = recommender.release.about.item_id, []
        for place, record in enumerate(request.items):
            with within(f"items.{place}"):
                items.append((check_id(record.item_id, id_type, "item_id"), record.values()))
        ids = list(dict.fromkeys(item_id for item_id, _ in items))
        known = int((rows_of(recommender.view.vocabulary, ids) > 0).sum())
        await server.writing.run(partial(recommender.items.put, items, datetime.now(UTC)))
        return ItemsChanged(known, len(ids) - known, recommender.index_version)

    @router.delete("/items/{item_id:path}")
    async def remove_item(item_id: ItemPath) -> ItemsChanged:
        """Take an item out of all lists until it is put again."""
        recommender = server.live.get()
        found = parse_id(item_id, recommender.release.about.item_id, "item_id")
        known = int((rows_of(recommender.view.vocabulary, [found]) > 0).sum())
        await server.writing.run(partial(recommender.items.remove, [found], datetime.now(UTC)))
        return ItemsChanged(known, 0, recommender.index_version)

    return router
