from __future__ import annotations

from types import SimpleNamespace

import pytest

from wingbar.errors import TrainingError
from wingbar.methods.bounds import require, require_bits, require_one_of

SETTINGS = SimpleNamespace(
    mode="half", bits=12, rate=0.5, none=0, nan=float("nan"), inf=float("inf"), many=70_000
)


def test_what_is_within_its_bounds() -> None:
    require(SETTINGS, "bits", "many", least=12)
    require(SETTINGS, "rate", above=0, most=0.5)
    require(SETTINGS, "rate", least=0.5, below=1)
    require(SETTINGS, "none", least=0)
    require_bits(SETTINGS)
    require_bits(SETTINGS, most=12)


def test_the_first_that_is_not_is_named_with_its_bounds() -> None:
    cases: list[tuple[tuple[str, ...], dict[str, float], str]] = [
        (("bits", "none", "nan"), {"least": 1}, "none must be at least 1, not 0"),
        (("nan",), {"least": 0, "below": 1}, "nan must be at least 0 and below 1, not nan"),
        (("inf",), {"least": 1}, "inf must be at least 1, not inf"),
        (("rate",), {"above": 0.5}, "rate must be above 0.5, not 0.5"),
        (("rate",), {"below": 0.5}, "rate must be below 0.5, not 0.5"),
        (("many",), {"most": 65_536}, "many must be at most 65,536, not 70,000"),
    ]
    for names, bounds, said in cases:
        with pytest.raises(TrainingError, match=f"^{said}$"):
            require(SETTINGS, *names, **bounds)
    with pytest.raises(TrainingError, match="bits must be at least 1 and at most 8, not 12"):
        require_bits(SETTINGS, most=8)


def test_one_of_a_few() -> None:
    require_one_of(SETTINGS, "mode", "whole", "half")
    with pytest.raises(TrainingError, match=r"^mode must be a or b, not 'half'$"):
        require_one_of(SETTINGS, "mode", "a", "b")
    with pytest.raises(TrainingError, match=r"^mode must be a, b or c, not 'half'$"):
        require_one_of(SETTINGS, "mode", "a", "b", "c")
