"""The parameters, bodies and answers of the HTTP API, as its OpenAPI document shows them."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from wingbar import images
from wingbar.errors import QueryError, shortened
from wingbar.index.filters import parse_where
from wingbar.index.ranking import CUT, LONGEST_EXPAND, SHORTLIST, Fine, SearchOptions
from wingbar.model.text import LONGEST_TEXT

PROBLEM = "application/problem+json"
MOST_HITS = 10_000
MOST_HITS_OF_BATCH = 64_000  # hits of all its queries together
LONGEST_SHORTLIST = 10_000
LONGEST_RADIUS = 1024  # bits
MOST_PICTURES = 64  # pictures or ids per request
MOST_ITEMS = 1000  # items of a page
MOST_CHANGED = 1000  # items that one request labels or removes
MOST_FILTERS = 32
LONGEST_FILTER = 1000  # characters
# Wildcards in a filter on a path: each further one makes a hostile pattern 100 times slower.
MOST_WILDCARDS = 3
DETAIL = 2000  # characters of what is said about an error
LONGEST_LABEL = 1000  # characters
MOST_JSON = 256 * 2**10  # bytes of a JSON body; 64 ids and 32 filters take a fifth of it
LARGEST_ID = 2**63 - 1

Responses = dict[int | str, dict[str, Any]]  # of a route, as FastAPI takes them


def _check_filter(text: str) -> str:
    try:
        (condition,) = parse_where(text)
    except QueryError as error:
        raise ValueError(str(error)) from None
    if "\\" in condition.field:
        raise ValueError(f"{text!r}: a column's name cannot have a backslash")
    if condition.field == "path" and condition.value.count("*") > MOST_WILDCARDS:
        raise ValueError(f"{text!r}: a path may have at most {MOST_WILDCARDS} wildcards *")
    return text


Filter = Annotated[str, Field(max_length=LONGEST_FILTER), AfterValidator(_check_filter)]
ItemId = Annotated[int, Field(ge=1, le=LARGEST_ID)]


# -- requests


class SearchParameters(BaseModel):
    """How to search."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(20, ge=1, le=MOST_HITS, description="number of hits")
    radius: int | None = Field(
        None, ge=0, le=LONGEST_RADIUS, description="largest Hamming distance of a hit, in bits"
    )
    fine: Fine | None = Field(
        None, description="fine stage of the search; the model's own by default"
    )
    shortlist: int = Field(
        SHORTLIST,
        ge=1,
        le=LONGEST_SHORTLIST,
        description="number of nearest codes that the fine stage ranks",
    )
    where: list[Filter] = Field(
        [],
        max_length=MOST_FILTERS,
        description="filters, as label=monarch, path=blue/* or price<20",
        examples=[["label=monarch"]],
    )
    box: str | None = Field(
        None,
        max_length=200,
        description="the part of the picture to search for: x,y,width,height in pixels of the "
        "upright picture",
        examples=["10,20,300,200"],
    )
    distinct: bool = Field(False, description="whether copies of a hit are folded into it")
    expand: int | None = Field(
        None,
        ge=0,
        le=LONGEST_EXPAND,
        description="number of neighbours that the query is averaged with; the index's own choice "
        "by default",
    )
    cut: float | None = Field(
        None, gt=0, le=1, description="largest p_chance of a hit; the list ends before others"
    )
    encoder: str | None = Field(
        None,
        max_length=LONGEST_LABEL,
        description="name of the encoder that answers, of an index with two; the first by default, "
        "and for a text the one that knows texts",
    )
    like: list[ItemId] = Field(
        [],
        max_length=MOST_PICTURES,
        description="ids of items that are right too, as further pictures of the query or as hits "
        "of an earlier search marked as right",
        examples=[[18, 19]],
    )
    unlike: list[ItemId] = Field(
        [], max_length=MOST_PICTURES, description="ids of items that are wrong", examples=[[20]]
    )
    sizes: bool = Field(False, description="whether to tell the size of each hit's picture")

    def options(self) -> SearchOptions:
        """The same for an index. Raises ImageError for an invalid box."""
        box = None if self.box is None else images.parse_box(self.box)
        return SearchOptions(
            k=self.k,
            radius=self.radius,
            fine=self.fine,
            shortlist=self.shortlist,
            where=self.where,
            box=box,
            distinct=self.distinct,
            expand=self.expand,
            cut=self.cut,
            encoder=self.encoder,
        )


class MatchParameters(SearchParameters):
    """What is compared, and how to search."""

    item: ItemId = Field(description="id of the item that the query is compared with")
    on: Literal["query", "item"] = Field("item", description="which of the two pictures is sent")

    def search(self) -> SearchParameters:
        """How to search."""
        given = self.model_dump(exclude_unset=True, exclude={"item", "on"})
        return SearchParameters.model_validate(given)


class ByItem(SearchParameters):
    """A search for pictures like an item of the index, given by id or by path, or for a text."""

    id: ItemId | None = Field(None, description="the item's id", examples=[17])
    path: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="the absolute path of the item's file, as it was indexed",
    )
    text: str | None = Field(
        None,
        min_length=1,
        max_length=LONGEST_TEXT,
        description="what the pictures show, where the model knows texts",
        examples=["red dress"],
    )

    @field_validator("box", mode="before")
    @classmethod
    def _from_numbers(cls, box: object) -> object:
        return ",".join(map(str, box)) if isinstance(box, (list, tuple)) else box


class ByItems(SearchParameters):
    """Several searches for pictures like items, given by their ids."""

    ids: list[ItemId] = Field(min_length=1, max_length=MOST_PICTURES, examples=[[17, 18]])


class Labelled(BaseModel):
    """A label for several items."""

    model_config = ConfigDict(extra="forbid")

    ids: list[ItemId] = Field(min_length=1, max_length=MOST_CHANGED, examples=[[17, 18]])
    label: str | None = Field(
        max_length=LONGEST_LABEL, description="the label; null or empty to take it away"
    )


class FolderToIndex(BaseModel):
    """A folder of the server's own machine."""

    model_config = ConfigDict(extra="forbid")

    folder: str = Field(
        min_length=1,
        max_length=4096,
        description="its absolute path",
        examples=["/home/me/Pictures"],
    )


# -- answers

PATH = (
    "its path; only from a server that nobody but this machine can ask: one without tokens, "
    "--public, --allow-host and --cors"
)
WIDTH = "width of its upright picture in pixels, if sizes were asked for and it can be read"
HEIGHT = "its height, likewise"


class HitOut(BaseModel):
    """One hit of a search."""

    rank: int = Field(description="place among the hits, from 1")
    id: int = Field(description="id of the item")
    name: str = Field(description="name of its file, without folders")
    label: str | None = Field(description="its class, if any")
    distance: int = Field(description="number of bits in which its code differs from the query's")
    score: float | None = Field(
        description="what the fine stage ranked by, in [-1, 1]; null without a fine stage"
    )
    p_chance: float | None = Field(
        description="share of random pairs of items that are at least as near; null for an index "
        "of a few items"
    )
    code: str = Field(description="its code, as a text of 0 and 1")
    columns: dict[str, str] = Field(description="its further columns")
    thumb: str = Field(description="URL of a thumbnail")
    image: str = Field(description="URL of the picture")
    available: bool = Field(description="whether its file exists")
    copies: list[int] = Field(
        description="ids of its copies that were folded into it, if distinct hits were asked for"
    )
    path: str | None = Field(None, description=PATH)
    width: int | None = Field(None, description=WIDTH)
    height: int | None = Field(None, description=HEIGHT)


class Milliseconds(BaseModel):
    """Time of each stage of a search, in milliseconds."""

    queue: float = Field(description="waiting")
    decode: float = Field(description="decoding the picture")
    encode: float = Field(description="running the network")
    coarse: float = Field(description="searching the codes")
    fine: float = Field(description="ranking the shortlist")
    fetch: float = Field(description="reading the hits")
    total: float = Field(description="all of them")


class Size(BaseModel):
    """Size of an upright picture, in pixels."""

    width: int
    height: int


class FailedShardOut(BaseModel):
    """A shard that did not answer."""

    name: str = Field(description="name of the shard")
    reason: str


class SearchOut(BaseModel):
    """The hits of one query."""

    hits: list[HitOut] = Field(description="best first")
    shortlist: int = Field(description="number of items that the fine stage ranked")
    cut: bool = Field(description="whether items that tied with the last of them were left out")
    fine: Fine = Field(description="the fine stage that was used")
    encoder: str = Field(description="name of the encoder that answered")
    chance_from: float = Field(
        CUT, description="p_chance above which hits are as unlike as random pairs of items"
    )
    bits: int = Field(description="length of a code")
    code: str = Field(description="the query's code, as a text of 0 and 1")
    query: Size | None = Field(
        description="size of the query picture; null for an item whose picture was not read"
    )
    milliseconds: Milliseconds
    failed: list[FailedShardOut] = Field(
        [],
        description="where several indexes are served as one: those that did not answer, so that "
        "their hits are missing",
    )


class ProblemOut(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="always about:blank")
    title: str = Field(description="name of the status")
    status: int = Field(description="HTTP status")
    detail: str = Field(description="one sentence with the next step")


class BatchOut(BaseModel):
    """Answers to several queries."""

    results: list[SearchOut | ProblemOut] = Field(
        description="an answer or a problem for each query, in their order"
    )
    milliseconds: dict[str, float] = Field(description="total: time of all searches together")


class ItemOut(BaseModel):
    """One indexed picture."""

    id: int = Field(description="id of the item")
    name: str = Field(description="name of its file, without folders")
    label: str | None = Field(description="its class, if any")
    columns: dict[str, str] = Field(description="its further columns")
    size: int = Field(description="size of its file in bytes; -1 if it has no file")
    code: str = Field(description="its code, as a text of 0 and 1")
    thumb: str = Field(description="URL of a thumbnail")
    image: str = Field(description="URL of the picture")
    available: bool = Field(description="whether its file exists")
    path: str | None = Field(None, description=PATH)
    width: int | None = Field(None, description=WIDTH)
    height: int | None = Field(None, description=HEIGHT)


class OneItemOut(ItemOut):
    """One indexed picture, with what its file says."""

    taken: str | None = Field(
        None,
        description="when it was taken, by its EXIF, as 2026-11-26T09:30:00; only where paths are "
        "told",
    )
    camera: str | None = Field(
        None, description="the camera, by its EXIF; only where paths are told"
    )


class ListedOut(ItemOut):
    """One indexed picture of a page."""

    copies: list[int] = Field(
        description="ids of its copies that were folded into it, if distinct items were asked for"
    )


class ItemsOut(BaseModel):
    """A page of items."""

    items: list[ListedOut]
    total: int = Field(description="number of items on all pages")
    failed: list[FailedShardOut] = Field(
        [], description="shards that did not answer, so that their items are missing"
    )


class StoredOut(BaseModel):
    """An uploaded picture that is stored and indexed."""

    id: int = Field(description="id of the item")
    name: str = Field(description="name of the uploaded file")


class FailedOut(BaseModel):
    """An uploaded picture that could not be used."""

    name: str = Field(description="name of the uploaded file")
    reason: str


class ChangedOut(BaseModel):
    """How many items were changed."""

    count: int = Field(description="number of them; ids that there are not are skipped")


class MapOut(BaseModel):
    """A map of the collection: pictures that are alike are near each other."""

    ids: list[int] = Field(description="ids of the items")
    x: list[float] = Field(description="place of each, from 0 to 1")
    y: list[float] = Field(description="likewise")
    label: list[int] = Field(description="place of its label in `labels`; -1 without a label")
    labels: list[str] = Field(description="the labels")


class RegionsOut(BaseModel):
    """Parts of a picture that may be worth a search of their own."""

    regions: list[list[int]] = Field(
        description="x, y, width, height of each in pixels of the upright picture, the one that "
        "the model finds strongest first; none if nothing stands out"
    )


class AddedOut(BaseModel):
    """What became of the uploaded pictures."""

    items: list[StoredOut]
    failed: list[FailedOut]


class IndexingOut(BaseModel):
    """How far the indexing of a folder is."""

    state: Literal["idle", "running", "done", "stopped", "failed"]
    folder: str = Field(description="its path, with links resolved")
    stage: str = Field(description="what is being done")
    done: int = Field(description="how much of this stage is finished")
    total: int = Field(description="how much there is in this stage")
    counts: dict[str, int] = Field(
        description="at the end, also of one that was stopped: how many images were added, "
        "updated, unchanged, moved, removed"
    )
    failed: list[FailedOut] = Field(
        description="at the end: the first 1,000 images that could not be used"
    )
    failures: int = Field(description="number of all of them")
    message: str = Field(description="why it failed, or what to do next; empty if nothing")


class LimitsOut(BaseModel):
    """Limits of one request."""

    upload_bytes: int = Field(description="size of a picture, in bytes")
    pixels: int = Field(description="width x height of a picture")
    pictures: int = Field(description="number of pictures or ids")
    k: int = Field(description="number of hits")
    shortlist: int = Field(description="length of the shortlist")


class ShardOut(BaseModel):
    """One of several indexes that are served as one."""

    name: str = Field(description="name of the shard")
    items: int | None = Field(description="number of its items; null while it does not answer")
    failed: str | None = Field(description="why it does not answer, if so")


class EncoderOut(BaseModel):
    """One of the encoders of an index."""

    bits: int | None = Field(description="length of its codes; null while it has none")
    fine: str = Field(description="its own fine stage")
    explains: bool = Field(description="whether /api/explain has something to show of it")
    knows_texts: bool = Field(description="whether it answers texts")


class InfoOut(BaseModel):
    """The index being served."""

    name: str = Field(description="name of the index")
    items: int = Field(description="number of items")
    labels: int = Field(description="number of different labels")
    bits: int | None = Field(description="length of a code; null while there are no codes")
    dim: int = Field(description="length of a feature")
    unique_codes: int = Field(description="number of different codes")
    model: str = Field(description="name of the model")
    encoders: list[str] = Field(
        description="names of the encoders that can answer a search, the first of them by default"
    )
    by_encoder: dict[str, EncoderOut] = Field(description="facts of each of them, by its name")
    method: str = Field(description="method of the model")
    fine: str = Field(description="the model's own fine stage")
    fingerprint: str = Field(description="sha256 that identifies the model")
    label_counts: dict[str, int] = Field(
        description="number of items of the most frequent labels, most frequent first"
    )
    columns: dict[str, list[str]] = Field(
        description="the most frequent values of the columns that items can be filtered by"
    )
    explains: bool = Field(description="whether /api/explain has something to show")
    knows_texts: bool = Field(description="whether a text can be searched for")
    writable: bool = Field(description="whether uploads and deletions are possible")
    reveals: bool = Field(
        description="whether the server can show files in the file manager of its machine"
    )
    index_folders: list[str] = Field(
        [], description="folders of the server's machine that it may index, and those in them"
    )
    indexing: bool = Field(False, description="whether one is being indexed")
    shards: list[ShardOut] | None = Field(
        None, description="the indexes, where several are served as one, or one on a server"
    )
    limits: LimitsOut
    version: str = Field(description="version of wingbar")


class StatusOut(BaseModel):
    """Whether the server works."""

    status: Literal["ok"]


# -- problems


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """An error as an RFC 9457 response."""
    text = json.dumps(problem_record(status, detail), ensure_ascii=False).encode("utf-8", "replace")
    retry = {"Retry-After": "1"} if status in (429, 503) else {}
    return Response(text, status, {**retry, **(headers or {})}, PROBLEM)


def problem_record(status: int, detail: str) -> dict[str, Any]:
    """An error as a record like ProblemOut; what its detail quotes may be long, and is
    shortened."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": shortened(detail, DETAIL),
    }


# -- descriptions of routes for OpenAPI

MEANINGS = {
    400: "The request is malformed.",
    401: "A token is needed.",
    403: "Nobody or not this token may do that, or the request comes from a page elsewhere.",
    404: "There is no such item.",
    405: "The method is not supported here.",
    408: "The request was sent too slowly.",
    409: "The index holds no images yet, or a folder is being indexed already.",
    413: "The request has more bytes or pixels than the server accepts.",
    415: "The content type is not supported here.",
    421: "The Host header names another server.",
    422: "A picture cannot be read, or a parameter is invalid.",
    429: "The server is busy: try again after Retry-After seconds.",
    500: "A bug in wingbar: see the server's log.",
    503: "It took too long, or the index cannot be read: try again after Retry-After seconds.",
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
PICTURES = {"image/*": BINARY, "application/octet-stream": BINARY}


def problems(*statuses: int) -> Responses:
    """The error responses of a route, including those that every route can have."""
    content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}
    always = (400, 421, 429, 500, 503)
    return {
        status: {"description": MEANINGS[status], "content": content}
        for status in sorted({*always, *statuses})
    }


def form(*, several: bool, label: bool = False) -> dict[str, Any]:
    """A multipart body with one part `image` or several, and with `label` a part of that name."""
    one: dict[str, Any] = {"type": "string", "format": "binary"}
    properties: dict[str, Any] = {
        "image": {"type": "array", "items": one, "minItems": 1} if several else one
    }
    if label:
        properties["label"] = {"type": "string", "maxLength": LONGEST_LABEL}
    return {
        "schema": {
            "type": "object",
            "required": ["image"],
            "properties": properties,
            "additionalProperties": False,
        }
    }


def json_of(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """A JSON body with an example."""
    return {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}, "example": example}


def body(content: dict[str, Any]) -> dict[str, Any]:
    """The body of a route: content by media type."""
    return {"requestBody": {"required": True, "content": content}}
