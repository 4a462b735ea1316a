"""``/recommend/``, ``/recommend/batch``, ``/rank/`` and ``/similar/``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute

from serving.answers import BatchAnswer, Recommendation
from serving.ids import parse_id, within
from serving.problems import RESPONSES
from serving.query import MAX_ITEMS
from serving.query import Query as ListQuery
from serving.requests import BatchRequest, RankRequest, RecommendRequest
from serving.routes.bodies import Reader, Writer
from serving.routes.paths import ItemPath
from serving.server import Server

RECOMMEND = "/recommend/"


def list_routes(server: Server) -> APIRouter:
    """The routes that answer with lists."""
    router = APIRouter(tags=["recommendations"], responses=RESPONSES)

    def checked(request: RecommendRequest | RankRequest) -> ListQuery:
        looked_at = server.session_items(request.session_id, request.user_id)
        return server.checked(request.query(looked_at))

    asked, written = Reader(RecommendRequest), Writer(Recommendation)

    @router.post(RECOMMEND, response_model=Recommendation, openapi_extra=asked.description)
    async def recommend(request: Request) -> Response:
        """The best items for one user; popular items where nothing is known of the user."""
        return written.response(await server.recommend(checked(await asked.read(request))))

    @router.post("/recommend/batch")
    async def recommend_many(batch: BatchRequest) -> BatchAnswer:
        """Lists for several requests at once, in less time than one after another."""
        queries = []
        for place, request in enumerate(batch.requests):
            with within(f"requests.{place}"):
                queries.append(checked(request))
        return BatchAnswer(await server.answer(queries))

    @router.post("/rank/")
    async def rank(request: RankRequest) -> Recommendation:
        """Given items in the order of the user's interest."""
        return await server.rank(checked(request))

    @router.get("/similar/{item_id:path}")
    async def similar(
        item_id: ItemPath,
        n: Annotated[int, Query(ge=1, le=MAX_ITEMS, description="Length of the list.")] = 10,
    ) -> Recommendation:
        """The items that are nearest to one; popular ones where nothing is known of it."""
        recommender = server.live.get()
        found = parse_id(item_id, recommender.release.about.item_id, "item_id")
        return await server.answering.run(partial(recommender.similar, found, n))

    return router


def recommend_route(router: APIRouter) -> APIRoute:
    """The route of one user's list, of ``list_routes``."""
    found = (route for route in router.routes if isinstance(route, APIRoute))
    return next(route for route in found if route.path == RECOMMEND)
