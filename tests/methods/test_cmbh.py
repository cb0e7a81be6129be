from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tests import runs
from tests.conftest import write_classes
from wingbar.cli import main
from wingbar.data import toy
from wingbar.data.readers import read_dataset, read_images
from wingbar.errors import ModelError, TrainingError
from wingbar.evaluation.labelled import evaluate
from wingbar.images import Preprocessing
from wingbar.index.index import Index
from wingbar.methods import cmbh
from wingbar.model import class_codes
from wingbar.model.saliency import find_regions, to_pixels
from wingbar.networks import backbones
from wingbar.training import export, loop
from wingbar.training.run import Run

Array = NDArray[np.float64]


def made(
    classes: int = 5, items: int = 40, backbone: str = "resnet8", **config: Any
) -> tuple[cmbh.Net, cmbh.Loss, cmbh.Config]:
    torch.manual_seed(0)
    settings = cmbh.Config(**{"bits": 7, "dim": 16, "width": 8, **config})
    net = backbones.create(backbone)
    return cmbh.Net(net, settings, classes), cmbh.Loss(net, settings, classes, items), settings


def fusion_of(part: cmbh.Net | cmbh.Loss) -> cmbh.Fusion:
    assert part.fusion is not None
    return part.fusion


def features_of(
    net: cmbh.Net, fusion: cmbh.Fusion, maps: list[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """f^1, f^l and f^3 of the maps of the three stages, and the fused f of Eq. 8."""
    f1, fl, f3 = fusion.subs[0](maps[0]), net.sub(maps[1]), fusion.subs[1](maps[2])
    return f1, fl, f3, fusion.fuse(torch.cat([f1, fl, f3], 1))


def pictures(count: int, size: int = 32) -> torch.Tensor:
    return torch.randint(
        0,
        256,
        (count, size, size, 3),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(3),
    )


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())


# -- Eq. 3, 4, 12


def scores_by_hand(vectors: Array, feature: Array) -> Array:
    """Eq. 3, element by element."""
    out = np.zeros(vectors.shape[:2])
    for a in range(vectors.shape[0]):
        for b in range(vectors.shape[1]):
            out[a, b] = sum(
                x
                / math.sqrt(sum(v * v for v in vectors[a, b]))
                * (y / math.sqrt(sum(v * v for v in feature)))
                for x, y in zip(vectors[a, b], feature, strict=True)
            )
    return out


@pytest.mark.parametrize("levels", [True, False])
def test_code_is_eq_12_or_eq_4_by_hand(levels: bool) -> None:
    net, _, config = made(levels=levels, transfer=False, regions=0)
    net.eval()
    found = net(pictures(3))
    vectors, weight = (
        net.vectors.detach().double().numpy(),
        net.hash.weight.detach().double().numpy(),
    )
    for i in range(3):
        m = scores_by_hand(vectors, found.feature[i].detach().double().numpy())
        logits = config.alpha * m.sum(1)
        if levels:
            m = softmax(logits)[:, None] * m
        flat = [m[a, b] for a in range(5) for b in range(2)]
        np.testing.assert_allclose(found.code[i].detach(), weight @ np.array(flat), atol=1e-5)


def test_inference_holds_nothing_of_training() -> None:
    net, loss, _ = made(backbone="resnet18")
    names = {name.split(".")[0] for name in net.state_dict()}
    assert names == {"backbone", "sub", "vectors", "hash"}
    assert not [name for name in net.state_dict() if "layer4" in name]
    assert any(name.startswith("fusion.last.") for name in loss.state_dict())
    assert net(pictures(2, 64)).feature.shape == (2, 16)


def test_a_fused_code_is_that_of_all_stages() -> None:
    net, loss, config = made(fused=True, hash_warmup=0)
    net.eval(), loss.eval()
    x, labels = pictures(3), torch.tensor([1, 4, 0])
    output = net(x)
    maps = net.backbone.stages(x, 2)
    maps.append(fusion_of(net).last(maps[1]))
    _, fl, _, f0 = features_of(net, fusion_of(net), maps)
    torch.testing.assert_close(output.feature, f0)
    vectors, weight = (p.detach().double().numpy() for p in (net.vectors, net.hash.weight))
    for i in range(3):
        m = scores_by_hand(vectors, f0[i].detach().double().numpy())
        flat = (softmax(config.alpha * m.sum(1))[:, None] * m).flatten()  # Eq. 12
        np.testing.assert_allclose(output.code[i].detach(), weight @ flat, atol=1e-5)
    loss(net, x, labels, torch.arange(3))
    stage = net.match(fl)  # the hash losses are those of stage l
    torch.testing.assert_close(loss.relaxed[:3], torch.tanh(stage.code))
    logits = net.match(f0).logits  # codes are assigned by what the fused feature confuses
    torch.testing.assert_close(loss.likely_logits[:3], logits.topk(5, 1).values)
    assert not torch.allclose(logits, stage.logits)
    assert loss.fusion is None
    body = {id(p) for p in cmbh.param_groups(net, loss, config)[0]["params"]}
    assert all(id(p) in body for p in fusion_of(net).last.parameters())
    assert not any(id(p) in body for p in fusion_of(net).subs.parameters())


TABLE_5 = {  # millions of parameters, 10^9 MACs
    ("resnet50", 12): (14.3219, 4.3492),
    ("resnet50", 24): (14.3267, 4.3492),
    ("resnet50", 32): (14.3299, 4.3492),
    ("resnet50", 48): (14.3363, 4.3492),
    ("resnet18", 12): (4.2330, 1.6696),
    ("resnet18", 24): (4.2378, 1.6696),
    ("resnet18", 32): (4.2410, 1.6696),
    ("resnet18", 48): (4.2474, 1.6696),
}


def test_the_largest_value_is_that_of_max_pooling_and_inference_can_be_exported() -> None:
    layer, tied = cmbh.GlobalMax(), torch.ones(1, 1, 2, 3, requires_grad=True)
    layer.train()(tied).backward()
    assert tied.grad is not None
    assert int((tied.grad > 0).sum()) == 1  # at one place alone
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 5, 4)))
    pooled = nn.AdaptiveMaxPool2d(1)(x)
    assert torch.equal(layer.train()(x), pooled)
    assert torch.equal(layer.eval()(x), pooled)
    graph = torch.export.export(layer, (x,)).graph
    # for which the exporter of PyTorch 2.11 has no ONNX function
    assert not any("adaptive" in str(node.target) for node in graph.nodes)


@pytest.mark.parametrize(("backbone", "bits"), TABLE_5)
def test_table_5_to_every_digit(
    backbone: str, bits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "info",
        "--method",
        "cmbh",
        "--backbone",
        backbone,
        "--bits",
        str(bits),
        "--classes",
        "200",
        "--json",
    ]
    assert main.main(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert (round(record["parameters"] / 1e6, 4), round(record["macs"] / 1e9, 4)) == TABLE_5[
        backbone, bits
    ]
    assert record["parameters_total"] == record["parameters"] + 200 * 2 * 512


# -- Eq. 5 to 7


def bank(n: int, classes: int, bits: int) -> tuple[Array, Array, NDArray[np.int64]]:
    """u and b of the epoch before, and labels of unequal classes, one of them empty."""
    rng = np.random.default_rng(5)
    relaxed = np.tanh(rng.normal(size=(n, bits)))
    label = rng.choice(classes - 1, n, p=np.arange(1, classes) / np.arange(1, classes).sum())
    return relaxed, np.where(relaxed >= 0, 1.0, -1.0), label


def test_pair_loss_is_the_double_loop() -> None:
    bits, classes, n = 6, 5, 43
    _, codes, label = bank(n, classes, bits)
    u = np.tanh(np.random.default_rng(6).normal(size=(7, bits)))
    labels = np.array([0, 1, 2, 3, 3, 2, 3])
    similar = np.array([[1.0 if label[i] == label[j] else 0.0 for j in range(n)] for i in range(n)])
    ratio = similar.sum() / (1 - similar).sum()
    total = 0.0
    for i in range(7):
        for j in range(n):
            s = 1.0 if labels[i] == label[j] else -ratio
            total += (sum(u[i, c] * codes[j, c] for c in range(bits)) - bits * s) ** 2
    sums = np.array([codes[label == c].sum(0) for c in range(classes)])
    found = cmbh.pair_loss(
        *map(
            torch.tensor,
            (u, labels, codes.T @ codes, sums, np.bincount(label, minlength=classes).astype(float)),
        )
    )
    assert found.item() == pytest.approx(total / (7 * n), rel=1e-6)


def test_proxy_loss_is_the_double_loop() -> None:
    bits, classes = 6, 5
    rng = np.random.default_rng(7)
    u, proxies, labels = (
        np.tanh(rng.normal(size=(4, bits))),
        rng.uniform(-1, 1, (classes, bits)),
        np.array([4, 0, 0, 2]),
    )
    total = 0.0
    for i in range(4):
        for j in range(classes):
            s = (
                1.0 if labels[i] == j else -4.0 / (4 * (classes - 1))
            )  # -sum(S) / sum(1 - S) of 4 pictures
            total += (sum(u[i, c] * proxies[j, c] for c in range(bits)) - bits * s) ** 2
    found = cmbh.proxy_loss(*map(torch.tensor, (u, labels, proxies)))
    assert found.item() == pytest.approx(total / (4 * classes), rel=1e-6)


def test_hash_terms_of_the_loss_are_scaled_as_the_config_says() -> None:
    for scaled, weight in ((True, 1.0), (False, 0.5)):
        net, loss, config = made(hash_scaled=scaled, hash_weight=weight, hash_warmup=0)
        net.eval()
        labels = torch.arange(6) % 5
        found = loss(net, pictures(6), labels, torch.arange(6))
        u = torch.tanh(net(pictures(6)).code)
        scale = weight * (5 / config.bits**2 if scaled else 1)  # of 5 classes
        pair = cmbh.pair_loss(u, labels, loss.moment, loss.sums, loss.counts)
        proxy = cmbh.proxy_loss(u, labels, loss.proxies)
        assert found["pair"].item() == pytest.approx(scale * pair.item(), rel=1e-4)
        assert found["proxy"].item() == pytest.approx(scale * proxy.item(), rel=1e-4)
        assert found["total"].item() == pytest.approx(
            sum(v.item() for k, v in found.items() if k != "total"), rel=1e-5
        )


@pytest.mark.parametrize(("classes", "bits"), [(5, 7), (5, 48), (20, 12)])
def test_hash_losses_begin_at_their_weight_whatever_the_classes_and_bits(
    classes: int, bits: int
) -> None:
    net, loss, config = made(classes=classes, bits=bits, hash_warmup=0)
    torch.nn.init.zeros_(net.hash.weight)  # u = 0, so that the mean of S^2 is left, 1 / (y - 1)
    found = loss(net, pictures(6), torch.arange(6) % classes, torch.arange(6))
    begins = config.hash_weight * classes / (classes - 1)
    assert found["pair"].item() == pytest.approx(begins, rel=1e-5)
    assert found["proxy"].item() == pytest.approx(begins, rel=1e-5)


@pytest.mark.slow
def test_hash_losses_wait_for_the_banks() -> None:
    net, loss, _ = made(hash_warmup=2)
    labels = torch.arange(40) % 5
    first = loss.proxies.clone()
    for _ in range(2):
        assert loss(net, pictures(40), labels, torch.arange(40))["pair"].item() == 0
        loss.end_epoch()
        assert torch.equal(loss.proxies, first)  # the codes that the classes begin with
        assert torch.equal(loss.sums, first)
    assert loss(net, pictures(40), labels, torch.arange(40))["pair"].item() > 0
    loss.end_epoch()
    assert not torch.equal(loss.proxies, first)
    alone, of_codes, _ = made(levels=False, transfer=False, regions=0)
    assert of_codes(alone, pictures(6), labels[:6], torch.arange(6))["pair"].item() > 0


def test_banks_are_the_codes_of_the_epoch_before() -> None:
    net, loss, _ = made(items=12, hash_warmup=0)
    net.eval()
    x, labels = pictures(10), torch.tensor([0, 0, 1, 1, 1, 2, 2, 4, 4, 4])
    before = loss.proxies.clone()
    for rows in ([3, 1, 0], [2, 5, 4, 6], [7, 8, 9]):
        loss(net, x[rows], labels[rows], torch.tensor(rows))
    assert int(loss.epoch) == 0
    assert torch.equal(loss.proxies, before)
    loss.end_epoch()
    u = torch.tanh(net(x).code).detach().double()
    b = torch.where(u >= 0, 1.0, -1.0).double()
    for c in (0, 1, 2, 4):
        np.testing.assert_allclose(loss.proxies[c], u[labels == c].mean(0), atol=1e-6)
        np.testing.assert_allclose(loss.sums[c], b[labels == c].sum(0))
    assert torch.equal(loss.proxies[3], before[3])  # no image of this class was seen
    np.testing.assert_allclose(loss.moment, b.T @ b)
    assert loss.counts.tolist() == [2, 3, 2, 0, 3]
    assert not loss.fresh.any()
    assert loss.label.tolist() == [*labels.tolist(), -1, -1]
    kept = loss.relaxed[7:10].clone()
    loss(net, x[:2], labels[:2], torch.arange(2))
    loss.end_epoch()
    assert torch.equal(
        loss.relaxed[7:10], kept
    )  # pictures that an epoch leaves out keep their codes
    assert loss.counts.sum() == 10


@pytest.mark.slow
def test_at_the_end_w_h_holds_codes_for_what_is_confused() -> None:
    net, loss, config = made(items=12, hash_warmup=0)
    net.eval()
    x, labels = pictures(10), torch.tensor([0, 0, 1, 1, 1, 2, 2, 4, 4, 4])
    loss(net, x, labels, torch.arange(10))
    loss.end_epoch()
    logits = net.match(net.sub(net.backbone.stages(x, 2)[1])).logits.detach().numpy().astype(float)
    order = np.argsort(-logits, 1)[:, :5]
    shares = np.array([softmax(row[o] / 2) for row, o in zip(logits, order, strict=True)])
    expected = class_codes.assign(
        class_codes.Likely(order, shares),
        (loss.proxies >= 0).numpy(),
        np.array([2, 3, 2, 0, 3]),
        np.random.default_rng(0),
    )
    loss.end_training(net)
    for c in range(5):
        for k in range(config.characteristics):
            column = net.hash.weight[:, c * config.characteristics + k]
            assert torch.equal(column > 0, torch.from_numpy(expected[c]))
    assert torch.equal(net.hash.weight.abs(), torch.ones_like(net.hash.weight))


@pytest.mark.parametrize(
    "config", [{"assign": False}, {"levels": False, "transfer": False, "regions": 0}]
)
def test_w_h_stays_as_trained_where_nothing_is_assigned(config: dict[str, Any]) -> None:
    net, loss, _ = made(items=3, **config)
    before = net.hash.weight.detach().clone()
    loss.end_training(net)  # nothing was seen
    loss(net.eval(), pictures(3), torch.arange(3), torch.arange(3))
    loss.end_epoch()
    loss.end_training(net)
    assert torch.equal(net.hash.weight, before)


# -- Eq. 8 to 11


def test_classes_and_transfer_by_hand() -> None:
    net, loss, config = made(regions=0, hash_warmup=9)
    net.eval(), loss.eval()
    x, labels = pictures(4), torch.tensor([1, 4, 0, 1])
    found = loss(net, x, labels, torch.arange(4))
    maps = net.backbone.stages(x, 2)
    maps.append(fusion_of(loss).last(maps[1]))
    f1, fl, f3, f0 = features_of(net, fusion_of(loss), maps)
    vectors = net.vectors.detach().double().numpy()
    classes = transfer = 0.0
    for i in range(4):
        y0, yl = (
            config.alpha * scores_by_hand(vectors, f[i].detach().double().numpy()).sum(1)
            for f in (f0, fl)
        )
        y1, y3 = (
            c(f)[i].detach().double().numpy()
            for c, f in zip(loss.classifiers, (f1, f3), strict=True)
        )
        for logits in (y0, y1, yl, y3):
            classes -= math.log(softmax(logits)[labels[i]])
        teacher = softmax(y0 + y1 + yl + y3)
        transfer -= sum(t * math.log(p) for t, p in zip(teacher, softmax(yl), strict=True))
    assert found["classes"].item() == pytest.approx(classes / 4, rel=1e-4)
    assert found["transfer"].item() == pytest.approx(transfer / 4, rel=1e-4)


@pytest.mark.parametrize("detach", [True, False])
def test_the_teacher_is_detached_or_not(detach: bool) -> None:
    levels = [torch.randn(3, 5, requires_grad=True) for _ in range(4)]
    cmbh.transfer_loss(levels, levels[2], detach).backward()  # type: ignore[no-untyped-call]
    assert [bool(level.grad is not None) for level in levels] == [
        not detach,
        not detach,
        True,
        not detach,
    ]


@pytest.mark.parametrize("detach", [True, False])
def test_the_loss_detaches_the_teacher_as_the_config_says(detach: bool) -> None:
    """The classifiers of the other stages are only in the teacher of the transfer loss."""
    net, loss, _ = made(regions=0, hash_warmup=9, detach_teacher=detach)
    labels = torch.tensor([1, 4, 0, 1])
    loss(net, pictures(4), labels, torch.arange(4))["transfer"].backward()
    taught = [p.grad for c in loss.classifiers for p in c.parameters()]
    assert all((grad is None or not grad.any()) == detach for grad in taught)


# -- regions


def test_activation_is_the_mean_over_all_channels_at_the_last_size() -> None:
    maps = [torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4), torch.rand(2, 7, 2, 2)]
    expected = np.zeros((2, 2, 2))
    for i in range(2):
        for y in range(2):
            for x in range(2):
                values = []
                for stage in maps:
                    step = stage.shape[2] // 2
                    patch = stage[i, :, y * step : (y + 1) * step, x * step : (x + 1) * step]
                    values += patch.mean((1, 2)).tolist()
                expected[i, y, x] = sum(values) / 15
    np.testing.assert_allclose(cmbh.activation(maps), expected, atol=1e-6)


def test_crops_are_the_boxes() -> None:
    x = pictures(2, 16)
    boxes = torch.tensor([[[0.0, 0, 16, 16], [4, 8, 12, 16]], [[0, 0, 8, 8], [8, 0, 16, 8]]])
    whole = cmbh.crop(x, boxes, 16)
    np.testing.assert_allclose(whole[0], x[0].float(), atol=1e-3)
    small = cmbh.crop(x, boxes, 8)
    for at, (image, rows, columns) in {
        1: (0, slice(8, 16), slice(4, 12)),
        2: (1, slice(0, 8), slice(0, 8)),
        3: (1, slice(0, 8), slice(8, 16)),
    }.items():
        np.testing.assert_allclose(small[at], x[image, rows, columns].float(), atol=1e-3)


def test_boxes_grow_to_squares_that_stay_inside() -> None:
    """Against the definition, number by number, on an image wider than high."""
    width, height = 60, 40
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 1, (2, 50, 2, 2)), axis=2) * [width, height]
    boxes = corners.reshape(2, 50, 4)
    for share in (0.25, 0.5, 1.0):
        found = cmbh.grown(torch.tensor(boxes), share, (height, width)).numpy()
        for before, after in zip(boxes.reshape(-1, 4), found.reshape(-1, 4), strict=True):
            x1, y1, x2, y2 = before
            side = min(max(x2 - x1, y2 - y1, share * height), height)
            left = min(max((x1 + x2 - side) / 2, 0), width - side)
            top = min(max((y1 + y2 - side) / 2, 0), height - side)
            np.testing.assert_allclose(after, [left, top, left + side, top + side], atol=1e-9)


def test_regions_are_squares_of_the_positive_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Algorithm 1 is given, and which boxes are cut out."""
    net, loss, _ = made(regions=2, box_share=0.5, relu_maps=True)
    net.eval(), loss.eval()
    x, labels = pictures(2), torch.tensor([1, 3])
    negative = nn.BatchNorm2d(64).eval()
    negative.weight.data.fill_(0.0)
    negative.bias.data.fill_(-1.0)
    fusion_of(loss).last = nn.Sequential(
        fusion_of(loss).last, negative
    )  # a last stage without a positive value
    given, cut = [], []

    def watched_regions(strength: Array, count: int) -> list[tuple[int, int, int, int]]:
        given.append(strength)
        return [(0, 0, 1, 1), (2, 3, 2, 3)]

    def watched_crop(pixels: torch.Tensor, boxes: torch.Tensor, size: int) -> torch.Tensor:
        cut.append(boxes.numpy())
        return torch.zeros(4, size, size, 3)

    monkeypatch.setattr(cmbh, "find_regions", watched_regions)
    monkeypatch.setattr(cmbh, "crop", watched_crop)
    loss(net, x, labels, torch.arange(2))
    maps = net.backbone.stages(x, 2)
    seen = [*(torch.relu(stage) for stage in maps), torch.zeros_like(fusion_of(loss).last(maps[1]))]
    np.testing.assert_allclose(given, cmbh.activation(seen).detach(), atol=1e-6)
    # cells of 4 pixels, grown from 8 and 4 pixels to half of 32
    np.testing.assert_allclose(cut[0][0], [[0, 0, 16, 16], [2, 6, 18, 22]])
    np.testing.assert_allclose(cut[0][1], cut[0][0])


@pytest.mark.parametrize("mean", [True, False])
def test_region_loss_takes_the_greatest_score_of_each_region(mean: bool) -> None:
    net, loss, config = made(
        regions=3, crop=16, hash_warmup=9, region_mean=mean, box_share=0.0, relu_maps=False
    )
    net.eval(), loss.eval()
    x, labels = pictures(2), torch.tensor([1, 3])
    found = loss(net, x, labels, torch.arange(2))
    maps = net.backbone.stages(x, 2)
    maps.append(fusion_of(loss).last(maps[1]))
    strength = cmbh.activation(maps).detach().numpy()
    vectors = net.vectors.detach().double().numpy()
    total = 0.0
    for i in range(2):
        for box in find_regions(strength[i], 3):
            cut = cmbh.crop(x[i : i + 1], torch.tensor([[to_pixels(box, (8, 8), (32, 32))]]), 16)
            inside = net.backbone.stages(cut, 2)
            inside.append(fusion_of(loss).last(inside[1]))
            f1, fl, f3, f0 = features_of(net, fusion_of(loss), inside)
            y0, yl = (
                config.alpha * scores_by_hand(vectors, f[0].detach().double().numpy()).max(1)
                for f in (f0, fl)
            )
            y1, y3 = (
                c(f)[0].detach().double().numpy()
                for c, f in zip(loss.classifiers, (f1, f3), strict=True)
            )
            total -= sum(math.log(softmax(y)[labels[i]]) for y in (y0, y1, yl, y3))
            teacher = softmax(y0 + y1 + yl + y3)
            total -= sum(t * math.log(p) for t, p in zip(teacher, softmax(yl), strict=True))
    assert found["regions"].item() == pytest.approx(total / (6 if mean else 2), rel=1e-3)


def test_regions_do_not_change_the_running_statistics() -> None:
    found = []
    for regions in (0, 2):
        net, loss, _ = made(regions=regions)
        loss(net, pictures(4, 64), torch.tensor([0, 1, 1, 2]), torch.arange(4))
        kept = {
            **dict(net.named_buffers()),
            **{f"loss.{name}": buffer for name, buffer in loss.named_buffers()},
        }
        found.append({name: buffer for name, buffer in kept.items() if "running" in name})
        assert all(
            norm.momentum for norm in net.modules() if isinstance(norm, torch.nn.BatchNorm2d)
        )
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) > 20
    for name, buffer in found[0].items():
        assert torch.equal(buffer, found[1][name]), name


# -- as a whole


def test_parts_without_those_they_need_are_refused() -> None:
    with pytest.raises(TrainingError, match="--no-transfer"):
        cmbh.Config(levels=False)
    with pytest.raises(TrainingError, match="at least 1"):
        cmbh.Config(bits=0)
    with pytest.raises(TrainingError, match="stage or code"):
        cmbh.Config(feature="logits")
    assert cmbh.Config(levels=False, transfer=False, regions=0).levels is False


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet8", "resnet18", "resnet50", "alexnet", "efficientnet_lite0"]
)
def test_every_backbone_is_cut_and_exported(name: str) -> None:
    size = 32 if name == "resnet8" else 96
    torch.manual_seed(0)
    as_code = name == "resnet8"
    config = cmbh.Config(bits=6, dim=16, width=8, regions=2, feature="code" if as_code else "stage")
    backbone = backbones.create(name)
    x = pictures(3, size)
    backbone.eval()
    expected = [stage.detach() for stage in backbone.stages(x)]
    net = cmbh.Net(backbone, config, 4)
    loss = cmbh.Loss(backbone, config, 4, 3)
    net.eval(), loss.eval()
    maps = net.backbone.stages(x, 2)
    torch.testing.assert_close([*maps, fusion_of(loss).last(maps[1])], expected)
    assert torch.isfinite(loss(net, x, torch.tensor([0, 1, 3]), torch.arange(3))["total"])
    if name in ("resnet8", "efficientnet_lite0"):
        import onnxruntime

        session = onnxruntime.InferenceSession(export.to_onnx(net, Preprocessing(size=size)))
        feature, logits, scores, activation = session.run(None, {"pixels": x.numpy()})
        with torch.no_grad():
            found = net(x)
        np.testing.assert_allclose(scores, found.auxiliary["scores"], atol=1e-4)
        np.testing.assert_allclose(
            activation, net.backbone.stages(x, 2)[1].detach().mean(1), atol=1e-4
        )
        np.testing.assert_allclose(feature, torch.nn.functional.normalize(found.feature), atol=1e-4)
        np.testing.assert_allclose(logits, found.code, atol=1e-3)
        assert feature.shape == (3, 6 if as_code else 16)
        if as_code:
            assert torch.equal(found.feature, torch.tanh(found.code))


def test_a_network_that_cannot_be_cut_is_refused() -> None:
    class Whole(backbones.Backbone):
        widths, width = (3, 3, 3), 3

    with pytest.raises(ModelError, match="another backbone"):
        Whole().cut()


_TWO = """
import sys, torch
from wingbar.methods import cmbh
from wingbar.networks import backbones
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
torch.manual_seed(0)
backbone, config = backbones.create("resnet8"), cmbh.Config(bits=6, dim=16, width=8, regions=0)
net, loss = cmbh.Net(backbone, config, 3), cmbh.Loss(backbone, config, 3, 9)
generator = torch.Generator().manual_seed(1)
x = torch.randint(0, 256, (9, 32, 32, 3), dtype=torch.uint8, generator=generator)
labels = torch.arange(9) % 3
net.eval(), loss.eval()
for rows in ([0, 1, 2, 3], [4, 5, 6, 7]):
    mine = rows[rank::2]
    loss(net, x[mine], labels[mine], torch.tensor(mine))
loss.end_epoch()
torch.save(dict(loss.named_buffers()), f"{sys.argv[1]}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_the_same_banks_as_one(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(_TWO)
    runs.in_two_processes(str(script), str(tmp_path))
    torch.manual_seed(0)
    backbone, config = backbones.create("resnet8"), cmbh.Config(bits=6, dim=16, width=8, regions=0)
    net, loss = cmbh.Net(backbone, config, 3), cmbh.Loss(backbone, config, 3, 9)
    x = torch.randint(
        0, 256, (9, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    net.eval(), loss.eval()
    loss(net, x[:8], torch.arange(8) % 3, torch.arange(8))
    loss.end_epoch()
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, buffer in loss.named_buffers():
        assert torch.equal(both[0][name], both[1][name]), name
        torch.testing.assert_close(both[0][name], buffer, rtol=1e-4, atol=1e-5, msg=name)


SMALL = replace(runs.SMALL, lr=0.02)
TINY = cmbh.Config(hash_warmup=1, bits=12, dim=16, width=8, regions=1, crop=16)


@pytest.mark.slow
def test_interrupted_in_the_middle_of_an_epoch_it_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is written while half of the banks is of one epoch, half of the one before."""
    data = read_images(write_classes(tmp_path / "photos", 12))
    often = replace(SMALL, checkpoint_minutes=0.0)
    whole = loop.train(cmbh, data, tmp_path / "whole", TINY, often)
    assert (whole.method, whole.bits, whole.dim) == ("cmbh", 12, 16)
    # the same weights have the same network, and the export of others would be refused
    network = (tmp_path / "whole" / "model.onnx").read_bytes()
    monkeypatch.setattr(export, "to_onnx", lambda net, preprocessing: network)
    real, calls = cmbh.Loss.forward, [0]

    def stopped(self: cmbh.Loss, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 7:  # of 4 steps an epoch
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(cmbh.Loss, "forward", stopped)
    with pytest.raises(KeyboardInterrupt):
        loop.train(cmbh, data, tmp_path / "parts", TINY, often)
    monkeypatch.setattr(cmbh.Loss, "forward", real)
    loop.train(cmbh, data, tmp_path / "parts", TINY, often, resume=True)
    read = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert read[0] == read[1]
    logs = [
        (tmp_path / name / "train" / "log.jsonl").read_text().splitlines()
        for name in ("whole", "parts")
    ]
    assert [json.loads(line)["total"] for line in logs[0]] == [
        json.loads(line)["total"] for line in logs[1]
    ]


@pytest.mark.slow
def test_trained_in_two_processes_the_losses_are_those_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "write", lambda *_: None)  # not in those processes
    photos = write_classes(tmp_path / "photos", 12)
    steady = replace(SMALL, freeze_bn=True, clip=0.0, lr=0.002)
    config = replace(
        TINY, regions=0
    )  # where a threshold is met to the last bit, a region differs and with it the loss
    loop.train(cmbh, read_images(photos), tmp_path / "one", config, steady)
    command = runs.command(photos, tmp_path / "two", method="cmbh", config=config, run=steady)
    runs.in_two_processes("-m", "wingbar", *command)
    one, two = (runs.losses(tmp_path / name)[:10] for name in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("built_in_network")
def test_it_separates_species_that_differ_in_two_percent_of_the_pixels(tmp_path: Path) -> None:
    """tests/data/test_toy.py counts the pixels. Frozen features tell little about the species: a
    label-free index is below. Eight species do, and are trained in half the time of all."""
    birds = toy.write_birds(tmp_path / "birds", train=16, test=5)
    for part in ("train", "test"):
        for species in sorted((birds / part).iterdir())[8:]:
            shutil.rmtree(species)
    data = read_dataset(birds)
    run = Run(size=80, epochs=10, batch=16, lr=0.03, area=0.8, held_out=0.1)
    model = loop.train(
        cmbh,
        data.train,
        tmp_path / "m",
        cmbh.Config(bits=12, width=128, dim=128, head_lr=5.0, regions=0),
        run,
    )
    found = []
    for name, encoder in (("m", model), ("general", "general")):
        with Index.create(tmp_path / f"{name}.wb", encoder) as index:
            index.add(data.gallery)
            found.append(evaluate(index, data.query, fine="none", keep_constant_bits=True).map)
    assert found[0] > 0.55
    assert found[1] < 0.35
