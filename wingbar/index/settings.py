"""The settings of codes that an `add` may ask for, and whether its encoders can have them.

They are for encoders that have no codes yet. An index that has codes keeps them: what is left out
is as it has it, the same may be named again, and anything else is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from wingbar.errors import ModelError
from wingbar.index.engine import Place
from wingbar.model.fitting import BITS, DEFAULT_PURPOSE, FitOptions, require_pair
from wingbar.model.model import Model

Settings = Mapping[str, int | str | None]
"""Bits, codes, for and adapt, by the names of their flags."""


def require_possible(
    models: Sequence[Model], bits: int | None, options: FitOptions, index: Place | None = None
) -> None:
    """Raise ModelError unless the one or two `models` of an index can have codes of `bits` bits
    and with `options`, where None leaves something open.

    Those that have no codes yet will be fitted so; where all have codes, one of them has to have
    all that is asked for. `index` is where they are; None for an index that is to be made.
    """
    unfitted = [model for model in models if not model.gives_codes]
    for model in unfitted:
        require_length(model, bits)
        begun = model.chosen.get("for")
        if begun is not None and options.purpose not in (None, begun):
            raise ModelError(
                f"{index or model} was begun for {begun}, which {model.name} was chosen for, not "
                f"for {options.purpose}: leave --for out, or name a new index"
            )
    if unfitted:
        return
    asked: Settings = {
        "bits": bits,
        "codes": options.codes,
        "for": options.purpose,
        "adapt": options.adapt,
    }
    differing = [_differing(model, asked) for model in models]
    if all(differing):
        raise ModelError(_refusal(models, asked, differing, index))


def require_labels(adapt: str | None, labels: Iterable[str | None]) -> None:
    """Raise ModelError where codes are to be learned with `adapt` "labels" from images of which no
    two have one label, None for none."""
    try:
        if adapt == "labels":
            require_pair(labels)
    except ValueError as error:
        raise ModelError(str(error)) from None


def default_bits(model: Model) -> int:
    """Length of the codes that a model learns where none is asked for: that with which it was
    chosen, or BITS."""
    return int(model.chosen.get("bits", BITS))


def require_length(model: Model, bits: int | None) -> None:
    """Raise ModelError where codes of `bits` bits, None for as many as there are by default, cannot
    be learned from the features of a model."""
    if bits is None and not model.has_network:
        return  # vectors have no more bits than numbers by default
    length, longest = default_bits(model) if bits is None else bits, model.longest_code
    if not 1 <= length <= longest:
        default = ", the default" if bits is None else ""
        raise ModelError(
            f"bits must be from 1 to {longest} for {model.name}, which gives features of "
            f"{longest} numbers, not {length}{default}: give --bits N, or leave {model.name} out"
        )


def encoder_names(models: Sequence[Model]) -> tuple[str, ...]:
    """The names of the one or two encoders of an index: those of their models, and where both have
    one name, the second's ends with -2."""
    names = [model.name for model in models]
    if len(names) == 2 and names[0] == names[1]:
        names[1] += "-2"
    return tuple(names)


def _differing(model: Model, asked: Settings) -> Settings:
    """What a model with codes has where it is something else than what is asked for."""
    fitted = model.record.get("fitted", {})
    if model.is_label_free:
        kind = fitted.get("codes", "itq")
        purpose = model.chosen.get("for", fitted.get("for", DEFAULT_PURPOSE))
    else:
        kind, purpose = "trained", model.chosen.get("for")
    own: Settings = {
        "bits": model.bits,
        "codes": kind,
        "for": purpose,
        "adapt": fitted.get("adapt") or "none",
    }
    return {name: own[name] for name, value in asked.items() if value not in (None, own[name])}


def _refusal(
    models: Sequence[Model], asked: Settings, differing: Sequence[Settings], index: Place | None
) -> str:
    """What an index has, or would have, in place of what is asked for, and what to do."""
    names = [name for name in asked if any(name in one for one in differing)]
    wanted = asked[names[0]] if len(names) == 1 else _said({name: asked[name] for name in names})
    step = "use --refit to change it" if index is not None else "take another model"
    if len(models) == 2:
        pairs = zip(encoder_names(models), differing, strict=True)
        has = f"{' and '.join(f'{name} with {_said(one)}' for name, one in pairs)}, not {wanted}"
        step = "use --refit --with NAME to change one" if index is not None else step
    elif models[0].is_label_free or names == ["bits"]:
        has = f"{_said(differing[0])}, not {wanted}"
    else:
        chosen = f" and chosen for {models[0].chosen['for']}" if models[0].chosen else ""
        has = f"codes of {models[0]}, which was trained{chosen}"
    if index is not None and not any(model.is_label_free for model in models):
        step = "name a new index"
    subject = f"{index} has" if index is not None else "the new index would have"
    return f"{subject} {has}: leave {' and '.join(f'--{name}' for name in names)} out, or {step}"


def _said(settings: Settings) -> str:
    """Settings in words."""
    if list(settings) == ["bits"]:
        return f"codes of {settings['bits']} bits"
    return ", ".join(f"{name}={value or 'none'}" for name, value in settings.items())
