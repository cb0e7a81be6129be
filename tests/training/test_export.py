from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.conftest import picture
from tests.model.test_model import trained_model
from wingbar.data.readers import read_images
from wingbar.errors import ModelError
from wingbar.images import Preprocessing, load
from wingbar.methods import Output, dlbhc
from wingbar.model.model import Model, with_record
from wingbar.networks import backbones
from wingbar.training import export


def pixels(count: int, size: int = 32) -> np.ndarray:
    return np.stack([load(picture(i), Preprocessing(size=size)) for i in range(count)])


def net(name: str = "resnet8") -> dlbhc.Net:
    torch.manual_seed(0)
    return dlbhc.Net(
        backbones.create(name), dlbhc.Config(bits=20, latent_std=0.1, latent_bias=0.0), 3
    ).eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet8", 32),
        ("resnet8", 8),
        ("resnet20", 28),
        ("efficientnet_lite0", 64),
        ("resnet18", 64),
    ],
)
def test_onnx_gives_what_pytorch_gives(name: str, size: int) -> None:
    made = net(name)
    session = onnxruntime.InferenceSession(
        export.to_onnx(made, Preprocessing(size=size)), providers=["CPUExecutionProvider"]
    )
    for batch in (1, 5):
        given = pixels(batch, size)
        with torch.no_grad():
            expected = export.Exported(made)(torch.from_numpy(given))
        for found, exact in zip(session.run(None, {"pixels": given}), expected, strict=True):
            np.testing.assert_allclose(found, exact, atol=1e-4)


@pytest.mark.slow
def test_any_size_where_the_network_allows_it() -> None:
    made = net()
    session = onnxruntime.InferenceSession(
        export.to_onnx(made, Preprocessing(size=32)), providers=["CPUExecutionProvider"]
    )
    given = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
    with torch.no_grad():
        expected = export.Exported(made)(torch.from_numpy(given))[0]
    np.testing.assert_allclose(session.run(["feature"], {"pixels": given})[0], expected, atol=1e-4)


def test_what_the_exporter_prints_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: print("Applied 3 rules."))
    with pytest.raises(ModelError, match="could not export"):
        export.to_onnx(net(), Preprocessing(size=32))
    assert capsys.readouterr().out == ""


class Same(backbones.Backbone):
    """A few layers padded as those of EfficientNet-Lite0, the whole of which takes a minute
    to export."""

    widths, width, step = (4, 6, 8), 8, 32

    def __init__(self) -> None:
        super().__init__()
        shapes = (
            (3, 4, 3, 2),
            (4, 4, 5, 2),
            (4, 4, 3, 2),
            (4, 6, 5, 1),
            (6, 6, 3, 2),
            (6, 8, 5, 2),
        )
        self.layers = torch.nn.ModuleList(
            backbones.SameConv(i, o, kernel, stride) for i, o, kernel, stride in shapes
        )

    def maps(self, x: torch.Tensor, count: int) -> list[torch.Tensor]:
        found = []
        for i, layer in enumerate(self.layers):
            x = torch.relu(layer(x))
            if i in (2, 4, 5):
                found.append(x)
        return found[:count]


@pytest.mark.slow
def test_whole_pictures_of_any_shape_in_steps() -> None:
    torch.manual_seed(0)
    made = dlbhc.Net(Same(), dlbhc.Config(bits=20), 3).eval()
    preprocessing = Preprocessing(size=64, whole=True, scales=(1.0, 2.0))
    network = export.to_onnx(made, preprocessing)
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    for shape in ((32, 32), (96, 64), (160, 224)):
        given = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), np.uint8)
        with torch.no_grad():
            expected = export.Exported(made)(torch.from_numpy(given))[0]
        np.testing.assert_allclose(
            session.run(["feature"], {"pixels": given})[0], expected, atol=1e-4
        )
    record = {
        "name": "m",
        "method": "dlbhc",
        "dim": 8,
        "bits": 20,
        "fine": "pool",
        "preparation": {"size": 64, "whole": True},
    }
    model = Model(with_record({"model.onnx": network}, record))
    assert model.with_preprocessing(Preprocessing(size=96)).encode([picture(1)]).features.shape == (
        1,
        8,
    )
    with pytest.raises(ModelError, match="multiples of 32 pixels, not 50"):
        model.with_preprocessing(Preprocessing(size=50))
    with pytest.raises(ModelError, match="squares of one size"):
        export.to_onnx(net("alexnet"), preprocessing)


def test_a_model_that_does_not_agree_is_refused() -> None:
    model = trained_model()
    given = pixels(4, 16)
    raw = model.run(list(given))
    feature, logits = raw[:, :3].copy(), raw[:, 3:].copy()
    export.check_parity(model, list(given), feature, logits)
    with pytest.raises(ModelError, match="features differ"):
        export.check_parity(model, list(given), feature + 0.01, logits)
    wrong = logits.copy()
    wrong[2, 5] *= -1
    with pytest.raises(ModelError, match="1 bits of the exported model differ"):
        export.check_parity(model, list(given), feature, wrong)
    near = logits.copy()
    near[:, 0] = -1e-9 * np.sign(near[:, 0])  # too close to zero to say
    export.check_parity(model, list(given), feature, near)


def test_multiply_accumulates_by_hand() -> None:
    class Tiny(backbones.Backbone):
        widths, width = (4, 4, 4), 4

        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, 2, 1, bias=False)
            self.deep = torch.nn.Conv2d(4, 4, 3, 1, 1, groups=4, bias=False)
            self.bn = torch.nn.BatchNorm2d(4)

        def maps(self, x: torch.Tensor, count: int) -> list[torch.Tensor]:
            return [self.bn(self.deep(self.conv(x)))] * 3

    made = dlbhc.Net(Tiny(), dlbhc.Config(bits=6), 3)
    conv, deep, bn, latent = 4 * 8 * 8 * 27, 4 * 8 * 8 * 9, 4 * 4 * 8 * 8, 4 * 6
    parameters = 108 + 36 + 8 + 24 + 6
    expected = {
        "parameters": parameters,
        "macs": conv + deep + bn + latent,
        "parameters_total": parameters,
    }
    assert export.cost(made, 16) == expected


def test_resnet18_costs_what_is_published() -> None:
    """1.8236 G in the tables of the hashing literature includes a small head; the backbone alone is
    1.8234 G at 224."""

    class Alone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbones.create("resnet18")

        def forward(self, pixels: torch.Tensor) -> Output:
            feature = self.backbone(pixels)
            return Output(feature, feature)

    found = export.cost(Alone(), 224)
    assert found["parameters"] == 11_176_512
    assert found["macs"] == pytest.approx(1.8236e9, rel=5e-4)


@pytest.mark.slow
def test_the_exported_model_equals_the_saved_weights(trained: Path, data: Path) -> None:
    net = export.load_net(trained).eval()
    model = Model.load(trained)
    pixels = np.stack([load(path, model.preprocessing) for path in read_images(data).paths])
    with torch.no_grad():
        feature, logits = export.Exported(net)(torch.from_numpy(pixels))
    embedded = model.encode_pixels(pixels)
    np.testing.assert_allclose(embedded.features, feature, atol=1e-4)
    np.testing.assert_allclose(embedded.logits, logits, atol=1e-3)


@pytest.mark.slow
def test_weights_that_were_exchanged_are_noticed(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ModelError, match="is not the file that"):
        export.load_net(tmp_path / "m")


@pytest.mark.slow
def test_a_network_of_another_version_is_refused_with_its_version(
    trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "m")
    record = json.loads((tmp_path / "m" / "model.json").read_text())
    record["config"]["a_setting_that_went"] = True
    (tmp_path / "m" / "model.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"a_setting_that_went.*written by wingbar \d"):
        export.load_net(tmp_path / "m")
