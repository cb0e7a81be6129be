"""What goes in and out of the HTTP API, as its OpenAPI document shows it: records, problems,
bodies."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from wingbar import images
from wingbar.errors import QueryError
from wingbar.index.filters import parse_where
from wingbar.index.ranking import SHORTLIST, Fine, SearchOptions

PROBLEM = "application/problem+json"


MOST_HITS = 1000
LONGEST_SHORTLIST = 10_000
MOST_PICTURES = 64  # of a request
# wildcards of a path in a filter: each one more makes a hostile pattern a hundred times slower
STARS = 3
LARGEST_ID = 2**63 - 1


def _readable_filter(text: str) -> str:
    try:
        (condition,) = parse_where(text)
    except QueryError as error:
        raise ValueError(str(error)) from None
    if "\\" in condition.field:
        raise ValueError(f"{text!r}: no column has a backslash in its name")
    if condition.field == "path" and condition.value.count("*") > STARS:
        raise ValueError(f"{text!r}: a path has at most {STARS} of *")
    return text


Filter = Annotated[str, Field(max_length=1000), AfterValidator(_readable_filter)]
ItemId = Annotated[int, Field(ge=1, le=LARGEST_ID)]


class RankingIn(BaseModel):
    """How to search."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(20, ge=1, le=MOST_HITS, description="how many hits")
    radius: int | None = Field(
        None, ge=0, le=1024, description="only items at most so many bits away"
    )
    fine: Fine | None = Field(None, description="second stage; left out, the model's own choice")
    shortlist: int = Field(
        SHORTLIST, ge=1, le=LONGEST_SHORTLIST, description="items that the second stage orders anew"
    )
    where: list[Filter] = Field(
        [],
        max_length=32,
        description="filters, as label=monarch, path=blue/* or price<20",
        examples=[["label=monarch"]],
    )
    box: str | None = Field(
        None,
        max_length=200,
        description="x,y,width,height in pixels of the upright picture",
        examples=["10,20,300,200"],
    )

    def options(self) -> SearchOptions:
        """Raises ImageError for a box that is none."""
        box = None if self.box is None else images.parse_box(self.box)
        return SearchOptions(
            k=self.k,
            radius=self.radius,
            fine=self.fine,
            shortlist=self.shortlist,
            where=self.where,
            box=box,
        )


class ByItem(RankingIn):
    """A search for what is like an item of the index, named by id or by path."""

    id: ItemId | None = Field(None, description="an item's id", examples=[17])
    path: str | None = Field(
        None, min_length=1, max_length=4096, description="the path of an item, as it was indexed"
    )

    @field_validator("box", mode="before")
    @classmethod
    def _from_numbers(cls, box: object) -> object:
        return ",".join(map(str, box)) if isinstance(box, (list, tuple)) else box


class ByItems(RankingIn):
    """Several searches by id."""

    ids: list[ItemId] = Field(min_length=1, max_length=MOST_PICTURES, examples=[[17, 18]])


class HitOut(BaseModel):
    """One result; `distance` counts differing bits, `score` is what the second stage ranked by."""

    rank: int
    id: int
    name: str
    label: str | None
    distance: int
    score: float | None
    code: str
    columns: dict[str, str]
    thumb: str
    image: str
    available: bool


class Milliseconds(BaseModel):
    """Time of each stage of a search; `queue` is what it waited."""

    queue: float
    decode: float
    encode: float
    coarse: float
    fine: float
    fetch: float
    total: float


class Size(BaseModel):
    """Of the upright picture, in pixels."""

    width: int
    height: int


class SearchOut(BaseModel):
    """The hits of one query. `shortlist` is how many items the second stage looked at, `cut`
    whether some that tied with its last one were left out."""

    hits: list[HitOut]
    shortlist: int
    cut: bool
    fine: Fine
    bits: int
    code: str
    query: Size | None
    milliseconds: Milliseconds


class ProblemOut(BaseModel):
    """What went wrong (RFC 9457); `detail` is a sentence with the next step."""

    type: str
    title: str
    status: int
    detail: str


class BatchOut(BaseModel):
    """One answer, or one problem, for each picture, in their order."""

    results: list[SearchOut | ProblemOut]
    milliseconds: dict[str, float]


class ItemOut(BaseModel):
    """One indexed picture; `size` in bytes, -1 for one that is no file."""

    id: int
    name: str
    label: str | None
    columns: dict[str, str]
    size: int
    code: str
    thumb: str
    image: str
    available: bool


class ItemsOut(BaseModel):
    """A page of items, and how many there are."""

    items: list[ItemOut]
    total: int


class StoredOut(BaseModel):
    """An uploaded picture that can be found now."""

    id: int
    name: str


class FailedOut(BaseModel):
    """An uploaded picture that could not be used."""

    name: str
    reason: str


class AddedOut(BaseModel):
    """What became of the pictures of an upload."""

    items: list[StoredOut]
    failed: list[FailedOut]


class LimitsOut(BaseModel):
    """What one request may ask."""

    upload_bytes: int
    pixels: int
    pictures: int
    k: int
    shortlist: int


class InfoOut(BaseModel):
    """What is being served. `explains`: whether /api/explain has something to show; `writable`:
    whether uploads are taken."""

    name: str
    items: int
    labels: int
    bits: int | None
    dim: int
    unique_codes: int
    model: str
    method: str
    fine: str
    fingerprint: str
    label_counts: dict[str, int]
    columns: dict[str, list[str]]
    explains: bool
    writable: bool
    limits: LimitsOut
    version: str


class StatusOut(BaseModel):
    """Whether the server works."""

    status: Literal["ok"]


# -- problems


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """An RFC 9457 response."""
    text = json.dumps(problem_record(status, detail), ensure_ascii=False).encode("utf-8", "replace")
    more = {"Retry-After": "1"} if status in (429, 503) else {}
    return Response(text, status, {**more, **(headers or {})}, PROBLEM)


def problem_record(status: int, detail: str) -> dict[str, Any]:
    """What a problem says."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }


MEANINGS = {
    400: "The request is not well-formed.",
    401: "A token is needed.",
    403: "This token may not do that, or nobody may, or the request comes from another page.",
    404: "There is no such item.",
    405: "No such method here.",
    408: "The request came too slowly.",
    409: "The index holds no images yet.",
    413: "More bytes or pixels than the server takes.",
    415: "A content type that is not taken here.",
    421: "The Host header names another server.",
    422: "A picture that cannot be read, or a parameter that cannot be meant.",
    429: "Too much to do: try again after Retry-After seconds.",
    500: "A bug of wingbar; its log says more.",
    503: "It took too long, or the index cannot be reached: try again after Retry-After seconds.",
}


Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> Responses:
    """The problems of a route for OpenAPI, with those that any route can have."""
    content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}
    always = (400, 421, 429, 500, 503)
    return {
        status: {"description": MEANINGS[status], "content": content}
        for status in sorted({*always, *statuses})
    }


BINARY = {"schema": {"type": "string", "format": "binary"}}
PICTURES = {"image/*": BINARY, "application/octet-stream": BINARY}


def form(*, several: bool, label: bool = False) -> dict[str, Any]:
    """A multipart body with the part `image`."""
    one: dict[str, Any] = {"type": "string", "format": "binary"}
    properties: dict[str, Any] = {
        "image": {"type": "array", "items": one, "minItems": 1} if several else one
    }
    if label:
        properties["label"] = {"type": "string", "maxLength": 1000}
    return {
        "schema": {
            "type": "object",
            "required": ["image"],
            "properties": properties,
            "additionalProperties": False,
        }
    }


def body(content: dict[str, Any]) -> dict[str, Any]:
    """A route's body for OpenAPI: content by media type."""
    return {"requestBody": {"required": True, "content": content}}


def json_of(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """A JSON body with an example."""
    return {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}, "example": example}
