"""The bounds of settings: of every method's Config, and of a Run."""

from __future__ import annotations

import math
import operator

from wingbar.errors import TrainingError
from wingbar.model.model import MOST


def require_bits(config: object, most: int = MOST) -> None:
    """Raise TrainingError unless the `bits` of a Config are a length that codes can have."""
    require(config, "bits", least=1, most=most)


def require_one_of(settings: object, name: str, *known: str) -> None:
    """Raise TrainingError unless the value of `name` in `settings` is one of the `known`."""
    value = getattr(settings, name)
    if value not in known:
        choice = f"{', '.join(known[:-1])} or {known[-1]}"
        raise TrainingError(f"{name} must be {choice}, not {value!r}")


def require(
    settings: object,
    *names: str,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise TrainingError, naming the first of the `names` whose value in `settings` is not finite
    or out of bounds: smaller than `least`, not `above`, larger than `most` or not `below`."""
    bounds = [
        (words, holds, bound)
        for words, holds, bound in (
            ("at least", operator.ge, least),
            ("above", operator.gt, above),
            ("at most", operator.le, most),
            ("below", operator.lt, below),
        )
        if bound is not None
    ]
    for name in names:
        value = getattr(settings, name)
        if not math.isfinite(value) or not all(holds(value, bound) for _, holds, bound in bounds):
            rule = " and ".join(f"{words} {bound:,}" for words, _, bound in bounds)
            raise TrainingError(f"{name} must be {rule}, not {value:,}")
