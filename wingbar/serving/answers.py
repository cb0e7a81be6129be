"""What the HTTP API answers with: records as JSON, pictures, and the status of an error."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
from fastapi import Request, Response

from wingbar.errors import ImageError, QueryError, StoreError, WingbarError
from wingbar.hamming import codes
from wingbar.index.ranking import CUT, FailedShard
from wingbar.serving.batching import BusyError
from wingbar.serving.connections import FILE_COLUMN, NotFoundError, Row
from wingbar.serving.encoder import TooLargeError
from wingbar.serving.indexing import NotAllowedError, RunningError
from wingbar.serving.overview import Overview
from wingbar.serving.pictures import Picture
from wingbar.serving.schemas import problem_record
from wingbar.serving.service import Answer, EmptyError, Service
from wingbar.serving.settings import Settings

STATUSES: dict[type[WingbarError], int] = {
    NotFoundError: 404,
    NotAllowedError: 403,
    EmptyError: 409,
    RunningError: 409,
    TooLargeError: 413,
    ImageError: 422,
    QueryError: 422,
    BusyError: 429,
    StoreError: 503,
}


def status_of(error: Exception) -> int:
    """The status of the answer to an error: that of its class, or of the nearest one above it."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def json_response(record: dict[str, Any], status: int = 200) -> Response:
    """A record as the answer. Raises ValueError as `text_of` does."""
    return Response(text_of(record), status, media_type="application/json")


def text_of(record: dict[str, Any]) -> str:
    """A record as JSON; ValueError for NaN and infinity, which JSON does not have."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def batch_response(
    answers: Sequence[Answer | WingbarError],
    milliseconds: dict[str, float],
    service: Service,
    settings: Settings,
) -> Response:
    """The answers of a batch of searches, those that failed as problems."""
    records = (
        problem_record(status_of(answer), str(answer))
        if isinstance(answer, WingbarError)
        else search_record(answer, service, settings)
        for answer in answers
    )
    results = ",".join(map(text_of, records))
    text = f'{{"results":[{results}],"milliseconds":{text_of(milliseconds)}}}'
    return Response(text, media_type="application/json")


def search_record(
    answer: Answer,
    service: Service,
    settings: Settings,
    sizes: Sequence[tuple[int, int] | None] | None = None,
) -> dict[str, Any]:
    """What a search found, as `SearchOut` describes it; `sizes` [K] are those of the pictures where
    they are asked for."""
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
            bit_texts(found.hit_codes, found.bits),
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
        "encoder": found.encoder,
        "chance_from": CUT,
        "bits": found.bits,
        "code": bit_texts(found.code, found.bits)[0],
        "query": None if size is None else {"width": size[0], "height": size[1]},
        "milliseconds": {stage: round(value, 3) for stage, value in stages.items()},
        **failed_record(service, found.hits.failed),
    }


def failed_record(service: Service, failed: Sequence[FailedShard]) -> dict[str, Any]:
    """Which shards did not answer, where several indexes are served as one."""
    if not service.is_sharded:
        return {}
    names = [
        {"name": service.public(one.name), "reason": service.public(one.reason)} for one in failed
    ]
    return {"failed": names}


def row_record(row: Row, settings: Settings, size: tuple[int, int] | None) -> dict[str, Any]:
    """An item of the list, as `ItemsOut` describes it."""
    item = row.item
    return {
        "id": row.id,
        **_named(item.path, item.label, item.columns),
        "size": item.size,
        "code": bit_texts(row.code, row.bits)[0],
        **_links(row.id),
        "available": row.available,
        **_file_record(item.path, settings, size),
    }


def map_record(found: Overview, label_of: Sequence[str | None]) -> dict[str, Any]:
    """The map, as `MapOut` describes it, with the label of each item."""
    labels = sorted({label for label in label_of if label is not None})
    place = {label: i for i, label in enumerate(labels)}
    x, y = (np.round(found.places[:, axis].astype(float), 4).tolist() for axis in (0, 1))
    return {
        "ids": found.ids.tolist(),
        "x": x,
        "y": y,
        "label": [-1 if label is None else place[label] for label in label_of],
        "labels": labels,
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


def bit_texts(packed: codes.Packed, bits: int) -> list[str]:
    """Codes [N, w] uint64 as texts of 0 and 1."""
    digits = codes.unpack(packed, bits).astype(np.uint8) + np.uint8(ord("0"))
    return [row.tobytes().decode() for row in digits]


def picture_response(request: Request, picture: Picture) -> Response:
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
