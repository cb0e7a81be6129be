from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.servers import LONG, TOKEN, problem, process
from wingbar.cli import main
from wingbar.serving import run
from wingbar.serving.settings import Settings


def test_the_command_prints_its_url_and_stops_on_a_signal(shared_index_path: Path) -> None:
    with process(shared_index_path, "--token", TOKEN) as (running, client):
        assert client.get("/healthz").json() == {"status": "ok"}
        problem(client.delete("/api/items/1"), 401)
        running.terminate()
        assert running.wait(LONG) in (0, -15)


def test_errors_of_the_command_are_one_line(
    shared_index_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: object) -> str:
        assert main.main(["serve", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "make one with wingbar index" in said(tmp_path / "none.wb")
    assert "--token" in said(shared_index_path, "--host", "0.0.0.0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"try --port {port + 1 if port < 65535 else port - 1}" in said(
            shared_index_path, "--port", port
        )
    assert "cannot listen" in said(shared_index_path, "--host", "no.such.host.invalid", "--public")


@pytest.mark.parametrize(
    ("flags", "terminal", "served"),
    [
        ([], True, True),
        ([], False, False),
        (["--no-serve"], True, False),
        (["--json"], True, False),
    ],
)
def test_the_demo_ends_in_the_server_on_a_terminal(
    flags: list[str],
    terminal: bool,
    served: bool,
    shared_index_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = SimpleNamespace(index=shared_index_path, report=SimpleNamespace(failed=()))
    monkeypatch.setattr("wingbar.demo.run", lambda *arguments, **named: shown)
    monkeypatch.setattr("wingbar.demo.record", lambda shown: {})
    monkeypatch.setattr("wingbar.demo.text", lambda shown: "done")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    serving: list[object] = []
    opened: list[str] = []

    def serve(settings: Settings, started: Callable[[str], None]) -> None:
        serving.append(settings.index)
        started("http://here")

    monkeypatch.setattr(run, "run", serve)
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    assert main.main(["demo", *flags]) == 0
    assert serving == ([shared_index_path] if served else [])
    assert opened == (["http://here"] if served else [])


def test_the_page_is_opened_with_the_flag_open(
    shared_index_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(run, "run", lambda settings, started: started("http://127.0.0.1:5/"))
    assert main.main(["serve", str(shared_index_path), "--open"]) == 0
    assert opened == ["http://127.0.0.1:5/"]
    assert "http://127.0.0.1:5/" in capsys.readouterr().out


def test_tokens_may_come_from_the_environment(
    shared_index_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Settings] = []
    monkeypatch.setattr(run, "run", lambda settings, started: given.append(settings))
    monkeypatch.setenv("WINGBAR_TOKEN", TOKEN)
    monkeypatch.setenv("WINGBAR_READ_TOKEN", "the-reading-token")
    assert (
        main.main(
            ["serve", str(shared_index_path), "--host", "0.0.0.0", "--cors", "https://a.example"]
        )
        == 0
    )
    assert (given[0].token, given[0].read_token, given[0].cors) == (
        TOKEN,
        "the-reading-token",
        ("https://a.example",),
    )


def test_serving_without_its_extra_says_what_to_install(
    shared_index_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr("wingbar.serving.run")
    monkeypatch.delitem(sys.modules, "wingbar.serving.run")
    monkeypatch.setitem(sys.modules, "uvicorn", None)  # importing it raises ImportError
    assert main.main(["serve", str(shared_index_path)]) == 2
    assert "serving needs uvicorn: run pip install 'wingbar[serve]'" in capsys.readouterr().err
