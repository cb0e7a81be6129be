from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wingbar.methods import dlbhc
from wingbar.networks import backbones


def made(**config: float) -> tuple[dlbhc.Net, dlbhc.Loss, dlbhc.Config]:
    torch.manual_seed(0)
    settings = dlbhc.Config(**config)  # type: ignore[arg-type]
    backbone = backbones.create("resnet8")
    return dlbhc.Net(backbone, settings, 5), dlbhc.Loss(backbone, settings, 5, 100), settings


def test_a_bit_is_whether_the_sigmoid_reaches_one_half() -> None:
    """The boundary itself is a 1, as in Section 2.2.1."""
    net, _, _ = made()
    net.eval()
    with torch.no_grad():
        net.latent.bias.zero_()  # it begins at 1, and every bit would be set
        net.latent.weight[0] = 0
        found = net(torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8))
    weight = net.latent.weight.detach().double().numpy()
    for feature, code in zip(found.feature.double().numpy(), found.code, strict=True):
        latent = [1 / (1 + math.exp(-(row @ feature))) for row in weight]
        assert [value >= 0.5 for value in latent] == (code >= 0).tolist()
    assert (found.code[:, 0] == 0).all()
    assert 0 < (found.code[:, 1:] >= 0).double().mean() < 1


def test_the_loss_is_the_softmax_of_the_latent_layer_by_hand() -> None:
    net, loss, _ = made(bits=7)
    net.eval()
    pixels, labels = (
        torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8),
        torch.tensor([0, 3, 3, 1]),
    )
    found = loss(net, pixels, labels, torch.arange(4))
    total = 0.0
    feature = net(pixels).feature.detach().numpy().astype(float)
    weight, bias = (p.detach().numpy().astype(float) for p in net.latent.parameters())
    out_weight, out_bias = (p.detach().numpy().astype(float) for p in loss.classifier.parameters())
    for i in range(4):
        latent = [1 / (1 + math.exp(-(weight[j] @ feature[i] + bias[j]))) for j in range(7)]
        scores = [out_weight[c] @ np.array(latent) + out_bias[c] for c in range(5)]
        total -= scores[labels[i]] - math.log(sum(math.exp(s) for s in scores))
    assert found["total"].item() == pytest.approx(total / 4, abs=1e-5)
    assert found["classification"] is found["total"]


def test_first_weights_are_the_released_ones() -> None:
    net, loss, _ = made(bits=64)
    assert net.latent.weight.std().item() == pytest.approx(0.005, rel=0.1)
    assert (net.latent.bias == 1).all()
    assert loss.classifier.weight.std().item() == pytest.approx(0.01, rel=0.15)
    assert (loss.classifier.bias == 0).all()


def test_learning_rates_and_decay_are_the_released_ones() -> None:
    net, loss, config = made()
    scales = {
        id(p): (g["lr_scale"], g["decay_scale"])
        for g in dlbhc.param_groups(net, loss, config)
        for p in g["params"]
    }
    assert scales[id(net.latent.weight)] == (1, 1)
    assert scales[id(net.latent.bias)] == (2, 0)
    assert scales[id(loss.classifier.weight)] == (10, 1)
    assert scales[id(loss.classifier.bias)] == (20, 0)
    backbone = net.backbone
    assert isinstance(backbone, backbones.SmallResNet)
    assert scales[id(backbone.conv1.weight)] == (1, 1)
    assert scales[id(backbone.bn1.weight)] == (1, 0)


def test_on_alexnet_the_feature_is_f7() -> None:
    backbone = backbones.create("alexnet").eval()
    net = dlbhc.Net(backbone, dlbhc.Config(bits=12), 5).eval()
    with torch.no_grad():
        found = net(torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8))
    assert found.feature.shape == (1, 4096)
    assert (found.feature >= 0).all()  # after ReLU
