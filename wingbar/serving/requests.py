"""Read queries and uploads from HTTP requests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from wingbar.data.records import Entry
from wingbar.errors import QueryError, printable
from wingbar.index.ranking import SearchOptions
from wingbar.index.text_search import Text
from wingbar.serving.middleware import JSON, content_type
from wingbar.serving.schemas import (
    LONGEST_LABEL,
    MOST_HITS_OF_BATCH,
    MOST_PICTURES,
    ByItem,
    ByItems,
    FolderToIndex,
    Labelled,
    SearchParameters,
)
from wingbar.serving.service import Service
from wingbar.serving.uploads import Upload

M = TypeVar("M", bound=BaseModel)

LONGEST_NAME = 200  # characters of an uploaded file's name; the rest is cut off
MOST_FIELDS = 8  # parts of a form that are not files


class Asked(NamedTuple):
    """What a request searches for.

    query: a picture, a text or the id of an item.
    options: how to search.
    like: further pictures and ids that are right.
    unlike: those that are wrong.
    sizes: whether to tell the size of each hit's picture.
    """

    query: bytes | int | Text
    options: SearchOptions
    like: Sequence[bytes | int]
    unlike: Sequence[bytes | int]
    sizes: bool


async def require_known_parameters(request: Request) -> None:
    """Raises QueryError for a parameter in the URL that the route does not have: a filter with a
    slip in its name would let everything pass."""
    route = request.scope.get("route")
    if request.query_params and isinstance(route, APIRoute):
        known: list[str] = []
        for one in route.dependant.query_params:  # codespell:ignore dependant
            record = one.field_info.annotation
            if isinstance(record, type) and issubclass(record, BaseModel):
                known += record.model_fields
            else:
                known.append(one.alias)
        _require_known(request.query_params, known, route.path)


def _require_known(given: Iterable[str], known: Iterable[str], place: str) -> None:
    """Raise QueryError for a name that is not known."""
    names = list(known)
    for name in given:
        if name not in names:
            takes = f"takes {', '.join(names)}" if names else "takes no parameters"
            raise QueryError(f"there is no parameter {printable(name)!r:.60}: {place} {takes}")


async def read_query(request: Request, service: Service, parameters: SearchParameters) -> Asked:
    """What a request searches for.

    Raises QueryError, ImageError, NotFoundError; HTTPException 400 or 415 for another kind of body.
    """
    kind = content_type(request.headers)
    if kind.startswith("image/") or kind == "application/octet-stream":
        return _asked(await request.body(), parameters)
    if kind == "multipart/form-data":
        async with request.form(max_files=MOST_PICTURES, max_fields=MOST_FIELDS) as parts:
            queries = _files(parts, "like", "unlike")
            if len(queries) > 1:
                raise QueryError(
                    "the form has several parts named image: name the first image and the others "
                    "like, or unlike for wrong ones"
                )
            return _asked(
                await queries[0].read(),
                parameters,
                [await file.read() for file in _more_files(parts, "like")],
                [await file.read() for file in _more_files(parts, "unlike")],
            )
    if kind == JSON:
        asked = await _read_json(request, parameters, ByItem, '{"id": 17}')
        if sum(given is not None for given in (asked.id, asked.path, asked.text)) != 1:
            raise QueryError("name one item, or a text: give id, path or text")
        if asked.text is not None:
            return _asked(Text(asked.text), asked)
        id_ = asked.id if asked.id is not None else await service.id_of_path(asked.path or "")
        return _asked(id_, asked)
    raise _wrong_type(
        kind,
        "a picture (Content-Type: image/jpeg, or any image), a form with the part image, or JSON "
        "with an id",
    )


def picture_of(asked: Asked) -> bytes | int:
    """The picture or the id that a request is about. Raises QueryError for a text."""
    if isinstance(asked.query, Text):
        raise QueryError("a text has no parts to look at: give a picture or an id")
    return asked.query


async def read_queries(
    request: Request, parameters: SearchParameters
) -> tuple[Sequence[bytes | int], SearchOptions]:
    """The pictures or ids that a request searches for, and how to search. Raises as `read_query`
    does."""
    kind = content_type(request.headers)
    if kind == "multipart/form-data":
        async with request.form(max_files=MOST_PICTURES, max_fields=MOST_FIELDS) as parts:
            files = _files(parts)
            _check_batch(len(files), parameters)
            return [await file.read() for file in files], parameters.options()
    if kind == JSON:
        asked = await _read_json(request, parameters, ByItems, '{"ids": [17, 18]}')
        _check_batch(len(asked.ids), asked)
        return asked.ids, asked.options()
    raise _wrong_type(kind, "a form with parts named image, or JSON with ids")


def _check_batch(queries: int, parameters: SearchParameters) -> None:
    """Raises QueryError for what a batch does not take."""
    if parameters.like or parameters.unlike:
        raise QueryError("like and unlike belong to one query: search for one at a time")
    if queries * parameters.k > MOST_HITS_OF_BATCH:
        raise QueryError(
            f"{queries} queries of {parameters.k:,} hits are more than the "
            f"{MOST_HITS_OF_BATCH:,} hits of one request: ask for fewer"
        )


async def read_labelled(request: Request) -> Labelled:
    """The items of a request and the label that it gives them.

    Raises QueryError; HTTPException 400 or 415 for another kind of body.
    """
    kind = content_type(request.headers)
    if kind != JSON:
        raise _wrong_type(kind, "JSON with ids and a label")
    asked = await _read_json(request, None, Labelled, '{"ids": [17, 18], "label": "monarch"}')
    return asked.model_copy(update={"label": _label(asked.label)})


def _label(given: str | None) -> str | None:
    """A label as an index keeps it; None for an empty one."""
    return Entry(Path(), (given or "").strip() or None).label


async def read_folder(request: Request) -> str:
    """The folder that a request wants indexed.

    Raises QueryError; HTTPException 400 or 415 for another kind of body.
    """
    kind = content_type(request.headers)
    if kind != JSON:
        raise _wrong_type(kind, "JSON with a folder")
    example = '{"folder": "/home/me/Pictures"}'
    return (await _read_json(request, None, FolderToIndex, example)).folder


async def read_uploads(request: Request) -> list[Upload]:
    """The pictures of a form, with the label that the form gives all of them.

    Raises QueryError; HTTPException 400 or 415 for another kind of body.
    """
    kind = content_type(request.headers)
    if kind != "multipart/form-data":
        raise _wrong_type(kind, "a form with parts named image")
    async with request.form(max_files=MOST_PICTURES, max_fields=MOST_FIELDS) as parts:
        label = parts.get("label")
        if isinstance(label, UploadFile) or len(label or "") > LONGEST_LABEL:
            raise QueryError(f"label must be a text of at most {LONGEST_LABEL:,} characters")
        return [
            Upload(_plain_name(file.filename), await file.read(), _label(label))
            for file in _files(parts, "label")
        ]


def _asked(
    query: bytes | int | Text,
    parameters: SearchParameters,
    like: Sequence[bytes] = (),
    unlike: Sequence[bytes] = (),
) -> Asked:
    return Asked(
        query,
        parameters.options(),
        [*like, *parameters.like],
        [*unlike, *parameters.unlike],
        parameters.sizes,
    )


def validation_message(errors: Sequence[Any]) -> str:
    """One sentence from pydantic's list of errors."""
    sentences = []
    for error in errors[:3]:
        place = ".".join(
            str(part) for part in error["loc"] if part not in ("query", "path", "body")
        )
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "literal_error":
            message = f"must be {error['ctx']['expected']}, not {error['input']!r:.60}"
        sentences.append(f"{place or 'the body'}: {message[0].lower()}{message[1:]}")
    return "; ".join(sentences)


def _files(parts: FormData, *others: str) -> list[UploadFile]:
    """The files of a form. Raises QueryError when there are none, or there are parts other than
    `image` and `others`."""
    unknown = sorted(set(parts) - {"image", *others})
    if unknown:
        raise QueryError(
            f"the form has an unknown part {unknown[0]!r}: name pictures image, and put parameters "
            "in the URL"
        )
    files = [part for part in parts.getlist("image") if isinstance(part, UploadFile)]
    if not files or len(files) < len(parts.getlist("image")):
        raise QueryError("the form needs a part named image that is a file, with a file name")
    return files


def _more_files(parts: FormData, name: str) -> list[UploadFile]:
    """The files of the parts `name` of a form, if there are any. Raises QueryError."""
    files = [part for part in parts.getlist(name) if isinstance(part, UploadFile)]
    if len(files) < len(parts.getlist(name)):
        raise QueryError(f"a part named {name} must be a file; ids go into the URL as {name}=17")
    return files


async def _read_json(
    request: Request, parameters: SearchParameters | None, model: type[M], example: str
) -> M:
    """A JSON body such as `example`; the URL gives the parameters that the body leaves out. Its
    size is limited by `Protection`."""
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise HTTPException(400, f"the body is not JSON: send one object, as {example}") from None
    if not isinstance(body, dict):
        raise QueryError(f"the body must be one object, as {example}")
    _require_known(body, model.model_fields, "the body")
    try:
        given = {} if parameters is None else parameters.model_dump(exclude_unset=True)
        return model.model_validate({**given, **body})
    except ValidationError as error:
        raise QueryError(validation_message(error.errors())) from None


def _wrong_type(kind: str, wanted: str) -> HTTPException:
    return HTTPException(415, f"send {wanted}, not {kind or 'a body without Content-Type'}")


def _plain_name(name: str | None) -> str:
    """The last part of an uploaded file's name, without characters that cannot be shown or
    stored."""
    last = PurePosixPath((name or "").replace("\\", "/")).name
    printable = "".join(c for c in last if c.isprintable() and not "\ud800" <= c <= "\udfff")
    return printable[:LONGEST_NAME] or "picture"
