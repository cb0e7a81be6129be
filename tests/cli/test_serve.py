from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import run
from wingbar.serving import run as server
from wingbar.serving.settings import Settings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of the servers that a test would have run."""
    settings: list[Settings] = []

    def noted(given: Settings, started: Callable[[str], None]) -> None:
        settings.append(given)
        started("http://127.0.0.1:5/")

    monkeypatch.setattr(server, "run", noted)
    monkeypatch.delenv("WINGBAR_TOKEN", raising=False)
    monkeypatch.delenv("WINGBAR_READ_TOKEN", raising=False)
    return settings


def test_the_defaults_are_those_of_the_settings(
    served: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "serve", "a.wb")[:2] == (
        0,
        "wingbar serves a.wb at http://127.0.0.1:5/   (Ctrl-C stops it)\n",
    )
    assert served == [Settings(index=Path("a.wb"))]


def test_several_indexes_are_served_as_one(
    served: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    url = "postgresql://me:secret@server/pictures/c"
    code, out, err = run(capsys, "serve", "a.wb", "b.wb", url)
    assert (code, err) == (0, "")
    assert out.startswith("wingbar serves a.wb, b.wb, postgresql://me@server/pictures/c at ")
    run(capsys, "serve", url)
    [three, one] = [settings.index for settings in served]
    assert isinstance(three, tuple)
    assert [str(place) for place in three[:2]] == ["a.wb", "b.wb"]
    assert one == three[2:]


def test_flags_become_settings(served: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    flags = (
        "--host 0.0.0.0 --port 0 --token write-token --read-token read-token "
        "--allow-host a.example --allow-host b.example --cors https://c.example --json"
    )
    code, out, err = run(capsys, "serve", "a.wb", *flags.split())
    assert (code, out, err) == (0, '{"url": "http://127.0.0.1:5/"}\n', "")
    assert served == [
        Settings(
            index=Path("a.wb"),
            host="0.0.0.0",
            port=0,
            token="write-token",
            read_token="read-token",
            hosts=("a.example", "b.example"),
            cors=("https://c.example",),
        )
    ]
    assert run(capsys, "serve", "a.wb", "--public")[0] == 0
    assert served[1].public
