"""The methods, one file each. A method is four names:

- `Config`: a frozen keyword-only dataclass. Its fields are the flags, their help and the record;
its defaults the paper's.
- `Net(backbone, config, classes)`: exactly what inference needs. `forward(pixels [B, H, W, 3]
uint8) -> Output`.
- `Loss(backbone, config, classes, items)`: all that only training needs; made after the Net, of the
same backbone.
  `forward(net, pixels, labels, rows)` gives a dict of scalar tensors with "total" among them;
  `end_epoch()` is called after each epoch. labels [B] int64 number the classes, rows [B] int64 the
  training images.
- `param_groups(net, loss, config)`: optimizer groups, each with `params`, `lr_scale` and
`decay_scale`.

Beside them stands `RECIPE`, the fields of `training.Run` in which the paper's recipe differs from
the defaults there.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, NamedTuple

from wingbar.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("cmbh", "dlbhc", "dolg")


class Output(NamedTuple):
    """What a Net gives: `code` [B, bits], logits whose sign is the bit (>= 0 is 1), and `feature`
    [B, d], of any length.

    A method whose code is None has its codes fitted to the features after the last epoch (ITQ).
    `auxiliary` are further outputs by name, from which `wingbar explain` shows what was seen
    (explain.py says which names).
    """

    code: Tensor | None
    feature: Tensor
    auxiliary: Mapping[str, Tensor] = MappingProxyType({})


def get(name: str) -> ModuleType:
    """The method's module. Raises ModelError for an unknown name."""
    if name not in NAMES:
        raise ModelError(f"no method named {name!r}: have {', '.join(NAMES)}")
    return import_module(f"wingbar.methods.{name}")
