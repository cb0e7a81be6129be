"""What label-free codes are fitted with and for, and how that is chosen where nobody has named it.

The default is ITQ in a space that is whitened by mutual neighbours (whitening.py), unless a
comparison without labels is against it: both are fitted to one half of the sample; in the other
half, pictures that are neighbours should have nearer codes than random ones.

With labels on some of the pictures, pairs of one label take part in the whitening.

An index for classes averages each picture with its neighbours (averaging.py), and its codes are
those of such averages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import ModelError
from wingbar.model import averaging, itq, rotations
from wingbar.model.itq import Float32, Float64, Rotation
from wingbar.model.whitening import adapted, confusion, mutual_neighbours, whitening

BITS = 64  # length of label-free codes by default
CODES = ("whitened", "itq", "pca", "lsh")
ADAPT = ("labels", "none")
PURPOSES = ("copies", "instances", "classes")
DEFAULT_PURPOSE = "instances"
COMPARED = ("whitened", "itq")  # the one that confuses least is taken; the first, if equal
_NAMES = {
    "whitened": "whitened by mutual neighbours",
    "itq": "ITQ",
    "pca": "principal directions",
    "lsh": "random hyperplanes",
}
_PLAIN = {"pca": rotations.fit_pca, "lsh": rotations.fit_lsh}  # what others have to beat
FEWEST = 64  # images from which halves of them can be compared


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What codes are to be fitted with and for. The options check themselves: ModelError names the
    one bad value.

    codes: one of CODES; None for what suits the sample best.
    purpose: what pictures are searched for, one of PURPOSES; None for DEFAULT_PURPOSE.
    adapt: "labels" to learn from the labels that some pictures have; None or "none" not to.
    """

    codes: str | None = None
    purpose: str | None = None
    adapt: str | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("codes", self.codes, CODES),
            ("the purpose", self.purpose, PURPOSES),
            ("adapt", self.adapt, ADAPT),
        ):
            if value is not None and value not in known:
                raise ModelError(f"{name} must be one of {', '.join(known)}, not {value!r}")
        if self.adapt == "labels" and self.codes not in (None, "whitened"):
            raise ModelError(
                f"whitened codes learn from labels, not {self.codes}: leave --codes or --adapt out"
            )
        if self.purpose == "classes" and self.codes in _PLAIN:
            raise ModelError(
                f"codes of averages are whitened or itq, not {self.codes}: leave --codes or "
                "--for classes out"
            )

    def or_as(self, fitted: Mapping[str, Any]) -> FitOptions:
        """These options, and where they leave something open what was asked for when codes were
        fitted before, by the part "fitted" of a model.json."""
        codes = self.codes or _known(fitted.get("asked"), CODES)
        if self.codes is None and (self.adapt == "labels" or self.purpose == "classes"):
            codes = None  # what was asked for then may not go with what is asked for now
        adapt = self.adapt or _known(fitted.get("adapt"), ADAPT)
        if self.adapt is None and codes not in (None, "whitened"):
            adapt = None
        purpose = self.purpose or _known(fitted.get("for"), PURPOSES)
        return FitOptions(codes=codes, purpose=purpose, adapt=adapt)

    def or_chosen(self, chosen: Mapping[str, Any]) -> FitOptions:
        """These options, and where they leave something open what was chosen for the same purpose,
        by the part "chosen" of a model.json."""
        purpose = _known(chosen.get("for"), PURPOSES)
        if purpose is None or self.purpose not in (None, purpose):
            return self
        codes = self.codes
        if codes is None and self.adapt != "labels":
            codes = _known(chosen.get("codes"), CODES)
        return FitOptions(codes=codes, purpose=purpose, adapt=self.adapt)


def _known(value: object, names: Sequence[str]) -> str | None:
    return value if isinstance(value, str) and value in names else None


class Fitted(NamedTuple):
    """Codes that were fitted to a sample.

    rotation: the map from raw features to codes and features.
    codes: what they were fitted with, one of CODES.
    options: what was asked for.
    compared: share of held-out neighbours that each of the kinds that were compared confuses with
        random pictures, in [0, 1]; empty where nothing was compared.
    """

    rotation: Rotation
    codes: str
    options: FitOptions
    compared: Mapping[str, float]

    def record(self) -> dict[str, Any]:
        """What model.json says of it."""
        purpose = self.options.purpose or DEFAULT_PURPOSE
        return {
            "codes": self.codes,
            "compared": dict(self.compared),
            "asked": self.options.codes,
            "for": purpose,
            "adapt": self.options.adapt,
            "expand": averaging.NEIGHBOURS if purpose == "classes" else 0,
        }


def fit(
    sample: Float32,
    bits: int,
    seed: int,
    options: FitOptions | None = None,
    keep_features: bool = False,
    labels: Sequence[str | None] = (),
    whole: bool = False,
) -> Fitted:
    """Fit codes of `bits` bits to raw features [n, r] of a sample. With `keep_features` the
    features stay what they are; with `whole` they can be made of the new ones again
    (`Rotation.raw_of`). `labels` are those of the sample, None for none; only `adapt`
    looks at them.

    Raises ValueError for bits out of range, an empty sample, no two pictures of one label to adapt
    to, or where averages are to be stored in features that are kept.
    """
    options = options or FitOptions()
    averages = options.purpose == "classes"
    if averages and keep_features:
        raise ValueError("vectors are kept as they are: an index of them has no averages")
    compared: dict[str, float] = {}
    codes = options.codes
    numbers = None
    if options.adapt == "labels":
        codes, numbers = "whitened", _numbers(labels)
    if codes is None:
        compared = _compared(sample, bits, seed)
        codes = min(compared, key=lambda kind: compared[kind], default="itq")
    rotation = _rotation(sample, bits, seed, codes, averages, numbers, whole)
    if keep_features:
        rotation = itq.keeping_features(rotation)
    return Fitted(rotation, codes, options, compared)


def description(record: Mapping[str, Any]) -> str:
    """How codes were fitted and by which figures that was chosen, by the part "fitted" of a
    model.json: the end of a sentence, empty for models that do not say."""
    chosen = record.get("codes")
    if chosen not in _NAMES:
        return ""
    text = _NAMES[chosen]
    shares = record.get("compared", {})
    if record.get("adapt") == "labels":
        text += " and labels"
    elif len(shares) > 1:
        others = ", ".join(
            f"{_NAMES.get(kind, kind)} {share:.2%}"
            for kind, share in shares.items()
            if kind != chosen
        )
        text += (
            f", which takes {shares[chosen]:.2%} of random pairs for nearer than held-out "
            f"neighbours ({others})"
        )
    if record.get("for") == "classes":
        text += f"; for classes, each item averaged with its {record['expand']} nearest"
    return text


def _rotation(
    sample: Float32,
    bits: int,
    seed: int,
    codes: str,
    averages: bool = False,
    labels: NDArray[np.int64] | None = None,
    whole: bool = False,
) -> Rotation:
    """Codes of one kind, for an index for classes with `averages`; whitened ones with labels [n],
    -1 for none."""
    rng = np.random.default_rng(seed)
    if codes == "whitened":
        x = sample.astype(np.float64)
        pairs = mutual_neighbours(itq.unit(x))
        if labels is not None:
            pairs = adapted(pairs, labels, rng)
        return _fit_in(whitening(x, pairs), sample, bits, rng, averages, whole)
    if codes in _PLAIN:
        code = _PLAIN[codes](sample, bits, rng)
        fitted = itq.fit(sample, bits, rng, whole=whole)
        return fitted._replace(mean=code.mean, code=code.code)
    if averages:
        return _fit_in(np.eye(sample.shape[1]), sample, bits, rng, averages, whole)
    return itq.fit(sample, bits, rng, whole=whole)


def _fit_in(
    space: Float64,
    sample: Float32,
    bits: int,
    rng: np.random.Generator,
    averages: bool,
    whole: bool,
) -> Rotation:
    """PCA and ITQ in a linear `space` [r, r] of the raw features [n, r]; ITQ learns from averages
    over neighbours, which vary more with the class and less with all else.

    With `averages` the whole mean is subtracted from the features, too, so that a code follows from
    a feature, and they are the two halves of averaging.py.
    """
    if not 1 <= bits <= sample.shape[1]:
        return itq.fit(sample, bits, rng)  # which says what is wrong
    x = sample.astype(np.float64)
    varies = np.ptp(x, axis=0).any()  # images that are equal, centred on themselves, leave nothing
    mean = x.mean(0) if varies else np.zeros(x.shape[1])
    moved = (x - mean) @ space
    directions = itq.feature_directions(moved, max(itq.DIM, bits), whole, rng)
    average = averaging.averages_of(itq.unit(moved @ directions).astype(np.float32))
    first = itq.principal_directions(average.astype(np.float64), bits, rng)
    code = first @ itq.itq_rotation(average @ first, rng)
    feature = space @ directions
    rotation = Rotation(
        mean=mean.astype(np.float32),
        code=(feature @ code).astype(np.float32),
        feature_mean=((1.0 if averages else itq.CENTRING) * mean).astype(np.float32),
        feature=feature.astype(np.float32),
    )
    return averaging.halves(rotation) if averages else rotation


def require_pair(labels: Iterable[str | None]) -> None:
    """Raise ValueError where no two images have one label, as None for none: there is nothing to
    adapt to."""
    counts = Counter(label for label in labels if label is not None)
    if not any(count > 1 for count in counts.values()):
        raise ValueError(
            "no two of the images that codes are learned from have one label: label some, or "
            "leave --adapt labels out"
        )


def _numbers(labels: Sequence[str | None]) -> NDArray[np.int64]:
    """The number of each label [n], -1 for none. Raises ValueError where no two are equal."""
    require_pair(labels)
    known = sorted({label for label in labels if label is not None})
    number_of = {label: number for number, label in enumerate(known)}
    return np.array([-1 if label is None else number_of[label] for label in labels], np.int64)


def _compared(sample: Float32, bits: int, seed: int) -> dict[str, float]:
    """How often the codes of each kind confuse held-out neighbours with random pictures; empty
    where there are too few images to tell, or none of them are neighbours.

    Neighbours are those by the features of either kind, so that neither is judged by the other's.
    """
    if len(sample) < FEWEST:
        return {}
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(len(sample))
    learned, held_out = np.array_split(sample[order], 2)
    try:
        rotations = {codes: _rotation(learned, bits, seed, codes) for codes in COMPARED}
    except ValueError:  # no neighbours to whiten by
        return {}
    made = {codes: rotation.apply(held_out) for codes, rotation in rotations.items()}
    pairs = np.concatenate(
        [mutual_neighbours(features.astype(np.float64)) for _, features in made.values()]
    )
    if not len(pairs):
        return {}
    return {codes: confusion(logits >= 0, pairs, rng) for codes, (logits, _) in made.items()}
