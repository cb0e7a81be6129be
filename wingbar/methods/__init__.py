"""The methods, one file each. A method file has six names:

- `Config`: a frozen keyword-only dataclass. Its fields are the method's flags, their help and what
  model.json records; its defaults are the paper's where PAPER does not say otherwise.
- `Net(backbone, config, classes)`: exactly what inference needs.
  `forward(pixels [B, H, W, 3] uint8) -> Output`.
- `Loss(backbone, config, classes, items)`: everything that only training needs, created after the
  Net and with the same backbone. `forward(net, pixels, labels, rows)` returns a dict of scalar
  tensors, "total" among them; `end_epoch()` is called after each epoch, and `end_training(net)`,
  where there is one, after the last. labels [B] int64 are class numbers, rows [B] int64 numbers of
  training images, both from 0. Methods in MULTI_LABEL also take labels [B, classes] bool, for
  images of several classes.
- `param_groups(net, loss, config)`: the optimizer's parameter groups, each with `params`,
  `lr_scale` and `decay_scale`, the factors of the run's learning rate and weight decay.
- `RECIPE`: the fields of `Run` whose defaults the method changes.
- `PAPER`: the fields of `Run` and `Config` in which the paper's experiments, or the released code,
  differ from the defaults; `wingbar train NAME --recipe paper` sets them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from wingbar.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

NAMES = ("cmbh", "dlbhc", "dolg", "csq", "orthohash", "hashnet", "crh", "fish", "adsh")
MULTI_LABEL = ("csq", "orthohash", "hashnet")
"""The methods that learn from images with several labels."""


class Output(NamedTuple):
    """What a Net gives for B images.

    code: logits [B, bits]; a bit is 1 where its logit is >= 0. None for a method whose codes are
        fitted to the features after the last epoch (ITQ).
    feature: [B, d], of any length.
    auxiliary: further outputs by name, which `wingbar explain` shows: "attention" [B, h, w], or
        "scores" [B, y, k] and "activation" [B, h, w] (see model/saliency.py).
    """

    code: Tensor | None
    feature: Tensor
    auxiliary: Mapping[str, Tensor] = MappingProxyType({})


def get(name: str) -> ModuleType:
    """The module of the method `name`. Raises ModelError for an unknown name."""
    if name not in NAMES:
        raise ModelError(f"no method named {name!r}: have {', '.join(NAMES)}")
    return import_module(f"wingbar.methods.{name}")


def body_and_head(
    net: nn.Module, loss: nn.Module, head_lr: float, of_body: Iterable[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Parameter groups for `param_groups`: `net.backbone`, and `of_body` of the Loss, at the run's
    learning rate; everything else of a Net and its Loss at `head_lr` times that. All parameters
    decay."""
    body = [*net.get_submodule("backbone").parameters(), *of_body]
    listed = set(map(id, body))
    head = [
        parameter
        for module in (net, loss)
        for parameter in module.parameters()
        if id(parameter) not in listed
    ]
    return [
        {"params": body, "lr_scale": 1.0, "decay_scale": 1.0},
        {"params": head, "lr_scale": head_lr, "decay_scale": 1.0},
    ]
