from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers import READ, TOKEN
from wingbar.errors import WingbarError
from wingbar.serving.settings import Settings


def test_a_server_that_others_can_reach_needs_a_token_or_public(tmp_path: Path) -> None:
    index = tmp_path / "a.wb"
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(WingbarError, match="--token"):
            Settings(index=index, host=host)
        assert Settings(index=index, host=host, token=TOKEN).reading_needs_token
        assert not Settings(index=index, host=host, public=True).reading_needs_token
        assert not Settings(index=index, host=host, public=True).writing_allowed
        assert Settings(index=index, host=host, public=True, token=TOKEN).writing_allowed
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert Settings(index=index, host=host).writing_allowed
        assert not Settings(index=index, host=host, token=TOKEN).reading_needs_token
        assert Settings(index=index, host=host, read_token=READ).reading_needs_token
        assert Settings(index=index, host=host).shows_paths
    for more in (
        {"token": TOKEN},
        {"read_token": READ},
        {"public": True},
        {"hosts": ("photos.example.org",), "public": True},
        {"cors": ("https://photos.example.org",)},
        {"host": "0.0.0.0", "public": True},
    ):
        assert not Settings(**{"index": index, **more}).shows_paths  # type: ignore[arg-type]
        assert not Settings(index=index, host=host, read_token=READ).writing_allowed
    with pytest.raises(WingbarError, match=r"photos.example.org can be reached"):
        Settings(index=index, hosts=("photos.example.org",))
    for token in ("short", "with space in it", "umläute-im-token", "line\nbreak-token"):
        with pytest.raises(WingbarError, match="at least 8"):
            Settings(index=index, token=token)
    with pytest.raises(WingbarError, match="the same"):
        Settings(index=index, token=TOKEN, read_token=TOKEN)
    for origin in ("photos.example.org", "https://photos.example.org/", "*", "null"):
        with pytest.raises(WingbarError, match="--cors"):
            Settings(index=index, cors=(origin,))
