from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import write_classes
from tests.runs import CONFIG, SMALL
from wingbar.data.readers import read_images
from wingbar.methods import dlbhc
from wingbar.training import loop


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with 12 images each."""
    return write_classes(tmp_path_factory.mktemp("train") / "photos", 12)


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of SMALL on `data` that no test may change."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    loop.train(dlbhc, read_images(data), output, CONFIG, SMALL)
    return output
