"""Running servers that several test files use."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.servers import serving
from wingbar.serving.settings import Settings


@pytest.fixture(scope="module")
def client(shared_index_path: Path) -> Iterator[httpx.Client]:
    """A server of an index that no test may change."""
    with serving(Settings(index=shared_index_path)) as client:
        yield client


@pytest.fixture
def own(shared_index_path: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    """A server of an index of 60 photos, own.wb, that a test may change, but not the photos."""
    path = Path(shutil.copy(shared_index_path, tmp_path / "own.wb"))
    with serving(Settings(index=path)) as client:
        yield client
