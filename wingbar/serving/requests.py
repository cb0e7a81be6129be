"""Read queries and uploads from HTTP requests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from wingbar.errors import QueryError
from wingbar.index.ranking import SearchOptions
from wingbar.serving.middleware import JSON, content_type
from wingbar.serving.schemas import LONGEST_LABEL, MOST_PICTURES, ByItem, ByItems, SearchParameters
from wingbar.serving.service import Service
from wingbar.serving.uploads import Upload

M = TypeVar("M", bound=SearchParameters)

LONGEST_NAME = 200  # characters of an uploaded file's name; the rest is cut off
MOST_FIELDS = 8  # parts of a form that are not files


async def read_query(
    request: Request, service: Service, parameters: SearchParameters
) -> tuple[bytes | int, SearchOptions]:
    """The picture or the item's id that a request searches for, and how to search.

    Raises QueryError, ImageError, NotFoundError; HTTPException 400 or 415 for another kind of body.
    """
    kind = content_type(request.headers)
    if kind.startswith("image/") or kind == "application/octet-stream":
        return await request.body(), parameters.options()
    if kind == "multipart/form-data":
        async with request.form(max_files=1, max_fields=MOST_FIELDS) as parts:
            return await _files(parts)[0].read(), parameters.options()
    if kind == JSON:
        asked = await _read_json(request, parameters, ByItem)
        if (asked.id is None) == (asked.path is None):
            raise QueryError("name one item: give either id or path")
        id_ = asked.id if asked.id is not None else await service.id_of_path(asked.path or "")
        return id_, asked.options()
    raise _wrong_type(
        kind,
        "a picture (Content-Type: image/jpeg, or any image), a form with the part image, or JSON "
        "with an id",
    )


async def read_queries(
    request: Request, parameters: SearchParameters
) -> tuple[Sequence[bytes | int], SearchOptions]:
    """The pictures or ids that a request searches for, and how to search. Raises as `read_query`
    does."""
    kind = content_type(request.headers)
    if kind == "multipart/form-data":
        async with request.form(max_files=MOST_PICTURES, max_fields=MOST_FIELDS) as parts:
            return [await file.read() for file in _files(parts)], parameters.options()
    if kind == JSON:
        asked = await _read_json(request, parameters, ByItems)
        return asked.ids, asked.options()
    raise _wrong_type(kind, "a form with parts named image, or JSON with ids")


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
        label = (label or "").strip() or None
        return [
            Upload(_plain_name(file.filename), await file.read(), label)
            for file in _files(parts, "label")
        ]


def validation_message(errors: Sequence[Any]) -> str:
    """One sentence from pydantic's list of errors."""
    sentences = []
    for error in errors[:3]:
        place = ".".join(
            str(part) for part in error["loc"] if part not in ("query", "path", "body")
        )
        message = error["msg"].removeprefix("Value error, ")
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


async def _read_json(request: Request, parameters: SearchParameters, model: type[M]) -> M:
    """A JSON body; the URL gives the parameters that the body leaves out. Its size is limited by
    `Protection`."""
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise HTTPException(400, 'the body is not JSON: send one object, as {"id": 17}') from None
    if not isinstance(body, dict):
        raise QueryError('the body must be one object, as {"id": 17}')
    # each unknown key would get an error of its own: a few say enough
    unknown = [key for key in body if key not in model.model_fields]
    for key in unknown[MOST_FIELDS:]:
        del body[key]
    try:
        return model.model_validate({**parameters.model_dump(exclude_unset=True), **body})
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
