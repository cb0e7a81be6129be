from __future__ import annotations

import numpy as np
import pytest
from starlette.requests import Request

from wingbar.errors import StoreError
from wingbar.hamming import codes
from wingbar.index.filters import NoColumnError
from wingbar.serving import answers
from wingbar.serving.pictures import Picture


def test_an_error_has_the_status_of_the_nearest_class() -> None:
    assert answers.status_of(NoColumnError("price", ["size"])) == 422
    assert answers.status_of(StoreError("gone")) == 503
    assert answers.status_of(ValueError("a bug")) == 500


def test_json_is_short_and_has_no_nan() -> None:
    answer = answers.json_response({"name": "ü", "score": None}, 404)
    assert (answer.status_code, bytes(answer.body)) == (404, '{"name":"ü","score":null}'.encode())
    with pytest.raises(ValueError, match="not JSON compliant"):
        answers.text_of({"score": float("inf")})


def test_codes_are_texts_of_their_bits() -> None:
    bits = np.random.default_rng(0).random((3, 70)) < 0.5
    expected = ["".join("01"[bit] for bit in row) for row in bits.astype(int)]
    assert answers.bit_texts(codes.pack(bits), 70) == expected


@pytest.mark.parametrize(
    ("known", "status"),
    [("", 200), ('"other"', 200), ('"t"', 304), ('"other", W/"t"', 304), ("*", 304)],
)
def test_a_picture_that_the_browser_has_is_not_sent_again(known: str, status: int) -> None:
    headers = [(b"if-none-match", known.encode())]
    request = Request({"type": "http", "headers": headers})
    answer = answers.picture_response(request, Picture(b"data", "image/png", "t"))
    assert (answer.status_code, answer.headers["etag"]) == (status, '"t"')
    assert bytes(answer.body) == (b"data" if status == 200 else b"")
