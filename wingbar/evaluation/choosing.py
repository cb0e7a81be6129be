"""Choose the model, the kind of codes and the fine mode for a collection and what is searched for
in it: all of them are tried on a sample of its pictures.

For copies and for instances, altered versions of some pictures are searched for among the sample,
and the reciprocal rank of the original counts; for classes, one half of a labelled sample in the
other, and the average precision counts. The index of the sample is searched as every index is.
Candidates are compared query by query: of those that are no worse than the best by more than NOISE
standard errors of the mean difference, the first is taken. First comes what would be taken without
measuring.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.data.alterations import Change, copy_of, view_of
from wingbar.data.records import Entry, Images
from wingbar.errors import ImageError, ModelError, StoreError, counted
from wingbar.evaluation.scoring import (
    Block,
    LabelledQuery,
    expanded_block,
    read_gallery,
    score_block,
)
from wingbar.index.averaging import average_new
from wingbar.index.engine import NO_FILE, Item
from wingbar.index.index import Index, model_at, store_of
from wingbar.index.ranking import FINE, SHORTLIST, Fine, SearchOptions
from wingbar.index.settings import require_length
from wingbar.index.sources import Addable, Wanted, batch_of
from wingbar.model.fitting import BITS, COMPARED, DEFAULT_PURPOSE, FitOptions
from wingbar.model.installed import installed, problem_with_folder
from wingbar.model.model import VECTORS, Model
from wingbar.parallel import BATCH, Progress, batched, cores, in_order, no_progress

FEWEST = 50  # pictures, below which a choice would be a matter of chance
PICTURES = 300  # that are altered and searched for among each other, at most
LABELLED = 600  # of which half are searched for in the other half, at most
PARTNERS = 4  # labelled pictures of each label, at least, if there are so many labels
SECONDS = 60.0  # for which each model encodes, at most
NOISE = 2.0  # standard errors of a mean difference, within which two are taken for equal
ROUNDING = 1e-9  # of a mean: two that find the same may sum it up in another order
LONGEST_SIDE = 1024  # to which pictures are scaled before they are altered, in pixels

OWN = "own"  # the kind of codes that a model brings
MEASURES = {
    "copies": "reciprocal rank of altered copies",
    "instances": "reciprocal rank of altered views",
    "classes": "average precision by labels",
}
_ALTERING: Mapping[str, Change] = {"copies": copy_of, "instances": view_of}

Candidate = Model | str | os.PathLike[str]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """What suits a collection best, and how that was measured.

    model: to make the index with. It knows what it was chosen for (`Model.chosen`), so that `add`
        fits its codes for that, and its fine mode is the one that was chosen. Its codes are fitted
        by the first `add`, as ever.
    chosen: the record, as the index keeps it:
        for: the purpose;
        measure: what was measured, one of MEASURES; each value in [0, 1];
        queries, gallery: number of pictures that were searched for, and among how many;
        bits: length of the codes that were learned for that, and that an index then learns;
        candidates: for each its name, fingerprint and `scores`, the means by kind of codes and by
            fine mode, of which one that was left out has none;
        name, codes, fine, score: what was taken of them, and its mean;
        error: standard error of that mean.
        Where nothing could be measured there is a `reason` in place of the figures.
    images_per_second: decoded and encoded images per second here, by name of the candidate.
    seconds: that it took.
    notes: sentences on candidates that were not tried.
    """

    model: Model
    chosen: Mapping[str, Any]
    images_per_second: Mapping[str, float] = field(default_factory=dict, hash=False)
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


def choose_model(
    source: Addable,
    models: Candidate | Sequence[Candidate] | None = None,
    *,
    purpose: str = DEFAULT_PURPOSE,
    labels: Sequence[str | None] | None = None,
    bits: int | None = None,
    codes: str | None = None,
    adapt: str | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Choice:
    """The best of `models` for searching the pictures of `source` for a `purpose`, "copies",
    "instances" or "classes": make an index with its `model`, and add the pictures.

    `models` are one or several, each a Model, a model directory, the name of an installed one,
    another index or "general"; None for all that is installed, "general" first. `source`, `labels`,
    `bits`, `codes` and `adapt` are as for `Index.add`. A sample drawn with `seed` is measured: at
    most PICTURES and as many altered ones, for classes LABELLED ones, encoded by each model for
    SECONDS at most. With fewer than FEWEST pictures, or for classes without labels, nothing is
    measured, and the first is taken.

    Raises ModelError or StoreError for a named model that cannot be read or cannot be used,
    DataError for a source that holds nothing to read.
    """
    start = time.monotonic()
    options = FitOptions(codes=codes, purpose=purpose, adapt=adapt)
    candidates, notes = _candidates(models, options, bits)
    report = progress or no_progress
    sample = _sample(source, labels, purpose, seed, threads or cores(), report)
    if isinstance(sample, str):
        return _unmeasured(candidates, purpose, sample, notes, start)
    outputs = _outputs(candidates, sample.shown, threads or cores(), report)
    read = max(one.read for one in outputs.values())
    if read < FEWEST and all(one.tried == len(sample.shown) for one in outputs.values()):
        few = _few_could_be_read(read, len(sample.shown))
        return _unmeasured(candidates, purpose, few, notes, start)
    left = {name: model for name, model in candidates.items() if len(outputs[name].raw) >= FEWEST}
    notes += [
        f"{name} was left out: it encoded {len(one.raw)} pictures in {one.seconds:.0f} s"
        for name, one in outputs.items()
        if name not in left
    ]
    if not left:
        return _unmeasured(candidates, purpose, "no model encoded enough pictures", notes, start)
    rows = sorted(set.intersection(*(set(outputs[name].raw) for name in left)))
    trial = _Trial(sample, rows, options, BITS if bits is None else bits, seed)
    if not trial.gallery or not trial.queries:
        return _unmeasured(candidates, purpose, "no label is left in both halves", notes, start)
    ways = [(name, kind) for name in left for kind in _kinds(left[name], options)]
    tried: list[_Tried] = []
    for done, (name, kind) in enumerate(ways):
        report("comparing", done, len(ways))
        tried += _tried(trial, name, left[name], kind, outputs[name].raw)
    if not len(tried[0].precisions):
        return _unmeasured(candidates, purpose, "no label is left in both halves", notes, start)
    taken = tried[best_of([one.precisions for one in tried])]
    chosen = {
        "for": purpose,
        "measure": MEASURES[purpose],
        "queries": len(taken.precisions),
        "gallery": len(trial.gallery),
        **({} if taken.codes == OWN else {"bits": trial.bits}),
        "candidates": _described(candidates, tried),
        "name": taken.name,
        "codes": taken.codes,
        "fine": taken.fine,
        "score": _mean(taken.precisions),
        "error": round(_standard_error(taken.precisions), 4),
    }
    speeds = {name: round(one.tried / one.seconds, 1) for name, one in outputs.items()}
    model = left[taken.name].as_chosen(chosen)
    return Choice(model, chosen, speeds, time.monotonic() - start, tuple(notes))


def best_of(tried: Sequence[Float64]) -> int:
    """Which of several values by query [Q] each are the best: the first of those whose mean is no
    less than the highest by more than NOISE standard errors of the mean difference."""
    highest = max(tried, key=lambda values: float(values.mean()))
    for place, values in enumerate(tried):
        difference = highest - values
        if difference.mean() <= NOISE * _standard_error(difference) + ROUNDING:
            return place
    raise AssertionError("the highest does not differ from itself")


def _standard_error(values: Float64) -> float:
    """Of the mean of values [n]; 0 for a single one, of which nothing is known."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _unmeasured(
    candidates: Mapping[str, Model], purpose: str, reason: str, notes: Sequence[str], start: float
) -> Choice:
    """The first candidate, and why nothing was measured."""
    name, model = next(iter(candidates.items()))
    described = _described(candidates, [])
    chosen = {"for": purpose, "reason": reason, "candidates": described, "name": name}
    return Choice(model.as_chosen(chosen), chosen, {}, time.monotonic() - start, tuple(notes))


def _described(candidates: Mapping[str, Model], tried: Sequence[_Tried]) -> list[dict[str, Any]]:
    """The candidates with the mean of each way to search."""
    described = []
    for name, model in candidates.items():
        scores: dict[str, dict[str, float]] = {}
        for one in tried:
            if one.name == name:
                scores.setdefault(one.codes, {})[one.fine] = _mean(one.precisions)
        described.append({"name": name, "fingerprint": model.fingerprint, "scores": scores})
    return described


def _mean(values: Float64) -> float:
    return round(float(values.mean()), 4)


# -- what is tried


class _Tried(NamedTuple):
    """One way to search: a candidate by name, a kind of codes, a fine mode; and what each query [Q]
    found by it, in [0, 1]."""

    name: str
    codes: str
    fine: Fine
    precisions: Float64


def _candidates(
    models: Candidate | Sequence[Candidate] | None, options: FitOptions, bits: int | None
) -> tuple[dict[str, Model], list[str]]:
    """The models to try by a name of their own, in order; and why others are not. Raises for a
    named one that cannot be used."""
    if isinstance(models, (str, os.PathLike, Model)):
        models = [models]
    if models is not None and not len(models):
        raise ModelError("there is no model to choose: name one, or leave models out")
    named: Sequence[Candidate] = ["general", *installed()] if models is None else models
    found: list[Model] = []
    notes: list[str] = []
    if models is None and (problem := problem_with_folder()):
        notes.append(f"{problem}: no installed model was tried")
    for one in named:
        try:
            model = one if isinstance(one, Model) else model_at(one)
            _require_usable(model, options, bits)
        except (ModelError, StoreError) as error:
            if models is not None:
                raise
            name = one.name if isinstance(one, Model) else os.fspath(one)
            notes.append(f"{name} was left out: {str(error).removeprefix(f'{name}: ')}")
            continue
        if model.fingerprint in {other.fingerprint for other in found}:
            notes.append(f"{model.name} ({model.fingerprint[:12]}) was named twice, and tried once")
        else:
            found.append(model)
    if not found:
        raise ModelError(f"no installed model can be used: {'; '.join(notes)}")
    names = Counter(model.name for model in found)
    return {
        model.name if names[model.name] == 1 else f"{model.name} ({model.fingerprint[:12]})": model
        for model in found
    }, notes


def _require_usable(model: Model, options: FitOptions, bits: int | None) -> None:
    """Raise ModelError for a model that cannot be one for these codes."""
    model.require_network()
    if not model.gives_codes:
        require_length(model, bits)
        return
    if bits not in (None, model.bits) or options.codes or options.adapt == "labels":
        raise ModelError(
            f"{model} has codes of its own: leave --bits, --codes and --adapt out, or this model"
        )
    if model.is_label_free:
        fitted = model.record.get("fitted", {}).get("for", DEFAULT_PURPOSE)
        if (fitted == "classes") != (options.purpose == "classes"):
            raise ModelError(
                f"{model} has codes that were learned for {fitted}: leave it out, or name the "
                "model that its index was made with"
            )


def _kinds(model: Model, options: FitOptions) -> Sequence[str]:
    """The kinds of codes that are tried with a model, the first choice first."""
    if model.gives_codes:
        return (OWN,)
    if options.adapt == "labels":
        return ("whitened",)
    return COMPARED if options.codes is None else (options.codes,)


# -- the sample


class _Shown(NamedTuple):
    """A picture of the sample: what it is read from, the label that says what it should find or be
    found by, the class that codes may learn from, and whether it is a query."""

    source: images.Source
    label: str
    own_label: str | None
    is_query: bool


class _Sample(NamedTuple):
    """The pictures in the order in which they are encoded, so that every beginning of it is a
    smaller sample; and whether a label can be several."""

    shown: list[_Shown]
    multi_label: bool


def _sample(
    source: Any,
    labels: Sequence[str | None] | None,
    purpose: str,
    seed: int,
    threads: int,
    report: Progress,
) -> _Sample | str:
    """The sample, or why there is none."""
    wanted = list({one.path: one for one in batch_of(source, None, labels).wanted}.values())
    order = [wanted[i] for i in np.random.default_rng([seed, 2]).permutation(len(wanted))]
    if len(order) < FEWEST:
        return f"there are fewer than {FEWEST} pictures to measure with"
    if purpose != "classes":
        drawn = order[:PICTURES]
        altered = list(_with_altered(drawn, _ALTERING[purpose], seed, threads, report))
        if len(altered) < FEWEST:
            return _few_could_be_read(len(altered) // 2, len(drawn))
        return _Sample(altered, False)
    shown = list(_labelled(order))
    if len(shown) < FEWEST:
        return (
            f"fewer than {FEWEST} pictures have a label that others have too, and nothing else "
            "says what is of one kind"
        )
    if len({one.label for one in shown}) == 1:
        return f"all pictures with a label have the same one, {shown[0].label}"
    parts = source if isinstance(source, (list, tuple)) else [source]
    return _Sample(shown, any(isinstance(part, Images) and part.multi_label for part in parts))


def _few_could_be_read(read: int, tried: int) -> str:
    """Why nothing was measured where too few pictures of the sample are left."""
    if not read:
        return f"none of the {counted(tried, 'picture')} that were tried could be read"
    return (
        f"only {read:,} of the {counted(tried, 'picture')} that were tried could be read, too few "
        "to measure with"
    )


def _with_altered(
    drawn: Sequence[Wanted], change: Change, seed: int, threads: int, report: Progress
) -> Iterator[_Shown]:
    """Each picture that can be read, and an altered one that should find it."""

    def altered(i: int) -> bytes | None:
        try:
            image = images.upright(drawn[i].source)
        except ImageError:
            return None
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        out = io.BytesIO()
        change(image, np.random.default_rng([seed, 3, i])).save(out, "JPEG", quality=90)
        return out.getvalue()

    for i, data in enumerate(in_order(range(len(drawn)), altered, threads)):
        report("altering pictures", i + 1, len(drawn))
        if data is not None:
            yield _Shown(drawn[i].source, str(i), drawn[i].label, is_query=False)
            yield _Shown(data, str(i), None, is_query=True)


def _labelled(order: Sequence[Wanted]) -> Iterator[_Shown]:
    """Pictures whose label others have too, of as many labels as leave each PARTNERS pictures or
    more: two of each label, of which the second is a query, then the next two of each."""
    of_label: dict[str, list[Wanted]] = {}
    for one in order:
        if one.label is not None:
            of_label.setdefault(one.label, []).append(one)
    several = {label: those for label, those in of_label.items() if len(those) > 1}
    labels = list(several)[: LABELLED // PARTNERS]
    for place in range(0, LABELLED // len(labels) // 2 * 2 if labels else 0, 2):
        for label in labels:
            for i, one in enumerate(several[label][place : place + 2]):
                yield _Shown(one.source, label, label, is_query=i == 1)


# -- the measurement


class _Outputs(NamedTuple):
    """What a network gave: its raw outputs [r] by row of the sample, without the rows that could
    not be read and those for which there was no time; how many rows were tried, and how many of
    them could be read; and the seconds that took, decoding included."""

    raw: dict[int, Float32]
    tried: int
    read: int
    seconds: float


def _outputs(
    candidates: Mapping[str, Model], shown: Sequence[_Shown], threads: int, report: Progress
) -> dict[str, _Outputs]:
    """What each network gives for the sample; none encodes more of it than one before had the time
    for, unless that is left out."""
    outputs = {}
    for name, model in candidates.items():
        one = outputs[name] = _encoded(model, name, shown, threads, report)
        if len(one.raw) >= FEWEST:
            shown = shown[: one.tried]
    return outputs


def _encoded(
    model: Model, name: str, shown: Sequence[_Shown], threads: int, report: Progress
) -> _Outputs:
    """The sample as a model sees it, for SECONDS at most. The network is left again, so that those
    of many candidates are not in memory at once."""
    network = Model(model.files)

    def load(row: int) -> images.Pixels | None:
        try:
            return images.load(shown[row].source, network.preprocessing)
        except ImageError:
            return None

    raw: dict[int, Float32] = {}
    start = time.monotonic()
    done = read = 0
    for batch in batched(enumerate(in_order(range(len(shown)), load, threads)), BATCH):
        there = [(row, pixels) for row, pixels in batch if pixels is not None]
        if there:
            made = network.run([pixels for _, pixels in there])
            finite = np.flatnonzero(np.isfinite(made).all(1)).tolist()
            raw |= {there[i][0]: made[i] for i in finite}
        done, read = done + len(batch), read + len(there)
        report(f"trying {name}", done, len(shown))
        if time.monotonic() - start > SECONDS:
            break
    return _Outputs(raw, done, read, max(time.monotonic() - start, 1e-9))


class _Trial(NamedTuple):
    """What every candidate goes through: the rows of the sample that all of them have encoded, and
    how codes of `bits` bits are fitted."""

    sample: _Sample
    rows: Sequence[int]
    options: FitOptions
    bits: int
    seed: int

    @property
    def gallery(self) -> list[int]:
        """The rows that are searched."""
        return [row for row in self.rows if not self.sample.shown[row].is_query]

    @property
    def queries(self) -> list[int]:
        """The rows that are searched for."""
        return [row for row in self.rows if self.sample.shown[row].is_query]


def _tried(
    trial: _Trial, name: str, model: Model, kind: str, raw: Mapping[int, Float32]
) -> list[_Tried]:
    """A candidate with one kind of codes in every fine mode, its own first."""
    model = model.as_before_choice()
    modes = sorted(FINE, key=lambda fine: fine != model.fine)
    found = _precisions(trial, _fitted(trial, model, kind, raw), raw)
    return [_Tried(name, kind, fine, found[fine]) for fine in modes]


def _fitted(trial: _Trial, model: Model, kind: str, raw: Mapping[int, Float32]) -> Model:
    """The model with codes of a kind, which a label-free one learns from the gallery."""
    if kind == OWN:
        return model
    return model.fitted(
        np.stack([raw[row] for row in trial.gallery]),
        trial.bits,
        trial.seed,
        FitOptions(codes=kind, purpose=trial.options.purpose, adapt=trial.options.adapt),
        [trial.sample.shown[row].own_label for row in trial.gallery],
    )


def _precisions(trial: _Trial, model: Model, raw: Mapping[int, Float32]) -> dict[Fine, Float64]:
    """The average precision of each query [Q] by fine mode, from an index of the gallery."""
    shown = trial.sample.shown
    with (
        tempfile.TemporaryDirectory(prefix="wingbar-") as folder,
        Index.create(Path(folder) / "sample.wb", _without_network(model)) as index,
    ):
        store, searched = store_of(index), index.model
        items = [
            Item(f"array:{row}", shown[row].label, {}, NO_FILE, 0, _digest(row))
            for row in trial.gallery
        ]
        made = searched.embed(np.stack([raw[row] for row in trial.gallery]))
        with store.writing():
            store.add(items, made.codes, made.features, searched.bits)
            average_new(store, searched)
        gallery = read_gallery(index, "network", False, trial.sample.multi_label)
        queries = Block(
            [LabelledQuery(Entry(Path(str(row))), shown[row].label) for row in trial.queries],
            searched.embed(np.stack([raw[row] for row in trial.queries])),
            [_digest(row) for row in trial.queries],
        )
        queries = expanded_block(index, queries, SearchOptions())
        found: dict[Fine, Float64] = {}
        for fine in FINE:
            options = SearchOptions(k=SHORTLIST, fine=fine, expand=0)
            scores, _ = score_block(index, gallery, queries, options)
            found[fine] = np.array([score.rerank_ap for score in scores])
        return found


def _without_network(model: Model) -> Model:
    """The same codes and features of raw outputs, without the network that gives these."""
    files = dict.fromkeys(name for name in model.files if name != "rotation.npz")
    return model.altered(files, {"method": VECTORS})


def _digest(row: int) -> bytes:
    return hashlib.sha256(str(row).encode()).digest()
