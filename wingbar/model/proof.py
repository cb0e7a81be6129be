"""The proof that a machine computes what the one that exported a model did: eight small pictures,
and the outputs of the network that they had there.

The pictures are scaled and encoded again, alone and in a batch of 16. On a machine that passes,
every number of a feature is within TOLERANCE and every clear bit is the same, so that its codes and
features can stand beside those of any other machine that passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.errors import ModelError, one_line
from wingbar.model import arrays
from wingbar.model.model import PROOF, Float32, Model

PICTURES = 8
SHAPE = (48, 64)  # height and width of the pictures
TOLERANCE = 1e-4  # by which a number of a unit feature may differ
# a bit must agree where its logit is further from zero than this share of the mean absolute logit
CLEAR = 1e-3

# What networks gave on this machine, which does not change while a process runs: an index that is
# opened again, or was fitted to other images, has the same network.
_computed: dict[tuple[str, ...], list[Float32]] = {}


class Proof(NamedTuple):
    """What is kept of the machine that exported a model.

    pictures: [8, H, W, 3] uint8.
    outputs: raw outputs [8, r] float32 of the network for them.
    """

    pictures: NDArray[np.uint8]
    outputs: Float32


class Outcome(NamedTuple):
    """How a machine fared.

    difference: the largest difference of any number of a feature.
    wrong: how many clear bits are others; 0 while the model gives no codes.
    bits: how many clear bits were compared.
    """

    difference: float
    wrong: int
    bits: int

    @property
    def passes(self) -> bool:
        """Whether features and bits are those of the exporting machine."""
        return self.difference <= TOLERANCE and not self.wrong


def draw_pictures() -> NDArray[np.uint8]:
    """Eight pictures [8, H, W, 3] uint8 that tell colours, orders of channels and positions apart:
    slopes of colour, with stripes, a disc and grain."""
    rng = np.random.default_rng(8)
    height, width = SHAPE
    y, x = np.mgrid[:height, :width] / np.array(SHAPE)[:, None, None]
    drawn = []
    for _ in range(PICTURES):
        low, high, stripes, disc = rng.uniform(0, 255, (4, 3))
        angle, waves, radius = rng.uniform((0, 2, 0.1), (np.pi, 9, 0.35))
        along = np.cos(angle) * x + np.sin(angle) * y
        picture = low + (high - low) * along[..., None]
        picture += 0.3 * (stripes - 128) * np.sin(waves * 2 * np.pi * along)[..., None]
        centre = rng.uniform(0.2, 0.8, 2)
        inside = np.hypot(y - centre[0], x - centre[1]) < radius
        picture[inside] = 0.3 * picture[inside] + 0.7 * disc
        picture += rng.normal(0, 6, picture.shape)
        drawn.append(picture.clip(0, 255).round().astype(np.uint8))
    return np.stack(drawn)


def proven(model: Model) -> Model:
    """`model` with a proof of what this machine computes.

    A network whose outputs depend on what else is in its batch, as those of int8 networks do whose
    ranges are taken while they run, becomes one that is run on one image at a time. Raises
    ModelError when it cannot be run.
    """
    import platform  # a search, which imports this module, has no use for them
    from importlib.metadata import version

    pictures = draw_pictures()
    single = model.altered({PROOF: None}, {"batch": 1})
    outputs, *_ = _run(single, pictures)
    if not np.isfinite(outputs).all():
        raise ModelError(f"the network of {model.name} gives numbers that are not finite")
    content = arrays.to_bytes({"pictures": pictures, "outputs": outputs.astype("<f4")})
    made = {"proven": {"onnxruntime": version("onnxruntime"), "machine": platform.machine()}}
    whole = model.altered({PROOF: content}, made)
    if whole.batch > 1 and not _compare(whole, outputs, _run(whole, pictures)[1:]).passes:
        return single.altered({PROOF: content}, made)
    return whole


def of(model: Model) -> Proof | None:
    """The proof of a model; None for one that was made before there were proofs. Raises ModelError
    when it is damaged."""
    data = model.files.get(PROOF)
    if data is None:
        return None
    try:
        found = Proof(**arrays.from_bytes(data, {"pictures": "|u1", "outputs": "<f4"}))
        if found.pictures.shape[1:] != (*SHAPE, 3) or not (
            len(found.pictures) == len(found.outputs) == PICTURES and found.outputs.ndim == 2
        ):
            raise ValueError("its arrays do not fit together")
        if not np.isfinite(found.outputs).all():
            raise ValueError("its numbers are not finite")
    except arrays.DAMAGED as error:
        raise ModelError(f"{PROOF} cannot be read ({one_line(error)})") from None
    return found


def examine(model: Model) -> Outcome | None:
    """Whether this machine passes; None for a model without a proof. Each network is run once per
    process. Raises ModelError."""
    proof = of(model)
    if proof is None:
        return None
    key = (
        *(model.record["files"][name] for name in ("model.onnx", PROOF)),
        repr((model.preprocessing, model.batch)),
    )
    if key not in _computed:
        _computed[key] = _run(model, proof.pictures)
    return _compare(model, proof.outputs, _computed[key])


def problem(model: Model) -> str | None:
    """A sentence about what this machine computes otherwise than the one that exported the model;
    None where it passes, or where there is no proof. Raises ModelError."""
    outcome = examine(model)
    if outcome is None or outcome.passes:
        return None
    made = model.record.get("proven", {})
    with_ = f"ONNX Runtime {made.get('onnxruntime', '?')} on {made.get('machine', '?')}"
    bits = f", and {outcome.wrong} of {outcome.bits} clear bits are others" if outcome.bits else ""
    return (
        f"this machine computes other features with {model.name} than the one that its proof is "
        f"of ({with_}): they differ by {outcome.difference:.2g}, where {TOLERANCE:g} is "
        f"allowed{bits}"
    )


def _run(model: Model, pictures: NDArray[np.uint8]) -> list[Float32]:
    """Raw outputs [8, r] of the pictures alone, and twice in a batch of 16 where the network takes
    batches, the second time in the reverse order."""
    pixels = [images.load(picture, model.preprocessing) for picture in pictures]
    alone = np.concatenate([model.run([one]) for one in pixels])
    if model.batch == 1:
        return [alone]
    together = model.run([*pixels, *pixels[::-1]])
    return [alone, together[:PICTURES], together[PICTURES:][::-1]]


def _compare(model: Model, expected: Float32, found: Sequence[Float32]) -> Outcome:
    """The worst of several outputs [8, r] beside those of the proof."""
    if any(one.shape != expected.shape for one in found):
        return Outcome(float("inf"), 0, 0)
    dim = int(model.record["dim"])
    # what is not finite differs
    differences = [float(np.abs(one[:, :dim] - expected[:, :dim]).max()) for one in found]
    largest = float(max(np.nan_to_num(differences, nan=np.inf, posinf=np.inf)))
    if not model.gives_codes:
        return Outcome(largest, 0, 0)
    logits = model.embed(expected).logits
    clear = np.abs(logits) > CLEAR * np.abs(logits).mean()
    wrong = [((model.embed(one).logits >= 0) != (logits >= 0))[clear].sum() for one in found]
    return Outcome(largest, int(max(wrong)), int(clear.sum()))
