"""The routes of the HTTP API over an index, and its web page: in essence, each route is one call of
`Service`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import prometheus_client
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi import Path as PathPart
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

from wingbar import __version__
from wingbar.errors import ImageError, QueryError, StoreError, WingbarError
from wingbar.hamming import codes
from wingbar.index.ranking import CUT, FailedShard
from wingbar.serving.batching import BusyError
from wingbar.serving.collection_map import Map
from wingbar.serving.connections import FILE_COLUMN, NotFoundError, Page, Row
from wingbar.serving.encoder import TooLargeError
from wingbar.serving.logs import in_log
from wingbar.serving.middleware import Access, Metrics, Protection
from wingbar.serving.pictures import Picture
from wingbar.serving.requests import (
    picture_of,
    read_labelled,
    read_queries,
    read_query,
    read_uploads,
    validation_message,
)
from wingbar.serving.schemas import (
    BINARY,
    LARGEST_ID,
    LONGEST_SHORTLIST,
    MOST_CHANGED,
    MOST_FILTERS,
    MOST_HITS,
    MOST_ITEMS,
    MOST_PICTURES,
    PICTURES,
    AddedOut,
    BatchOut,
    ByItem,
    ByItems,
    ChangedOut,
    Filter,
    InfoOut,
    ItemId,
    ItemsOut,
    Labelled,
    MapOut,
    OneItemOut,
    ProblemOut,
    RegionsOut,
    Responses,
    SearchOut,
    SearchParameters,
    StatusOut,
    body,
    form,
    json_of,
    problem,
    problem_record,
    problems,
)
from wingbar.serving.service import Answer, EmptyError, Service
from wingbar.serving.settings import Settings

WEB = Path(__file__).parent / "web"
TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".html": "text/html",
    ".webmanifest": "application/manifest+json",
}
STATUSES: dict[type[WingbarError], int] = {
    NotFoundError: 404,
    EmptyError: 409,
    TooLargeError: 413,
    ImageError: 422,
    QueryError: 422,
    BusyError: 429,
    StoreError: 503,
}
NO_PAGE = (
    "wingbar serves its API here, see /openapi.json. The page is not part of this installation.\n"
)
REFRESH_SECONDS = 0.5  # how often changes by other processes are applied
MANY = 1000  # hits whose JSON is written in a thread, since nothing else runs meanwhile
LABELLED = {"ids": [17, 18], "label": "monarch"}  # an example
CLEAR_EVERY = 1200  # refreshes between two looks for unfinished files: ten minutes
# Error responses by kind of route.
READ = problems(401, 405)
ITEM = problems(401, 404, 405, 422)
SEARCH = problems(401, 403, 404, 405, 408, 409, 413, 415, 422)
CHANGE = problems(401, 403, 405, 408, 413, 415, 422)
Id = Annotated[int, PathPart(ge=1, le=LARGEST_ID, description="an item's id", examples=[17])]
log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """The app that serves one index, which is opened when the app starts."""
    service = Service(settings.index, settings.limits)
    metrics = Metrics(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.start)
        refreshing = asyncio.create_task(_keep_fresh(service))
        yield
        refreshing.cancel()
        await asyncio.to_thread(service.stop)

    app = FastAPI(
        title="wingbar",
        version=__version__,
        summary="Visual search in an index of images.",
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from other servers
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    access = Access(settings, service)
    _add_handlers(app, service)
    _add_searches(app, service, metrics, access, settings)
    _add_items(app, service, access, settings)
    _add_rest(app, service, metrics, access)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(Protection, settings=settings, metrics=metrics)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # as FastAPI documents it
    return app


async def _keep_fresh(service: Service) -> None:
    """Apply what other processes change, so that searches need not, and clear what they left."""
    for turn in count(1):
        await asyncio.sleep(REFRESH_SECONDS)
        try:
            await service.refresh()
            if turn % CLEAR_EVERY == 0:
                await asyncio.to_thread(service.clear_partial)
        except WingbarError as error:
            log.warning("%s", in_log(error))


def status_of(error: Exception) -> int:
    """The status of the answer to an error: that of its class, or of the nearest one above it."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def _add_handlers(app: FastAPI, service: Service) -> None:
    """Answer every error with a problem."""

    async def on_wingbar_error(request: Request, error: Exception) -> Response:
        status = status_of(error)
        if status >= 500:
            log.error("%s %s: %s", *map(in_log, (request.method, request.url.path, error)))
        # paths of folders are never returned
        return problem(status, service.public(str(error)))

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = error.detail
        if error.status_code == 404 and detail == "Not Found":
            detail = f"there is nothing at {request.url.path}: see /openapi.json"
        if error.status_code == 405:
            detail = f"{request.url.path} does not support {request.method}: see /openapi.json"
        return problem(error.status_code, detail, dict(error.headers or {}))

    async def on_validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem(422, validation_message(error.errors()))

    app.add_exception_handler(WingbarError, on_wingbar_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)


# -- routes


def _add_searches(
    app: FastAPI, service: Service, metrics: Metrics, access: Access, settings: Settings
) -> None:
    reads = [Depends(access.read)]
    one = {
        **PICTURES,
        "multipart/form-data": form(several=False),
        "application/json": json_of(ByItem, {"id": 17, "k": 5}),
    }
    several = {
        "multipart/form-data": form(several=True),
        "application/json": json_of(ByItems, {"ids": [17, 18]}),
    }

    @app.post(
        "/api/search",
        dependencies=reads,
        response_model=SearchOut,
        responses=SEARCH,
        openapi_extra=body(one),
    )
    async def search(
        request: Request, parameters: Annotated[SearchParameters, Query()]
    ) -> Response:
        """Find the indexed pictures most similar to a picture, to an item or to a text."""
        asked = await read_query(request, service, parameters)
        answer = await service.search(asked.query, asked.options, asked.like, asked.unlike)
        metrics.count_search(answer.milliseconds)
        paths = [hit.path for hit in answer.found.hits]
        sizes = await service.sizes(paths) if asked.sizes else None
        if len(paths) < MANY:
            return _json(_search_record(answer, service, settings, sizes))
        return await asyncio.to_thread(
            lambda: _json(_search_record(answer, service, settings, sizes))
        )

    @app.post(
        "/api/search/batch",
        dependencies=reads,
        response_model=BatchOut,
        responses=SEARCH,
        openapi_extra=body(several),
    )
    async def search_batch(
        request: Request, parameters: Annotated[SearchParameters, Query()]
    ) -> Response:
        """Search for several pictures or items at once; one that cannot be used gets a problem in
        its place."""
        queries, options = await read_queries(request, parameters)
        start = time.perf_counter()
        answers = await service.search_many(queries, options)
        milliseconds = {"total": round((time.perf_counter() - start) * 1000, 3)}
        for answer in answers:
            if not isinstance(answer, WingbarError):
                metrics.count_search(answer.milliseconds)
        # 64 answers of 1,000 hits take seconds to write: in a thread, and each on its own, since
        # nothing else runs while `json` writes one
        return await asyncio.to_thread(_batch_response, answers, milliseconds, service, settings)

    @app.post(
        "/api/explain",
        dependencies=reads,
        response_class=Response,
        responses={
            **SEARCH,
            200: {
                "content": {"image/png": BINARY},
                "description": "The picture, with where the model looked drawn over it.",
            },
        },
        openapi_extra=body(one),
    )
    async def explain(
        request: Request, parameters: Annotated[SearchParameters, Query()]
    ) -> Response:
        """Show where the model looked in a picture."""
        asked = await read_query(request, service, parameters)
        overlay = await service.pictures.explain(picture_of(asked), asked.options.box)
        return Response(overlay, media_type="image/png")

    @app.post(
        "/api/regions",
        dependencies=reads,
        response_model=RegionsOut,
        responses=SEARCH,
        openapi_extra=body(one),
    )
    async def regions(
        request: Request, parameters: Annotated[SearchParameters, Query()]
    ) -> Response:
        """Suggest parts of a picture to search for."""
        asked = await read_query(request, service, parameters)
        return _json({"regions": await service.pictures.regions(picture_of(asked))})


def _add_items(app: FastAPI, service: Service, access: Access, settings: Settings) -> None:
    reads, writes = [Depends(access.read)], [Depends(access.write)]
    jpeg: dict[str, Any] = {
        "content": {"image/jpeg": BINARY},
        "description": "A JPEG without metadata.",
    }
    picture: dict[str, Any] = {
        "content": {"image/jpeg": BINARY, "image/png": BINARY, "image/webp": BINARY},
        "description": "The picture.",
    }
    unchanged: Responses = {304: {"description": "The cached picture is still valid."}}

    @app.get(
        "/api/items", dependencies=reads, response_model=ItemsOut, responses=problems(401, 405, 422)
    )
    async def items(
        offset: Annotated[int, Query(ge=0, le=2**62)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_ITEMS)] = 60,
        where: Annotated[
            list[Filter], Query(max_length=MOST_FILTERS, examples=[["label=monarch"]])
        ] = [],  # noqa: B006  # FastAPI copies it
        spread: bool = False,
        id: Annotated[
            list[ItemId],
            Query(
                max_length=MOST_ITEMS,
                description="ids of the items to list instead; those that there are",
                examples=[[17, 18]],
            ),
        ] = [],  # noqa: B006
        sizes: Annotated[
            bool, Query(description="whether to tell the size of each picture")
        ] = False,
    ) -> Response:
        """List the indexed pictures by ascending id, or with `spread` evenly spread over the index,
        so that one page shows something of every folder."""
        page = (
            Page(rows := await service.rows(id), len(rows))
            if id
            else await service.page(offset, limit, where, spread)
        )
        paths = [row.item.path for row in page.rows]
        known = await service.sizes(paths) if sizes else [None] * len(paths)
        records = [
            _row_record(row, settings, size) for row, size in zip(page.rows, known, strict=True)
        ]
        record = {"items": records, "total": page.total}
        return _json(record | _failed_record(service, page.failed))

    @app.get(
        "/api/map",
        dependencies=reads,
        response_model=MapOut,
        responses=problems(401, 404, 405, 409),
    )
    async def collection_map() -> Response:
        """Send a place in the plane for every picture, alike ones near each other."""
        found = await service.map()
        return await asyncio.to_thread(lambda: _json(_map_record(found)))

    @app.get("/api/items/{id}", dependencies=reads, response_model=OneItemOut, responses=ITEM)
    async def item(id: Id) -> Response:
        """Describe an indexed picture."""
        row = await service.row(id)
        [size] = await service.sizes([row.item.path])
        record = _row_record(row, settings, size)
        if settings.shows_paths:
            record |= (await service.photo_facts(row.item.path))._asdict()
        return _json(record)

    @app.get(
        "/api/thumbs/{id}",
        dependencies=reads,
        response_class=Response,
        responses={**ITEM, 200: jpeg, **unchanged},
    )
    async def thumb(
        request: Request, id: Id, size: Annotated[int, Query(ge=16, le=1024)] = 256
    ) -> Response:
        """Send a thumbnail of an item; `size` is its longer side in pixels."""
        return _picture(request, await service.pictures.thumbnail(id, size))

    @app.get(
        "/api/images/{id}",
        dependencies=reads,
        response_class=Response,
        responses={**ITEM, 200: picture, **unchanged},
    )
    async def image(request: Request, id: Id) -> Response:
        """Send the picture of an item in full size."""
        return _picture(request, await service.pictures.image(id))

    @app.post(
        "/api/items",
        status_code=201,
        dependencies=writes,
        response_model=AddedOut,
        responses=CHANGE,
        openapi_extra=body({"multipart/form-data": form(several=True, label=True)}),
    )
    async def add(request: Request) -> Response:
        """Store pictures beside the index and index them; answered once they are on disk."""
        uploads = await read_uploads(request)
        stored, failed = await service.uploads.add(uploads)
        if not stored:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in failed[:3])
            return problem(422, f"none of the pictures could be used ({reasons})")
        items = [{"id": id_, "name": name} for id_, name in stored]
        return _json(
            {
                "items": items,
                "failed": [{"name": name, "reason": reason} for name, reason in failed],
            },
            201,
        )

    @app.patch(
        "/api/items",
        dependencies=writes,
        response_model=ChangedOut,
        responses=CHANGE,
        openapi_extra=body({"application/json": json_of(Labelled, LABELLED)}),
    )
    async def label(request: Request) -> Response:
        """Give items a label, or take it away."""
        asked = await read_labelled(request)
        return _json({"count": await service.uploads.label(asked.ids, asked.label)})

    @app.delete(
        "/api/items",
        dependencies=writes,
        response_model=ChangedOut,
        responses=problems(401, 403, 405, 422),
    )
    async def delete_several(
        id: Annotated[
            list[ItemId],
            Query(
                min_length=1, max_length=MOST_CHANGED, description="ids of items", examples=[[17]]
            ),
        ],
    ) -> Response:
        """Remove items from the index; files are deleted only if they were uploaded."""
        return _json({"count": await service.uploads.delete_many(id)})

    @app.delete(
        "/api/items/{id}",
        status_code=204,
        dependencies=writes,
        responses=problems(401, 403, 404, 405, 422),
    )
    async def delete(id: Id) -> Response:
        """Remove an item from the index; its file is deleted only if it was uploaded."""
        await service.uploads.delete(id)
        return Response(status_code=204)

    @app.get("/api/info", dependencies=reads, response_model=InfoOut, responses=READ)
    async def info() -> Response:
        """Describe the index and the limits of requests."""
        limits = {
            "upload_bytes": service.limits.upload_bytes,
            "pixels": service.limits.pixels,
            "pictures": MOST_PICTURES,
            "k": MOST_HITS,
            "shortlist": LONGEST_SHORTLIST,
        }
        facts = {
            **await service.facts(),
            "explains": service.pictures.explains,
            "knows_texts": service.knows_texts,
            "writable": service.writable and settings.writing_allowed,
        }
        return _json({**facts, "limits": limits, "version": __version__})


def _add_rest(app: FastAPI, service: Service, metrics: Metrics, access: Access) -> None:
    text: Responses = {
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "description": "The text format of Prometheus.",
        }
    }

    @app.get("/healthz", response_model=StatusOut, responses=problems(405))
    async def healthz() -> Response:
        """Tell that the server runs."""
        return _json({"status": "ok"})

    @app.get("/readyz", response_model=StatusOut, responses=problems(405))
    async def readyz() -> Response:
        """Tell whether the index can be read."""
        await service.check()
        return _json({"status": "ok"})

    @app.get(
        "/metrics",
        dependencies=[Depends(access.read)],
        response_class=Response,
        responses={**READ, **text},
    )
    async def prometheus() -> Response:
        """Send counts and times for Prometheus."""
        return Response(
            metrics.text(), headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST}
        )

    files = _Static(directory=WEB, packages=[("wingbar", "look")], check_dir=False)
    app.mount("/static", GZipMiddleware(files))  # a third of the bytes

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        if not (WEB / "index.html").is_file():
            return PlainTextResponse(NO_PAGE)
        return await files.get_response("index.html", request.scope)

    @app.api_route("/share.js", methods=["GET", "HEAD"], include_in_schema=False)
    async def share(request: Request) -> Response:
        # a service worker is in charge of the folder that it comes from
        return await files.get_response("share.js", request.scope)


class _Static(StaticFiles):
    """The page's files, with the media types of TYPES whatever this machine's registry says, and
    checked for changes on every request."""

    def file_response(
        self, full_path: Any, stat_result: Any, scope: Any, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        kind = TYPES.get(Path(full_path).suffix)
        if kind is not None and "content-type" in response.headers:
            response.headers["content-type"] = (
                kind if kind.startswith("image/") else f"{kind}; charset=utf-8"
            )
        response.headers["cache-control"] = "no-cache"
        return response


# -- answers


def _json(record: dict[str, Any], status: int = 200) -> Response:
    return Response(_text(record), status, media_type="application/json")


def _text(record: dict[str, Any]) -> str:
    """A record as JSON; ValueError for NaN and infinity, which JSON does not have."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _batch_response(
    answers: Sequence[Answer | WingbarError],
    milliseconds: dict[str, float],
    service: Service,
    settings: Settings,
) -> Response:
    records = (
        problem_record(status_of(answer), str(answer))
        if isinstance(answer, WingbarError)
        else _search_record(answer, service, settings)
        for answer in answers
    )
    results = ",".join(map(_text, records))
    text = f'{{"results":[{results}],"milliseconds":{_text(milliseconds)}}}'
    return Response(text, media_type="application/json")


def _failed_record(service: Service, failed: Sequence[FailedShard]) -> dict[str, Any]:
    """Which shards did not answer, where several indexes are served as one."""
    if not service.is_sharded:
        return {}
    names = [
        {"name": service.public(one.name), "reason": service.public(one.reason)} for one in failed
    ]
    return {"failed": names}


def _search_record(
    answer: Answer,
    service: Service,
    settings: Settings,
    sizes: Sequence[tuple[int, int] | None] | None = None,
) -> dict[str, Any]:
    found, stages, size = answer
    hits = [
        {
            "rank": hit.rank,
            "id": hit.id,
            **_named(hit.path, hit.label, hit.columns),
            "distance": hit.distance,
            # a damaged feature can give NaN, which JSON does not have
            "score": None if hit.score is None or not isfinite(hit.score) else hit.score,
            "p_chance": hit.p_chance,
            "code": code,
            **_links(hit.id),
            "available": available,
            "copies": list(found.hits.copies.get(hit.id, ())),
            **_file_record(hit.path, settings, shape),
        }
        for hit, code, available, shape in zip(
            found.hits,
            _bit_texts(found.hit_codes, found.bits),
            found.available,
            sizes or [None] * len(found.hits),
            strict=True,
        )
    ]
    return {
        "hits": hits,
        "shortlist": found.hits.shortlist,
        "cut": found.hits.cut,
        "fine": found.fine,
        "chance_from": CUT,
        "bits": found.bits,
        "code": _bit_texts(found.code, found.bits)[0],
        "query": None if size is None else {"width": size[0], "height": size[1]},
        "milliseconds": {stage: round(value, 3) for stage, value in stages.items()},
        **_failed_record(service, found.hits.failed),
    }


def _map_record(found: Map) -> dict[str, Any]:
    labels = sorted({label for label in found.labels if label is not None})
    place = {label: i for i, label in enumerate(labels)}
    x, y = (np.round(found.places[:, axis].astype(float), 4).tolist() for axis in (0, 1))
    return {
        "ids": list(found.ids),
        "x": x,
        "y": y,
        "label": [-1 if label is None else place[label] for label in found.labels],
        "labels": labels,
    }


def _row_record(row: Row, settings: Settings, size: tuple[int, int] | None) -> dict[str, Any]:
    item = row.item
    return {
        "id": row.id,
        **_named(item.path, item.label, item.columns),
        "size": item.size,
        "code": _bit_texts(row.code, row.bits)[0],
        **_links(row.id),
        "available": row.available,
        **_file_record(item.path, settings, size),
    }


def _file_record(path: str, settings: Settings, size: tuple[int, int] | None) -> dict[str, Any]:
    """The path of a picture, where it may be told, and its size, where it is known."""
    record: dict[str, Any] = {"path": path} if settings.shows_paths else {}
    return record if size is None else {**record, "width": size[0], "height": size[1]}


def _named(path: str, label: str | None, columns: Mapping[str, str]) -> dict[str, Any]:
    """The original name of an uploaded file, else the file's own; never its folder."""
    return {
        "name": columns.get(FILE_COLUMN) or os.path.basename(path),
        "label": label,
        "columns": dict(columns),
    }


def _links(id_: int) -> dict[str, str]:
    return {"thumb": f"/api/thumbs/{id_}", "image": f"/api/images/{id_}"}


def _bit_texts(packed: codes.Packed, bits: int) -> list[str]:
    """Codes [N, w] uint64 as texts of 0 and 1."""
    digits = codes.unpack(packed, bits).astype(np.uint8) + np.uint8(ord("0"))
    return [row.tobytes().decode() for row in digits]


def _picture(request: Request, picture: Picture) -> Response:
    """A picture, or 304 if the browser has it already."""
    tag = f'"{picture.tag}"'
    headers = {"ETag": tag, "Cache-Control": "private, max-age=3600"}
    known = [
        one.strip().removeprefix("W/")
        for one in request.headers.get("if-none-match", "").split(",")
    ]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(picture.data, media_type=picture.media_type, headers=headers)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the records that only bodies and problems refer to."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        known = document["components"]["schemas"]
        for record in (ProblemOut, ByItem, ByItems, Labelled):
            known[record.__name__] = record.model_json_schema(
                ref_template="#/components/schemas/{model}"
            )
        known.pop("HTTPValidationError", None)
        known.pop("ValidationError", None)
        app.openapi_schema = document
    return app.openapi_schema
