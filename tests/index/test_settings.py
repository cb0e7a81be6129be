from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.model.test_model import trained_model
from tests.small_network import DIM, small_general
from wingbar.errors import ModelError
from wingbar.index.settings import encoder_names, require_labels, require_possible
from wingbar.model.fitting import FitOptions
from wingbar.model.model import Model

PLACE = Path("a.wb")
FOR_COPIES = {"for": "copies", "candidates": [], "name": "it", "reason": "it was first"}


def fitted(name: str, bits: int, **options: str) -> Model:
    raw = np.random.default_rng(1).standard_normal((30, DIM)).astype(np.float32)
    return small_general(name).fitted(raw, bits, 0, FitOptions(**options))


@pytest.mark.parametrize(
    ("bits", "options"),
    [
        (None, {}),
        (8, {"codes": "itq", "purpose": "instances", "adapt": "none"}),
        (12, {"purpose": "classes"}),
    ],
)
def test_one_of_two_has_to_have_all_that_is_asked_for(
    bits: int | None, options: dict[str, str]
) -> None:
    models = [fitted("one", 8, codes="itq"), fitted("two", 12, codes="itq", purpose="classes")]
    require_possible(models, bits, FitOptions(**options), PLACE)


def test_what_it_has_and_the_next_step_are_said() -> None:
    one, two = fitted("one", 8, codes="itq"), fitted("one", 12, purpose="classes", codes="itq")
    chosen = trained_model().as_chosen(FOR_COPIES)
    for models, bits, options, place, said in [
        ([one], 9, {}, PLACE, "a.wb has codes of 8 bits, not 9: leave --bits out, or use --refit"),
        ([one], 9, {}, None, "the new index would have codes of 8 bits, not 9: .*, or take anot"),
        ([one, two], 9, {}, PLACE, "one with codes of 8 bits and one-2 with codes of 12 bits, n"),
        ([one, two], 8, {"purpose": "classes"}, PLACE, "one with for=instances and one-2 with c"),
        ([trained_model()], None, {"purpose": "copies"}, PLACE, "trained: leave --for out, or n"),
        ([chosen], 20, {"purpose": "classes"}, PLACE, "trained and chosen for copies: leave --f"),
        ([one, trained_model()], None, {"purpose": "copies"}, PLACE, "tiny with for=none, not c"),
        ([trained_model()] * 2, 8, {}, PLACE, "tiny-2 with codes of 20 bits, .* name a new inde"),
    ]:
        with pytest.raises(ModelError, match=said):
            require_possible(models, bits, FitOptions(**options), place)
    require_possible([chosen], 20, FitOptions(purpose="copies"), PLACE)


def test_labels_to_learn_from() -> None:
    require_labels("labels", [None, "cat", "dog", "cat"])
    for adapt in ("none", None):
        require_labels(adapt, [None, None])
    for labels in ([], [None, None], ["cat", "dog", None]):
        with pytest.raises(ModelError, match=r"no two of the images .* leave --adapt labels out"):
            require_labels("labels", labels)


def test_settings_are_for_encoders_without_codes() -> None:
    new, short = small_general("new"), small_general("short", dim=48)
    for model in (fitted("one", 8), trained_model()):
        require_possible([model, new], 99, FitOptions(codes="pca"), PLACE)
        require_possible([new, model], 99, FitOptions(codes="pca"), PLACE)
    require_possible([short], 48, FitOptions())
    require_possible([Model.of_vectors(4)], None, FitOptions())
    for models, bits in (([short], None), ([new, short], 49), ([short, new], 0)):
        with pytest.raises(
            ModelError, match=r"from 1 to 48 for short, .* give --bits N, or leave sh"
        ):
            require_possible(models, bits, FitOptions())
    begun = new.as_chosen(FOR_COPIES)
    require_possible([begun], None, FitOptions(purpose="copies"), PLACE)
    with pytest.raises(
        ModelError, match=r"a\.wb was begun for copies, .* not for classes: leave --"
    ):
        require_possible([begun], None, FitOptions(purpose="classes"), PLACE)


def test_encoders_of_one_name_are_told_apart() -> None:
    one, two = small_general("one"), small_general("two")
    assert encoder_names([one]) == ("one",)
    assert encoder_names([one, two]) == ("one", "two")
    assert encoder_names([one, one]) == ("one", "one-2")
