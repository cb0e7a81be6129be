"""What every method must do, whatever it is."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import pytest
import torch

from wingbar import methods
from wingbar.errors import ModelError, TrainingError
from wingbar.networks import backbones
from wingbar.training.run import Run

CLASSES, ITEMS = 4, 8
SMALL: dict[str, dict[str, Any]] = {
    "cmbh": {"dim": 32, "width": 16, "regions": 1, "crop": 16, "hash_warmup": 1},
    "dlbhc": {},
    "dolg": {"dim": 32, "hidden": 32},
    "csq": {},
    "orthohash": {},
    "hashnet": {},
    "crh": {},
    "fish": {},
    "adsh": {},
}


def made(method: ModuleType, bits: int = 12) -> tuple[torch.nn.Module, Any, object]:
    torch.manual_seed(0)
    backbone = backbones.create("resnet8")
    config = method.Config(bits=bits, **SMALL[method.__name__.rsplit(".", 1)[-1]])
    return (
        method.Net(backbone, config, CLASSES),
        method.Loss(backbone, config, CLASSES, ITEMS),
        config,
    )


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (ITEMS, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return pixels, torch.arange(ITEMS) % CLASSES, torch.arange(ITEMS)


@pytest.fixture(params=methods.NAMES)
def method(request: pytest.FixtureRequest) -> ModuleType:
    return methods.get(request.param)


def test_a_config_is_flags_and_record(method: ModuleType) -> None:
    assert method.__doc__
    for field in dataclasses.fields(method.Config):
        assert field.metadata["help"], field.name
        assert field.default is not None, field.name
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.Config().bits = 3
    with pytest.raises(TypeError):
        method.Config(bitts=3)


@pytest.mark.parametrize("bits", [0, -1, 2**16 + 1])
def test_codes_of_no_length_are_refused_before_training(method: ModuleType, bits: int) -> None:
    with pytest.raises(TrainingError, match=f"^bits must be at least 1 and at most .*{bits:,}$"):
        method.Config(bits=bits)


def test_settings_are_numbers(method: ModuleType) -> None:
    for field in dataclasses.fields(method.Config):
        if isinstance(field.default, float):
            for value in (float("nan"), float("inf"), -float("inf")):
                with pytest.raises(TrainingError, match=f"^{field.name} must be "):
                    method.Config(**{field.name: value})
        if field.name.endswith("_lr"):
            with pytest.raises(TrainingError, match=f"^{field.name} must be at least 0"):
                method.Config(**{field.name: -1.0})


def test_a_rate_of_its_own_is_not_taken_for_that_of_the_paper(method: ModuleType) -> None:
    assert "lr" not in method.RECIPE or "lr" in method.PAPER


def test_outputs_have_their_shapes(method: ModuleType) -> None:
    net, _, _ = made(method, bits=20)
    found = net(batch()[0])
    if method.__name__.endswith("dolg"):
        assert found.code is None  # ITQ makes its codes, after training
    else:
        assert found.code.shape == (ITEMS, 20)
    assert found.feature.ndim == 2
    assert len(found.feature) == ITEMS


def test_every_parameter_gets_a_gradient_and_a_group(method: ModuleType) -> None:
    net, loss, config = made(method)
    loss.end_epoch()  # a first epoch may leave terms out
    losses = loss(net, *batch())
    assert all(term.ndim == 0 for term in losses.values())
    losses["total"].backward()
    for module in (net, loss):
        assert not [
            name
            for name, p in module.named_parameters()
            if p.grad is None or not p.grad.abs().sum() > 0
        ]
    grouped = [p for group in method.param_groups(net, loss, config) for p in group["params"]]
    every = [*net.parameters(), *loss.parameters()]
    assert len(grouped) == len(every)
    assert {id(p) for p in grouped} == {id(p) for p in every}


def test_the_defaults_train_every_part_and_the_backbone_at_the_rate_of_the_run(
    method: ModuleType,
) -> None:
    net, loss, config = made(method)  # whose rates are the defaults
    groups = method.param_groups(net, loss, config)
    assert all(group["lr_scale"] > 0 for group in groups)
    body = id(next(net.get_submodule("backbone").parameters()))
    [of_body] = [group for group in groups if body in map(id, group["params"])]
    assert of_body["lr_scale"] == 1


def test_the_recipe_of_the_paper_can_be_run(method: ModuleType) -> None:
    of_run = {field.name for field in dataclasses.fields(Run)}
    Run(**{key: value for key, value in method.PAPER.items() if key in of_run})
    method.Config(**{key: value for key, value in method.PAPER.items() if key not in of_run})


@pytest.mark.parametrize("name", methods.MULTI_LABEL)
def test_images_of_one_class_each_are_a_case_of_several(name: str) -> None:
    pixels, labels, rows = batch()
    one_hot = torch.nn.functional.one_hot(labels, CLASSES).bool()
    totals = []
    for given in (labels, one_hot, one_hot | one_hot.roll(1, 1)):
        net, loss, _ = made(methods.get(name))
        totals.append(loss(net, pixels, given, rows)["total"].item())
    assert totals[0] == totals[1] != totals[2]


@pytest.mark.slow
def test_eight_images_are_overfitted(method: ModuleType) -> None:
    net, loss, _ = made(method)
    optimizer = torch.optim.Adam([*net.parameters(), *loss.parameters()], lr=0.01)
    totals: list[float] = []
    while len(totals) < 100 and not (totals and totals[-1] < 0.2 * totals[0]):
        optimizer.zero_grad()
        total = loss(net, *batch())["total"]
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.2 * totals[0]


@pytest.mark.slow
@pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="this CPU emulates bfloat16, in a minute"
)
def test_bfloat16_gives_nearly_the_same(method: ModuleType) -> None:
    """As a run with `--precision bfloat16` computes: 8 bits of mantissa, so two digits agree."""
    net, loss, _ = made(method)
    loss.end_epoch()
    net.eval(), loss.eval()
    exact = loss(net, *batch())["total"].item()
    feature = net(batch()[0]).feature
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(net, *batch())["total"]
        rough = net(batch()[0]).feature
    found.backward()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact, rel=0.05)
    assert not torch.equal(rough.float(), feature), "it was computed in float32"
    assert torch.nn.functional.cosine_similarity(rough.float(), feature).min() > 0.99
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ModelError, match="no method named 'dlbch': have cmbh, dlbhc"):
        methods.get("dlbch")
