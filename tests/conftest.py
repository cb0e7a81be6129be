"""Pictures made by code, so that tests need no downloads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# One process per core: more threads would only wait, and those of a library spin while they wait.
# It has to be said before NumPy is loaded, which starts the threads of its BLAS.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        worker = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
        os.sched_setaffinity(0, {cores[worker % len(cores)]})

import numpy as np
import pytest
from PIL import Image

from tests.databases import Server, postgres, require_milvus
from tests.small_network import write_small_general
from wingbar.index.index import Index
from wingbar.model import model

BUILT_IN = model.GENERAL

HUES = {"red": (200, 40, 30), "green": (40, 170, 60), "blue": (30, 60, 200)}


def picture(
    seed: int, size: tuple[int, int] = (96, 72), hue: tuple[int, int, int] = (128, 128, 128)
) -> Image.Image:
    """A smooth random RGB picture of (width, height) around a colour."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(-60, 60, (5, 6, 3)) + np.array(hue)
    return Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )


def write_classes(folder: Path, each: int, first_seed: int = 0) -> Path:
    """A folder of class folders red, green and blue with `each` JPEGs in every one."""
    for c, (name, hue) in enumerate(HUES.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            picture(first_seed + 1000 * c + i, hue=hue).save(folder / name / f"{i:03}.jpg")
    return folder


@pytest.fixture(scope="session", autouse=True)
def small_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a small network, which is `general` in this process, but in a test that
    uses `built_in_network`."""
    with pytest.MonkeyPatch.context() as patch:
        folder = write_small_general(tmp_path_factory.mktemp("models") / "general")
        patch.setattr(model, "GENERAL", folder)
        # no models but those of the tests
        (folder.parent / "installed").mkdir(exist_ok=True)
        patch.setenv("WINGBAR_MODELS", str(folder.parent / "installed"))
        yield folder


@pytest.fixture
def built_in_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this test `general` is the network that wingbar brings."""
    monkeypatch.setattr(model, "GENERAL", BUILT_IN)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "photos", 8)


@pytest.fixture(scope="session")
def shared_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders that no test may change."""
    return write_classes(tmp_path_factory.mktemp("shared") / "photos", 20)


@pytest.fixture(scope="session")
def shared_index_path(shared_photos: Path) -> Path:
    """An index of `shared_photos` with 24 bits that no test may change."""
    path = shared_photos.parent / "shared.wb"
    with Index.create(path) as index:
        index.add(shared_photos, bits=24)
    return path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL server with pgvector; the test is skipped where none is installed."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def milvus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a file of Milvus Lite can be; the test is skipped where that is not installed."""
    require_milvus()
    return tmp_path_factory.mktemp("milvus") / "m.db"
