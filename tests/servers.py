"""A server in a thread or a process, and requests to it."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from tests.conftest import picture
from tests.model.test_model import trained_model
from wingbar.index.index import Index
from wingbar.serving import app, run
from wingbar.serving.encoder import Models
from wingbar.serving.service import Service
from wingbar.serving.settings import Limits, Settings

LONG = 120.0  # seconds; only a server that hangs takes so long
TOKEN, READ = "the-writing-token", "the-reading-token"


@contextmanager
def serving(settings: Settings) -> Iterator[httpx.Client]:
    """A server in a thread, and a client of it. A request may take LONG, unless the settings have
    another limit than the default."""
    if settings.limits.seconds == Limits().seconds:
        settings = replace(settings, limits=replace(settings.limits, seconds=LONG))
    application = app.create_app(settings)
    with run.bound("127.0.0.1", 0) as listening:
        running = uvicorn.Server(run.configured(application))
        thread = threading.Thread(target=running.run, args=([listening],))
        thread.start()
        try:
            while not running.started and thread.is_alive():
                time.sleep(0.01)
            assert running.started
            with httpx.Client(
                base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=LONG
            ) as client:
                client.__dict__["service"] = application.state.service
                yield client
        finally:
            running.should_exit = True
            thread.join()


@contextmanager
def process(path: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """`wingbar serve` as a process, and a client of it."""
    command = [sys.executable, "-m", "wingbar", "serve", str(path), "--port", "0", "--json", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            with httpx.Client(
                base_url=json.loads(running.stdout.readline())["url"], timeout=LONG
            ) as client:
                yield running, client
        finally:
            running.kill()


def small_index(path: Path, source: Any) -> None:
    """An index by a model that looks at nothing but the mean colour, which is quick."""
    with Index.create(path, trained_model()) as index:
        index.add(source)


def service_of(client: httpx.Client) -> Service:
    """The service behind a client of `serving`."""
    service: Service = client.__dict__["service"]
    return service


def models_of(client: httpx.Client) -> Models:
    """The models that the server behind a client of `serving` runs."""
    return service_of(client).encoder()._models


class Stuck:
    """Makes the network of a server wait until `go_on` is set."""

    def __init__(self, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = threading.Event()
        models = models_of(client)
        run = models.single_core.run
        for model in (models.single_core, models.all_cores):
            monkeypatch.setattr(model, "run", lambda pixels: self.go_on.wait(LONG) and run(pixels))


def jpeg(seed: int = 5, **options: Any) -> bytes:
    """A drawn picture as bytes."""
    out = io.BytesIO()
    picture(seed, **options).save(out, "JPEG")
    return out.getvalue()


def ask(client: httpx.Client, data: bytes, **parameters: Any) -> httpx.Response:
    """The answer to a search for a picture."""
    return client.post(
        "/api/search", content=data, params=parameters, headers={"Content-Type": "image/jpeg"}
    )


def problem(answer: httpx.Response, status: int, *words: str) -> str:
    """The detail of a problem, after checking that the answer is one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) == {"type", "title", "status", "detail"}
    assert body["status"] == status
    for word in words:
        assert word in body["detail"], body["detail"]
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1
    return str(body["detail"])


def raw(client: httpx.Client, request: bytes) -> bytes:
    """All bytes that the server sends in answer to the bytes of a request."""
    with socket.create_connection(
        (client.base_url.host, client.base_url.port or 80), timeout=LONG
    ) as connection:
        connection.sendall(request)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        return b"".join(parts)


def metrics(client: httpx.Client) -> dict[str, float]:
    """The values of /metrics by name and labels."""
    lines = [
        line.rsplit(" ", 1)
        for line in client.get("/metrics").text.splitlines()
        if not line.startswith("#")
    ]
    return {name: float(value) for name, value in lines}
