from __future__ import annotations

import os
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, assume, settings
from schemathesis import checks

from benchmarks import fuzz_server
from tests.servers import LONG, serving
from wingbar.index.index import Index
from wingbar.serving.app import create_app
from wingbar.serving.settings import Limits, Settings

EXAMPLES = int(os.environ.get("WINGBAR_EXAMPLES", "8"))  # of each operation
MALFORMED = int(os.environ.get("WINGBAR_FUZZ", "150"))  # requests
LONGEST_QUERY = 60_000  # bytes; Uvicorn refuses URLs of 64 KiB before the app sees them


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fuzz_server.small_index(tmp_path_factory.mktemp("schemas"), 0)


@pytest.fixture(scope="module")
def client(path: Path) -> Iterator[httpx.Client]:
    with serving(Settings(index=path, limits=Limits(upload_bytes=2**20))) as client:
        yield client


schema = schemathesis.openapi.from_dict(create_app(Settings(index=Path("any.wb"))).openapi())


@pytest.mark.slow
@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_operation_conforms_to_the_document(
    case: schemathesis.Case[Any], client: httpx.Client
) -> None:
    assume(len(urlencode(case.query or {}, doseq=True)) <= LONGEST_QUERY)
    promises = [
        checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
        checks.unsupported_method,
    ]
    case.call_and_validate(base_url=str(client.base_url).rstrip("/"), checks=promises, timeout=LONG)


@pytest.mark.slow
def test_the_document_has_an_example_of_every_body(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["description"], f"{method} {path}"
            for status, answer in operation["responses"].items():
                problem = "application/problem+json" in answer.get("content", {})
                assert problem == (int(status) >= 400), f"{method} {path} {status}"
            if (
                "requestBody" in operation
                and "application/json" in operation["requestBody"]["content"]
            ):
                assert operation["requestBody"]["content"]["application/json"]["example"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


# Starlette leaves the temporary file of a part that is cut off to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_malformed_requests_are_answered_as_documented(client: httpx.Client, path: Path) -> None:
    document = client.get("/openapi.json").json()
    connection = HTTPConnection(client.base_url.host, client.base_url.port or 80, timeout=LONG)
    faults = []
    for request in fuzz_server.requests(MALFORMED, seed=0):
        status, kind = fuzz_server.send(connection, request)
        faults.append(fuzz_server.wrong(request, status, kind, document))
    connection.close()
    assert [fault for fault in faults if fault] == []
    assert client.get("/readyz").status_code == 200
    with Index.open(path) as index:
        assert index.verify() == []


def test_malformed_requests_are_the_same_for_a_seed_and_of_all_kinds() -> None:
    first = list(fuzz_server.requests(400, seed=7))
    assert first == list(fuzz_server.requests(400, seed=7))
    assert first != list(fuzz_server.requests(400, seed=8))
    assert {(request.method, request.route) for request in first} >= {
        ("POST", "/api/search"),
        ("POST", "/api/search/batch"),
        ("POST", "/api/items"),
        ("GET", "/api/items"),
        ("GET", "/api/thumbs/{id}"),
    }
