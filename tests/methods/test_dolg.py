from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import write_classes
from wingbar import images
from wingbar.cli.main import parser_for
from wingbar.cli.options import from_field_flags
from wingbar.data.readers import read_dataset, read_images
from wingbar.errors import TrainingError
from wingbar.evaluation.labelled import evaluate
from wingbar.hamming import codes
from wingbar.index.index import Index
from wingbar.methods import dolg
from wingbar.model.model import Model
from wingbar.networks import backbones
from wingbar.training import export, loop
from wingbar.training.run import Run


def made(backbone: str = "resnet8", **config: Any) -> tuple[dolg.Net, dolg.Loss, dolg.Config]:
    torch.manual_seed(0)
    settings = dolg.Config(**{"bits": 8, "dim": 24, "hidden": 16, **config})
    net = backbones.create(backbone)
    return dolg.Net(net, settings, 5), dolg.Loss(net, settings, 5, 40), settings


def pictures(count: int, size: int = 32) -> torch.Tensor:
    return torch.randint(
        0,
        256,
        (count, size, size, 3),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(3),
    )


def count(module: torch.nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_shapes_and_parameters_as_worked_out_by_hand(name: str) -> None:
    """ResNet-50 without its classifier has 23,508,032 parameters, ResNet-101 42,500,160."""
    body = {"resnet50": 23_508_032, "resnet101": 42_500_160}[name]
    net = dolg.Net(backbones.create(name), dolg.Config(), 10).eval()
    assert count(net.backbone) == body
    assert count(net.globally) == 2048 * 1024 + 1024
    one, three = 1024 * 512 + 512, 1024 * 512 * 9 + 512
    assert count(net.aspp) == one + 3 * three + one + 5 * 512 * 1024 + 1024
    assert count(net.attention) == 1024 * 1024 + 2 * 1024 + 1024 + 1
    assert count(net.join) == 2048 * 512 + 512
    assert (
        count(net)
        == sum(map(count, (net.backbone, net.globally, net.aspp, net.attention, net.join))) + 1
    )
    with torch.no_grad():
        found = net(pictures(1, 64))
        local, score = net.local_features(net.backbone.stages(pictures(1, 64))[1])
    assert found.code is None
    assert found.feature.shape == (1, 512)
    assert (local.shape, score.shape) == ((1, 1024, 4, 4), (1, 4, 4))
    assert (score >= 0).all()


def test_the_local_branch_begins_as_the_released_one() -> None:
    """Each convolution has a standard deviation of sqrt(2 / fan_out), fan_out being kernel area
    times output channels: 1.41 for the score."""
    torch.manual_seed(0)
    net = dolg.Net(backbones.create("resnet18"), dolg.Config(hidden=64), 5)
    assert net.aspp is not None
    assert net.attention is not None
    convs = [
        part
        for branch in (net.aspp, net.attention)
        for part in branch.modules()
        if isinstance(part, torch.nn.Conv2d)
    ]
    assert len(convs) == 8
    for conv in convs:
        out, _, height, width = conv.weight.shape
        expected = math.sqrt(2 / (height * width * out))
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.3)
        assert conv.bias is None or not conv.bias.any()


def test_the_pyramid_by_hand() -> None:
    """Each output is the ReLU of a 1x1 filter over five branches: the place itself, nine places
    6, 12 and 18 apart (zeros outside of the map), and the mean over the map behind a ReLU."""
    torch.manual_seed(0)
    aspp = dolg.Aspp(3, 4).double()
    size = 40
    maps = torch.randn(1, 3, size, size, dtype=torch.float64)

    def filtered(conv: torch.nn.Module, places: torch.Tensor) -> torch.Tensor:
        assert isinstance(conv, torch.nn.Conv2d)
        assert conv.bias is not None
        return torch.einsum("ocij,cij->o", conv.weight, places) + conv.bias

    def around(y: int, x: int, step: int) -> torch.Tensor:
        taps = torch.zeros(3, 3, 3, dtype=torch.float64)
        for i, j in np.ndindex(3, 3):
            a, b = y + (i - 1) * step, x + (j - 1) * step
            if 0 <= a < size and 0 <= b < size:
                taps[:, i, j] = maps[0, :, a, b]
        return taps

    with torch.no_grad():
        found = aspp(maps)
        whole = filtered(aspp.pooled, maps[0].mean((1, 2))[:, None, None]).clamp(min=0)
        for y, x in ((20, 20), (3, 30), (39, 0), (17, 5)):
            branches = [filtered(aspp.narrow, maps[0, :, y, x][:, None, None])]
            for step, conv in zip((6, 12, 18), aspp.dilated, strict=True):
                branches.append(filtered(conv, around(y, x, step)))
            every = torch.cat([*branches, whole])[:, None, None]
            torch.testing.assert_close(found[0, :, y, x], filtered(aspp.join, every).clamp(min=0))
    assert 0.1 < (found == 0).double().mean() < 0.9


def test_the_descriptor_by_hand() -> None:
    """As the paper writes it, place by place: concatenate the global vector everywhere, then
    average."""
    net, _, _ = made()
    net.eval()
    x = pictures(2)
    with torch.no_grad():
        maps = net.backbone.stages(x)
        g = net.globally(net.gem(maps[2]))
        assert net.aspp is not None
        assert net.attention is not None
        mapped = net.attention.norm(net.attention.conv(net.aspp(maps[1])))
        score = torch.nn.functional.softplus(net.attention.score(torch.relu(mapped)))
        expected = []
        for b in range(2):
            places = []
            for i, j in np.ndindex(*mapped.shape[2:]):
                f = mapped[b, :, i, j].double()
                f = f / f.norm() * score[b, 0, i, j].double()
                v = g[b].double()
                places.append(torch.cat([v, f - (f @ v) / (v @ v) * v]))
            expected.append(net.join(torch.stack(places).mean(0).float()))
        torch.testing.assert_close(net(x).feature, torch.stack(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "config", [{}, {"aspp": False}, {"local": False}, {"sub_centres": 3}, {"loss": "curricular"}]
)
def test_every_part_learns(config: dict[str, Any]) -> None:
    net, loss, settings = made(**config)
    found = loss(net, pictures(10), torch.arange(10) % 5, torch.arange(10))
    found["total"].backward()
    for module in (net, loss):
        assert not [
            n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
        ]
    groups = dolg.param_groups(net, loss, settings)
    assert groups[2]["params"][0] is net.gem.p


def test_the_loss_by_hand() -> None:
    net, loss, config = made(sub_centres=2)
    net.eval()
    x, labels = pictures(4), torch.tensor([0, 3, 3, 1])
    feature = net(x).feature.detach().double().numpy()
    centres = loss.centres.detach().double().numpy()
    total = 0.0
    for i in range(4):
        cosines = [
            max(
                float(feature[i] @ c / np.linalg.norm(feature[i]) / np.linalg.norm(c))
                for c in centres[y]
            )
            for y in range(5)
        ]
        y = int(labels[i])
        cosines[y] = math.cos(math.acos(cosines[y]) + config.margin)
        total += math.log(sum(math.exp(config.scale * (c - cosines[y])) for c in cosines))
    assert loss(net, x, labels, torch.arange(4))["total"].item() == pytest.approx(
        total / 4, rel=1e-4
    )


def test_curricular_keeps_a_moving_mean_of_the_own_cosine() -> None:
    net, loss, _ = made(loss="curricular")
    net.eval()
    x, labels = pictures(4), torch.tensor([0, 3, 3, 1])
    own = float(loss.cosines(net(x).feature).detach()[torch.arange(4), labels].mean())
    loss(net, x, labels, torch.arange(4))
    assert float(loss.progress) == pytest.approx(0.01 * own, rel=1e-4)
    loss(net, x, labels, torch.arange(4))
    assert float(loss.progress) == pytest.approx(0.01 * own * 1.99, rel=1e-4)


def test_several_processes_keep_the_moving_mean_of_their_whole_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, loss, _ = made(loss="curricular")
    net.eval()
    x, labels = pictures(6), torch.tensor([0, 3, 3, 1, 2, 4])
    own = loss.cosines(net(x).feature).detach()[torch.arange(6), labels]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda tensor: tensor.add_(own[3:].mean())
    )  # what the other one has
    loss(net, x[:3], labels[:3], torch.arange(3))
    assert float(loss.progress) == pytest.approx(0.01 * float(own.mean()), rel=1e-4)


def test_wrong_configurations_are_refused() -> None:
    for config, reason in (
        ({"loss": "cosface"}, "cosface"),
        ({"bits": 600}, "512"),
        ({"sub_centres": 0}, "at least 1"),
    ):
        with pytest.raises(TrainingError, match=reason):
            dolg.Config(**config)


@pytest.mark.slow
def test_a_trained_dolg_is_searched_by_codes_and_by_descriptors(tmp_path: Path) -> None:
    """The codes are the ITQ of the training descriptors, which are left as they are."""
    photos = write_classes(tmp_path / "photos", 8)
    small = Run(
        backbone="resnet8",
        weights="none",
        size=64,
        epochs=3,
        batch=8,
        workers=0,
        precision="float32",
        held_out=0.1,
        **dolg.RECIPE,
    )
    config = dolg.Config(bits=16, dim=24, hidden=16)
    model = loop.train(dolg, read_images(photos), tmp_path / "m", config, small)
    assert sorted(model.files) == ["model.json", "model.onnx", "proof.npz", "rotation.npz"]
    again = Model.load(tmp_path / "m")
    assert (again.method, again.bits, again.dim, again.gives_codes) == ("dolg", 16, 24, True)
    assert set(again.record["held_out_map"]) == {"none", "ties", "pool", "asymmetric"}
    paths = read_images(photos).paths
    embedded = again.encode(paths)
    raw = again.run([images.load(path, again.preprocessing) for path in paths[:4]])
    np.testing.assert_allclose(embedded.features[:4], raw, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embedded.features, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(codes.unpack(embedded.codes, 16), embedded.logits >= 0)
    assert 0.3 < codes.unpack(embedded.codes, 16).mean() < 0.7  # centred, so that bits are balanced
    net = export.Exported(export.load_net(tmp_path / "m").eval())
    assert (again.preprocessing.whole, again.preprocessing.scales) == (
        True,
        (0.3535, 0.5, 0.7071, 1.0, 1.4142),
    )
    views = images.views(images.load(paths[0], again.preprocessing), again.preprocessing)
    each = np.concatenate([net.arrays(view[None].copy())[0] for view in views])
    assert len({view.shape for view in views}) > 1
    mean = each.mean(0)
    np.testing.assert_allclose(mean / np.linalg.norm(mean), raw[0], atol=1e-4)
    data = read_dataset(photos)
    with Index.create(tmp_path / "a.wb", again) as index:
        index.add(data.gallery)
        hits = index.search(paths[0], 3, fine="pool")
        assert str(paths[0]) in [hit.path for hit in hits if hit.distance == 0]
        assert evaluate(index, data.query).bits == 16


def test_a_run_of_the_command_has_the_recipe() -> None:
    """Section 4.1 of the paper and the released configuration; not what `RECIPE` says of itself."""
    arguments = parser_for(["train", "dolg", "photos", "-o", "m"]).parse_args(
        ["train", "dolg", "photos", "-o", "m"]
    )
    run = from_field_flags(Run, arguments)
    assert (run.nesterov, run.weight_decay, run.lighting, run.whole) == (True, 1e-4, 0.1, True)


def test_bits_are_from_1_to_the_length_of_the_descriptor() -> None:
    assert [dolg.Config(bits=bits, dim=4).bits for bits in (1, 4)] == [1, 4]
    for bits in (0, 5):
        with pytest.raises(
            TrainingError, match=f"bits must be at least 1 and at most 4, not {bits}"
        ):
            dolg.Config(bits=bits, dim=4)
