from __future__ import annotations

import shutil
import sys
from pathlib import Path

import httpx
import pytest

from tests.servers import problem, serving
from wingbar.errors import WingbarError
from wingbar.serving import reveal
from wingbar.serving.settings import Settings


def test_commands_name_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("/photos/a, b & c.jpg")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert reveal.commands(path) == [("open", "-R", str(path))]
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    assert reveal.commands(path) == []
    assert not reveal.can_reveal()
    monkeypatch.setenv("DISPLAY", ":0")
    bus, folder = reveal.commands(path)
    assert "array:string:file:///photos/a%2C%20b%20%26%20c.jpg" in bus
    assert folder == ("xdg-open", "/photos")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert reveal.commands(path) == []


def test_the_next_command_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = f"open({str(tmp_path / 'seen')!r}, 'w').close()"
    python = sys.executable
    tried = [("no-such-command",), (python, "-c", "exit(1)"), (python, "-c", write)]
    monkeypatch.setattr(reveal, "commands", lambda path: tried)
    reveal.reveal(tmp_path)
    assert (tmp_path / "seen").exists()
    monkeypatch.setattr(reveal, "commands", lambda path: tried[:1])
    with pytest.raises(WingbarError, match="copy the path"):
        reveal.reveal(tmp_path)


def test_a_file_is_shown_over_http(
    client: httpx.Client, shared_index_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Path] = []
    monkeypatch.setattr(reveal, "reveal", shown.append)
    assert client.post("/api/items/3/reveal").status_code == 204
    assert [str(path) for path in shown] == [client.get("/api/items/3").json()["path"]]
    problem(client.post("/api/items/999/reveal"), 404)
    elsewhere = {"Origin": "https://evil.example"}
    problem(client.post("/api/items/3/reveal", headers=elsewhere), 403)
    with serving(Settings(index=shared_index_path, token="a-long-token")) as other:
        headers = {"Authorization": "Bearer a-long-token"}
        problem(other.post("/api/items/3/reveal", headers=headers), 403, "nobody but this machine")
    assert len(shown) == 1
