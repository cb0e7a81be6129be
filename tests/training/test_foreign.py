from __future__ import annotations

import sys
import warnings
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import picture
from tests.model.encoders import SIZE
from wingbar.errors import ModelError
from wingbar.images import Preprocessing, load
from wingbar.model.imported import IMAGENET_MEAN, IMAGENET_STD, Form
from wingbar.training import foreign

SEEN = Preprocessing(size=SIZE, squash=True)


class Small(nn.Module):
    """A network with a classifier, as those of torchvision have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, 4)
        self.fc: nn.Module = nn.Linear(8, 100)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def expected(network: nn.Module, form: Form) -> np.ndarray:
    """What PyTorch gives for ten pictures, of unit length."""
    pixels = np.stack([load(picture(i), form.preprocessing) for i in range(10)])
    x = (pixels / 255.0 - np.array(form.mean)) / np.array(form.std)
    with torch.no_grad():
        found = network(torch.from_numpy(x).permute(0, 3, 1, 2).float())
    return nn.functional.normalize(found, dim=1).numpy()


def found(model: Any) -> np.ndarray:
    return model.run([load(picture(i), model.preprocessing) for i in range(10)])


def test_a_torchscript_file(tmp_path: Path) -> None:
    """As SSCD is published."""
    torch.manual_seed(0)
    network, form = Small().eval(), Form(preprocessing=SEEN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, about TorchScript itself
        traced: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
            network, torch.zeros(1, 3, SIZE, SIZE)
        )
        traced.save(str(tmp_path / "a.pt"))
    model = foreign.from_torchscript(tmp_path / "a.pt", form, "sscd")
    np.testing.assert_allclose(found(model), expected(network, form), atol=1e-4)
    (tmp_path / "b.pt").write_bytes(b"words")
    with pytest.raises(ModelError, match="is no TorchScript file"):
        foreign.from_torchscript(tmp_path / "b.pt", form, "words")


# -- stand-ins for libraries that a machine need not have


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Small:
    """What the libraries make; their configurations are those of a ResNet."""
    torch.manual_seed(0)
    made = Small().eval()
    timm: Any = ModuleType("timm")
    config = {
        "input_size": (3, SIZE, SIZE),
        "crop_pct": 0.875,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }

    def create_model(name: str, pretrained: bool, num_classes: int) -> nn.Module:
        assert (pretrained, num_classes) == (True, 0)
        if name == "none":
            raise RuntimeError("Unknown model (none)")
        made.fc = nn.Identity()
        return made

    timm.create_model = create_model
    timm.data = SimpleNamespace(resolve_model_data_config=lambda network: config)
    timm.config = config
    models: Any = ModuleType("torchvision.models")

    class Interpolation(Enum):
        BILINEAR = "bilinear"

    preset = SimpleNamespace(
        crop_size=[SIZE],
        resize_size=[SIZE + 8],
        interpolation=Interpolation.BILINEAR,
        mean=list(IMAGENET_MEAN),
        std=list(IMAGENET_STD),
    )
    weights = SimpleNamespace(DEFAULT=SimpleNamespace(transforms=lambda: preset))
    models.get_model_weights = lambda name: weights
    models.get_model = lambda name, weights: made
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return made


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("timm:small", Preprocessing(size=SIZE, edge=36, bicubic=True)),
        ("torchvision:small", Preprocessing(size=SIZE, edge=40)),
    ],
)
def test_a_network_of_a_library(network: Small, name: str, seen: Preprocessing) -> None:
    model = foreign.from_library(name)
    assert (model.name, model.dim, model.preprocessing) == ("small", 8, seen)
    assert model.record["imported"]["from"] == name
    form = Form(preprocessing=seen)
    np.testing.assert_allclose(found(model), expected(network, form), atol=1e-4)
    assert isinstance(network.fc, nn.Identity)


@pytest.mark.parametrize(
    "change",
    [
        {"crop_mode": "border"},
        {"interpolation": "lanczos"},
        {"input_size": (3, 32, 64)},
        {"crop_mode": "squash"},
    ],
)
def test_a_preparation_that_wingbar_does_not_have(network: Small, change: dict[str, Any]) -> None:
    sys.modules["timm"].config.update(change)
    with pytest.raises(ModelError, match="wingbar"):
        foreign.from_library("small")


def test_networks_and_libraries_that_are_not_there(
    network: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"timm cannot make none \(Unknown model"):
        foreign.from_library("none")
    with pytest.raises(ModelError, match="are from timm or torchvision, not from keras"):
        foreign.from_library("keras:small")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match="timm cannot be imported") as refused:
        foreign.from_library("timm:small")
    assert str(refused.value).isprintable()
