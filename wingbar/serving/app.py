"""The routes of the HTTP API over an index, and its web page: in essence, each route is one call of
`Service`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import prometheus_client
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi import Path as PathPart
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

from wingbar import __version__
from wingbar.errors import WingbarError
from wingbar.serving import reveal
from wingbar.serving.answers import (
    batch_response,
    failed_record,
    json_response,
    map_record,
    picture_response,
    row_record,
    search_record,
    status_of,
    text_of,
)
from wingbar.serving.connections import NotFoundError, Page
from wingbar.serving.indexing import FolderIndexing, NotAllowedError
from wingbar.serving.logs import in_log
from wingbar.serving.middleware import Access, Metrics, Protection
from wingbar.serving.requests import (
    picture_of,
    read_folder,
    read_labelled,
    read_queries,
    read_query,
    read_uploads,
    require_known_parameters,
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
    FolderToIndex,
    IndexingOut,
    InfoOut,
    ItemId,
    ItemsOut,
    Labelled,
    MapOut,
    MatchParameters,
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
    problems,
)
from wingbar.serving.service import Service, Sort
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
NO_PAGE = (
    "wingbar serves its API here, see /openapi.json. The page is not part of this installation.\n"
)
REFRESH_SECONDS = 0.5  # how often changes by other processes are applied
MANY = 1000  # hits whose JSON is written in a thread, since nothing else runs meanwhile
LONGEST_STREAM = 15.0  # seconds of events in one answer, after which a browser asks again
AGAIN_MS = 100  # after which it does
LABELLED = {"ids": [17, 18], "label": "monarch"}  # an example
CLEAR_EVERY = 1200  # refreshes between two looks for unfinished files: ten minutes
# Error responses by kind of route.
READ = problems(401, 405, 422)
ITEM = problems(401, 404, 405, 422)
SEARCH = problems(401, 403, 404, 405, 408, 409, 413, 415, 422)
CHANGE = problems(401, 403, 405, 408, 413, 415, 422)
Id = Annotated[int, PathPart(ge=1, le=LARGEST_ID, description="an item's id", examples=[17])]
log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """The app that serves one index, which is opened when the app starts."""
    service = Service(settings.index, settings.limits, settings.index_folders)
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
    _add_indexing(app, service, access)
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
        except Exception:  # the next turn may succeed, and searches look for themselves
            log.exception("what other processes changed could not be applied")


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


def _picture_responses(description: str) -> Responses:
    """Those of a search that is answered with a picture."""
    return {**SEARCH, 200: {"content": {"image/png": BINARY}, "description": description}}


def _add_searches(
    app: FastAPI, service: Service, metrics: Metrics, access: Access, settings: Settings
) -> None:
    reads = [Depends(access.read), Depends(require_known_parameters)]
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
            return json_response(search_record(answer, service, settings, sizes))
        return await asyncio.to_thread(
            lambda: json_response(search_record(answer, service, settings, sizes))
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
        return await asyncio.to_thread(batch_response, answers, milliseconds, service, settings)

    @app.post(
        "/api/explain",
        dependencies=reads,
        response_class=Response,
        responses=_picture_responses("The picture, with where the model looked drawn over it."),
        openapi_extra=body(one),
    )
    async def explain(
        request: Request, parameters: Annotated[SearchParameters, Query()]
    ) -> Response:
        """Show where the model looked in a picture."""
        asked = await read_query(request, service, parameters)
        options = asked.options
        overlay = await service.pictures.explain(picture_of(asked), options.box, options.encoder)
        return Response(overlay, media_type="image/png")

    @app.post(
        "/api/match",
        dependencies=reads,
        response_class=Response,
        responses=_picture_responses(
            "One of the two pictures in grey, and in colour what makes them alike."
        ),
        openapi_extra=body(one),
    )
    async def match(request: Request, parameters: Annotated[MatchParameters, Query()]) -> Response:
        """Show which parts of a picture make it alike to an item, or the item to it."""
        asked = await read_query(request, service, parameters.search())
        options = asked.options
        overlay = await service.pictures.match(
            picture_of(asked), options.box, parameters.item, parameters.on, options.encoder
        )
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
        regions = await service.pictures.regions(picture_of(asked), asked.options.encoder)
        return json_response({"regions": regions})


def _add_items(app: FastAPI, service: Service, access: Access, settings: Settings) -> None:
    reads = [Depends(access.read), Depends(require_known_parameters)]
    writes = [Depends(access.write), Depends(require_known_parameters)]
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
        sort: Annotated[
            Sort | None,
            Query(
                description="the order instead of ascending id: by name of the file, by label, by "
                "time of the file (newest first), or the most unusual first"
            ),
        ] = None,
        distinct: Annotated[
            bool, Query(description="whether copies of an item are folded into the first of them")
        ] = False,
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
        if id:
            page = Page(rows := await service.rows(id), len(rows))
        elif sort is not None or distinct:
            page = await service.arranged(offset, limit, where, sort or "spread", distinct)
        else:
            page = await service.page(offset, limit, where, spread)
        paths = [row.item.path for row in page.rows]
        known = await service.sizes(paths) if sizes else [None] * len(paths)
        records = [
            {**row_record(row, settings, size), "copies": list(page.copies.get(row.id, ()))}
            for row, size in zip(page.rows, known, strict=True)
        ]
        record = {"items": records, "total": page.total}
        return json_response(record | failed_record(service, page.failed))

    @app.get(
        "/api/map",
        dependencies=reads,
        response_model=MapOut,
        responses=problems(401, 404, 405, 409, 422),
    )
    async def send_map() -> Response:
        """Send a place in the plane for every picture, alike ones near each other."""
        found, labels = await service.map()
        return await asyncio.to_thread(lambda: json_response(map_record(found, labels)))

    @app.get("/api/items/{id}", dependencies=reads, response_model=OneItemOut, responses=ITEM)
    async def item(id: Id) -> Response:
        """Describe an indexed picture."""
        row = await service.row(id)
        [size] = await service.sizes([row.item.path])
        record = row_record(row, settings, size)
        if settings.shows_paths:
            record |= (await service.photo_facts(row.item.path))._asdict()
        return json_response(record)

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
        return picture_response(request, await service.pictures.thumbnail(id, size))

    @app.get(
        "/api/images/{id}",
        dependencies=reads,
        response_class=Response,
        responses={**ITEM, 200: picture, **unchanged},
    )
    async def image(request: Request, id: Id) -> Response:
        """Send the picture of an item in full size."""
        return picture_response(request, await service.pictures.image(id))

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
        await service.notice_encoders()  # so that all take part
        stored, failed = await service.uploads.add(uploads)
        if not stored:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in failed[:3])
            return problem(422, f"none of the pictures could be used ({reasons})")
        items = [{"id": id_, "name": name} for id_, name in stored]
        return json_response(
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
        return json_response({"count": await service.uploads.label(asked.ids, asked.label)})

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
        return json_response({"count": await service.uploads.delete_many(id)})

    @app.post(
        "/api/items/{id}/reveal",
        status_code=204,
        dependencies=writes,
        responses=problems(401, 403, 404, 405, 422),
    )
    async def show_in_folder(id: Id) -> Response:
        """Show the file of an item in the file manager of the server's machine."""
        if not settings.shows_paths:
            raise HTTPException(
                403, "only a server that nobody but this machine can ask shows files in folders"
            )
        row = await service.row(id)
        if not row.available:
            raise NotFoundError("the file is no longer where it was indexed")
        await asyncio.to_thread(reveal.reveal, Path(row.item.path))
        return Response(status_code=204)

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
            "explains": service.encoder().explains,
            "knows_texts": service.knows_texts,
            "encoders": list(service.encoders),
            "by_encoder": await service.encoder_facts(),
            "writable": service.writable and settings.writing_allowed,
            "reveals": settings.shows_paths and service.writable and reveal.can_reveal(),
        }
        if service.indexing is not None:
            facts |= {
                "index_folders": list(map(str, service.indexing.allowed)),
                "indexing": service.indexing.run.state == "running",
            }
        return json_response({**facts, "limits": limits, "version": __version__})


def _add_indexing(app: FastAPI, service: Service, access: Access) -> None:
    reads = [Depends(access.read), Depends(require_known_parameters)]
    writes = [Depends(access.write), Depends(require_known_parameters)]
    events: dict[str, Any] = {
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "description": "Server-sent events, each with the data of IndexingOut.",
    }

    def indexing() -> FolderIndexing:
        if service.indexing is None:
            raise NotAllowedError(
                "this server indexes no folders of its machine: start it with --allow-index "
                "FOLDER, or run wingbar index"
            )
        return service.indexing

    @app.post(
        "/api/indexing",
        status_code=202,
        dependencies=writes,
        response_model=IndexingOut,
        responses=problems(401, 403, 405, 408, 409, 413, 415, 422),
        openapi_extra=body(
            {"application/json": json_of(FolderToIndex, {"folder": "/home/me/Pictures"})}
        ),
    )
    async def index_folder(request: Request) -> Response:
        """Index a folder of the server's machine, or bring the index up to date with it."""
        folder = await read_folder(request)
        return json_response((await asyncio.to_thread(indexing().start, folder)).record(), 202)

    @app.get(
        "/api/indexing",
        dependencies=reads,
        response_class=Response,
        responses={**problems(401, 403, 405, 422), 200: events},
    )
    async def watch_indexing() -> Response:
        """Tell how far the indexing of a folder is, until it ends; after some seconds, ask
        again."""
        seconds = min(LONGEST_STREAM, service.limits.seconds / 2)
        runs = indexing().runs(seconds)

        async def stream() -> AsyncIterator[str]:
            yield f"retry: {AGAIN_MS}\n\n"
            async for run in runs:
                yield f"data: {text_of(run.record())}\n\n"

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream(), headers=headers, media_type="text/event-stream")

    @app.delete(
        "/api/indexing",
        status_code=202,
        dependencies=writes,
        response_model=IndexingOut,
        responses=problems(401, 403, 405, 422),
    )
    async def stop_indexing() -> Response:
        """End the indexing of a folder soon; what was stored stays."""
        return json_response(indexing().stop().record(), 202)


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
        return json_response({"status": "ok"})

    @app.get("/readyz", response_model=StatusOut, responses=problems(405))
    async def readyz() -> Response:
        """Tell whether the index can be read."""
        await service.check()
        return json_response({"status": "ok"})

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


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the records that only bodies and problems refer to."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        known = document["components"]["schemas"]
        for record in (ProblemOut, ByItem, ByItems, Labelled, FolderToIndex):
            known[record.__name__] = record.model_json_schema(
                ref_template="#/components/schemas/{model}"
            )
        known.pop("HTTPValidationError", None)
        known.pop("ValidationError", None)
        app.openapi_schema = document
    return app.openapi_schema
