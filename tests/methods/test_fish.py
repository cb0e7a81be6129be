from __future__ import annotations

import numpy as np
import pytest
import torch

from wingbar.errors import TrainingError
from wingbar.methods import fish
from wingbar.networks import backbones

RNG = np.random.default_rng(0)


def made(classes: int = 5, **config: float) -> tuple[fish.Net, fish.Loss]:
    torch.manual_seed(0)
    settings = fish.Config(**config)  # type: ignore[arg-type]
    backbone = backbones.create("resnet8")
    return fish.Net(backbone, settings, classes), fish.Loss(backbone, settings, classes, 9)


def test_the_filters_by_hand() -> None:
    stage, scores = RNG.standard_normal((2, 3, 4, 5)), RNG.standard_normal((2, 6))
    expected, damped = stage.copy(), scores.copy()
    for b in range(2):
        strength = sum(stage[b, c] for c in range(3))
        for y in range(4):
            for x in range(5):
                expected[b, :, y, x] *= 1 if strength[y, x] > strength.mean() else 0.25
        damped[b] = [s if s == max(scores[b]) else 0.7 * s for s in scores[b]]
    np.testing.assert_allclose(fish.filtered(torch.tensor(stage), 0.25), expected)
    np.testing.assert_allclose(fish.damped(torch.tensor(scores), 0.7), damped, rtol=1e-6)


def test_what_is_most_active_is_erased() -> None:
    stage = torch.zeros(2, 3, 4, 4)
    stage[0, :, 1, 2], stage[0, 0, 3, 0] = 1, 2  # sums of 3 and 2
    stage[1, 1, 0, 3] = 5
    pixels = torch.randint(1, 256, (2, 4, 4, 3), dtype=torch.uint8)
    found = fish.erased(pixels, stage, torch.tensor([0.5, 1.0]))
    hidden = (found == 0).all(3)
    assert hidden.nonzero().tolist() == [[0, 1, 2], [0, 3, 0], [1, 0, 3]]
    assert torch.equal(found[~hidden], pixels[~hidden])


def test_the_codes_of_the_labels_follow_their_equations() -> None:
    torch.manual_seed(0)
    found = fish.codes_of_labels(6, 8)
    torch.manual_seed(0)
    v = torch.randn(8, 6, dtype=torch.float64).numpy()
    r = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0].numpy()
    of = np.eye(6)
    for _ in range(15):
        b = np.where(r @ v >= 0, 1.0, -1.0)
        u = of @ v.T @ np.linalg.pinv(v @ v.T)
        v = np.linalg.pinv(u.T @ u + 1e-4 * r.T @ r) @ (u.T @ of + 1e-4 * r.T @ b)
        left, _, right = np.linalg.svd(b @ v.T)
        r = left @ right
    np.testing.assert_array_equal(found.numpy(), b.T)
    assert len({tuple(code) for code in found.tolist()}) == 6


def test_the_loss_by_hand() -> None:
    net, loss = made(bits=12, erase=1.0)  # the highest activation alone is erased
    net.eval()
    pixels, labels = (
        torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8),
        torch.tensor([0, 3, 3, 1]),
    )
    found = loss(net, pixels, labels, torch.arange(4))
    stage = net.backbone.stages(pixels)[2]
    feature = fish.filtered(stage, 0.5).mean((2, 3))
    scores = net.classifier(feature)
    code = net.hash(fish.damped(scores, 0.7))
    output = net(pixels)
    assert output.code is not None
    torch.testing.assert_close(output.code, code)
    torch.testing.assert_close(output.feature, feature)

    def entropy(logits: torch.Tensor) -> float:
        p = logits.exp() / logits.exp().sum(1, keepdim=True)
        return -float(np.mean([p[i, c].log().item() for i, c in enumerate(labels)]))

    difference = (code - loss.codes[labels]).detach().numpy()
    hidden = net.filter(fish.erased(pixels, stage, torch.ones(4))).scores
    expected = {
        "classification": entropy(scores),
        "code": float((difference**2).mean()),
        "erased": entropy(hidden),
    }
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-4)
    assert found["total"].item() == pytest.approx(sum(expected.values()), rel=1e-4)
    with pytest.raises(TrainingError, match="erase must be above 0 and at most 1, not 0"):
        fish.Config(erase=0.0)
