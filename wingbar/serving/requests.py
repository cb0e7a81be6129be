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
from wingbar.serving.schemas import (
    MOST_PICTURES,
    ByItem,
    ByItems,
    RankingIn,
)
from wingbar.serving.service import Service
from wingbar.serving.uploads import Upload

Asked = TypeVar("Asked", bound=RankingIn)


# -- what comes in


async def _question(
    request: Request, service: Service, parameters: RankingIn
) -> tuple[bytes | int, SearchOptions]:
    """A picture or an item's id, and how to search."""
    kind = _content_type(request)
    if kind.startswith("image/") or kind == "application/octet-stream":
        return await request.body(), parameters.options()
    if kind == "multipart/form-data":
        async with request.form(max_files=1, max_fields=8) as parts:
            return await _files(parts)[0].read(), parameters.options()
    if kind == "application/json":
        asked = await _parsed(request, parameters, ByItem)
        if (asked.id is None) == (asked.path is None):
            raise QueryError("name one item: either id or path")
        id_ = asked.id if asked.id is not None else await service.id_of_path(asked.path or "")
        return id_, asked.options()
    raise _wrong_type(
        kind,
        "a picture (Content-Type: image/jpeg, or any image), a form with the part image, or JSON "
        "with an id",
    )


async def _questions(
    request: Request, service: Service, parameters: RankingIn
) -> tuple[Sequence[bytes | int], SearchOptions]:
    """Several pictures, or ids."""
    kind = _content_type(request)
    if kind == "multipart/form-data":
        async with request.form(max_files=MOST_PICTURES, max_fields=8) as parts:
            return [await file.read() for file in _files(parts)], parameters.options()
    if kind == "application/json":
        asked = await _parsed(request, parameters, ByItems)
        return asked.ids, asked.options()
    raise _wrong_type(kind, "a form with parts named image, or JSON with ids")


async def _uploads(request: Request, service: Service) -> list[Upload]:
    """Pictures to be stored."""
    kind = _content_type(request)
    if kind != "multipart/form-data":
        raise _wrong_type(kind, "a form with parts named image")
    async with request.form(max_files=MOST_PICTURES, max_fields=8) as parts:
        label = parts.get("label")
        if isinstance(label, UploadFile) or len(label or "") > 1000:
            raise QueryError("label is a text of at most 1,000 letters")
        label = (label or "").strip() or None
        return [
            Upload(_plain_name(file.filename), await file.read(), label)
            for file in _files(parts, "label")
        ]


def _files(parts: FormData, *others: str) -> list[UploadFile]:
    """The files of a form. Raises QueryError when there is none, or something else."""
    unknown = sorted(set(parts) - {"image", *others})
    if unknown:
        raise QueryError(
            f"the form has a part {unknown[0]!r}: pictures are named image, parameters stand in "
            "the address"
        )
    files = [part for part in parts.getlist("image") if isinstance(part, UploadFile)]
    if not files or len(files) < len(parts.getlist("image")):
        raise QueryError("the form needs a part named image that is a file, with a file name")
    return files


async def _parsed(request: Request, parameters: RankingIn, kind: type[Asked]) -> Asked:
    """A JSON body; what it does not say is taken from the address."""
    try:
        asked = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise HTTPException(400, 'the body is not JSON: send one object, as {"id": 17}') from None
    if not isinstance(asked, dict):
        raise QueryError('the body must be one object, as {"id": 17}')
    try:
        return kind.model_validate({**parameters.model_dump(exclude_unset=True), **asked})
    except ValidationError as error:
        raise QueryError(_said(error.errors())) from None


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _wrong_type(kind: str, wanted: str) -> HTTPException:
    return HTTPException(415, f"this takes {wanted}, not {kind or 'a body without Content-Type'}")


def _said(errors: Sequence[Any]) -> str:
    """One sentence from pydantic's list of errors."""
    said = []
    for error in errors[:3]:
        place = ".".join(
            str(part) for part in error["loc"] if part not in ("query", "path", "body")
        )
        message = error["msg"].removeprefix("Value error, ")
        said.append(f"{place or 'the body'}: {message[0].lower()}{message[1:]}")
    return "; ".join(said)


def _plain_name(name: str | None) -> str:
    """The last part of an uploaded file's name, of letters that can be shown and stored."""
    last = PurePosixPath((name or "").replace("\\", "/")).name
    return (
        "".join(c for c in last if c.isprintable() and not "\ud800" <= c <= "\udfff")[:200]
        or "picture"
    )
