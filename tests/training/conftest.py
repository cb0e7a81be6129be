from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import write_classes
from tests.runs import CONFIG, SMALL
from wingbar.data.readers import read_images
from wingbar.methods import dlbhc
from wingbar.training import export, loop


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


@pytest.fixture
def exported_before(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of `trained` is what every run exports, in no time: right for a run with the same
    weights only, and a run with others is refused when its export is compared with them."""
    network = (trained / "model.onnx").read_bytes()
    monkeypatch.setattr(export, "to_onnx", lambda net, preprocessing: network)
