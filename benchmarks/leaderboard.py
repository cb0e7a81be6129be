"""Every method beside the others: the same data, backbone, budget, protocol and formulas.

    python benchmarks/leaderboard.py pack butterflies small/butterflies   # pictures of 176 pixels
    python benchmarks/leaderboard.py run OUT --data small/butterflies --data small/clothing
    python benchmarks/leaderboard.py table OUT > leaderboard.md

`run` trains and measures cells, each a data set, a method, a code length, and either all classes or
three quarters of them, with the others held out of training (protocol `unseen`). A cell is one JSON
file in OUT that says how it was made; those that are there are not run again, and one that was
stopped goes on from its last checkpoint, at most ten minutes before. The cells are ordered so that
an early end (--time-limit, Ctrl-C) leaves a fair comparison: all methods at the first two code
lengths on the first data set, then the classes never seen, then the rest. --jobs cells run at once;
the pictures of each are decoded once, into memory.

On a machine with a GPU, a process for each of its cores but a few keeps it busy:

    python benchmarks/leaderboard.py run OUT --data small/butterflies --data small/clothing \\
        --device cuda --jobs 12 --workers 0 --time-limit 500

`--classes` and `--bits` choose cells, `--methods cmbh-B+L` is CMBH with some of its parts and
cmbh-fused with codes of all stages, and --no-mirror leaves digits as they are.

Codes are the network's on both sides, after the last epoch. Nothing is selected on the queries.
Settings of the methods are those that their pages in docs/ recommend, else their defaults. Which
learning rate suits a method is measured on training images alone, a tenth of them as queries:

    python benchmarks/leaderboard.py run OUT --data butterflies --bits 48 --rates 0.003 0.01 0.03
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import io
import itertools
import json
import os
import platform
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from cmbh import PARTS as PARTS_OF_CMBH  # type: ignore[import-not-found,unused-ignore]
from numpy.typing import NDArray
from PIL import Image
from unseen import sides  # type: ignore[import-not-found,unused-ignore]  # beside this file

from wingbar import images, methods
from wingbar.cli.options import positive_number, whole_number
from wingbar.data.readers import read_dataset, read_parts
from wingbar.data.records import Dataset, Entry, Images
from wingbar.errors import WingbarError, counted
from wingbar.evaluation.labelled import evaluate
from wingbar.evaluation.metrics import Buckets, health, to_buckets
from wingbar.files import write_whole
from wingbar.hamming import codes
from wingbar.images import Preprocessing
from wingbar.index.index import Index
from wingbar.model import itq, rotations
from wingbar.model.itq import Rotation, unit
from wingbar.model.model import Model
from wingbar.networks import backbones
from wingbar.parallel import batched, cores, in_order, no_progress
from wingbar.training import checkpoint
from wingbar.training.export import cost
from wingbar.training.loop import Training
from wingbar.training.pictures import Split, decoded
from wingbar.training.run import Recorded, Run

SIDE = 176  # short side of packed pictures, in pixels
BITS = (12, 48, 24, 32)
UNSEEN_BITS = (48, 12)
CLASSES = ("all", "seen")
RADIUS = 2
CROP = 0.6  # side of CMBH's regions, by that of the image
BATCH = 128  # images per run of the network while measuring
PATIENCE = 20.0  # seconds in which a cell that is stopped can write its checkpoint

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Fit = Callable[[Float32, Int64, int, np.random.Generator], Rotation]


@dataclass(frozen=True)
class Settings:
    """What a method is trained with beside its defaults: fields of its Config and of Run."""

    config: Mapping[str, Any]
    run: Mapping[str, Any]


# the slowest first, as cells of one group are started in this order
TRAINED: dict[str, Settings] = {
    "cmbh": Settings({"width": 256, "head_lr": 5.0}, {}),
    "dolg": Settings({"head_lr": 5.0}, {"whole": False, "scales": "1"}),
    "dlbhc": Settings(
        {"latent_std": 0.05, "latent_bias": 0.0, "latent_lr": 5.0, "classifier_lr": 5.0},
        {"lr": 0.03},
    ),
}
TRAINED |= {name: Settings({}, {}) for name in methods.NAMES if name not in TRAINED}
"""Every method; those without an entry of their own have their defaults."""

VARIANTS = {
    f"cmbh-{name}": replace(TRAINED["cmbh"], config={**TRAINED["cmbh"].config, **changed})
    for name, changed in {**PARTS_OF_CMBH, "fused": {"fused": True}}.items()
    if changed
}
"""CMBH without some of its parts, or with codes of all stages, where --methods names it."""

SETTINGS = TRAINED | VARIANTS

FITTED: dict[str, Fit] = {
    "itq": lambda x, labels, bits, rng: itq.fit_codes(x, bits, rng),
    "pca": lambda x, labels, bits, rng: rotations.fit_pca(x, bits, rng),
    "lsh": lambda x, labels, bits, rng: rotations.fit_lsh(x, bits, rng),
    "itq_cca": rotations.fit_itq_cca,
}
"""Codes fitted to the features of the backbone as it comes, without training; ITQ-CCA uses the
labels."""


class Cell(NamedTuple):
    """One measurement.

    data: the folder of the data set.
    method: a name in SETTINGS or FITTED.
    bits: code length.
    classes: "all", or "seen" where a quarter of the classes is held out of training.
    seed: of the run, and of what the fitted methods draw.
    rate: the learning rate to judge, on training images; 0 for a measurement with the method's own.
    """

    data: str
    method: str
    bits: int
    classes: str
    seed: int
    rate: float = 0.0

    @property
    def name(self) -> str:
        """The name of its file."""
        name = f"{Path(self.data).name}-{self.classes}-{self.bits}-{self.method}-{self.seed}"
        return f"{name}-{self.rate:g}" if self.rate else name


def cells_of(
    data: Sequence[str],
    names: Sequence[str],
    bits: Sequence[int],
    seeds: Sequence[int],
    rates: Sequence[float] = (),
    classes: Sequence[str] = CLASSES,
) -> Iterator[Cell]:
    """All cells of `classes` in the order in which they are run; with `rates` those that judge
    them, of all classes."""
    if rates:
        trained = [name for name in names if name in SETTINGS]
        for seed, folder, b in itertools.product(seeds, data, bits):
            for name, rate in itertools.product(trained, rates):
                yield Cell(folder, name, b, "all", seed, rate)
        return

    def group(folder: str, lengths: Sequence[int], of: str, seed: int) -> Iterator[Cell]:
        for b in lengths if of in classes else ():
            for name in names:
                yield Cell(folder, name, b, of, seed)

    first, rest = bits[:2], bits[2:]
    unseen = bits
    if "all" in classes:
        unseen = [b for b in UNSEEN_BITS if b in bits] or bits[:1]
    for seed in seeds:
        for folder in data:
            yield from group(folder, first, "all", seed)
            yield from group(folder, unseen[:1], "seen", seed)
        for folder in data:
            yield from group(folder, rest, "all", seed)
            yield from group(folder, unseen[1:], "seen", seed)


# -- one cell


class Side(NamedTuple):
    """Codes [n, b] of +1 and -1, unit features [n, d] and labels [n] of n images."""

    codes: Float32
    features: Float32
    labels: NDArray[np.str_]

    def only(self, rows: NDArray[np.bool_]) -> Side:
        """The images where `rows` [n] holds."""
        return Side(self.codes[rows], self.features[rows], self.labels[rows])


def measure(cell: Cell, args: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one cell; its record without the circumstances."""
    own = read_dataset(cell.data)
    listed = _images_of(own)
    if cell.rate:
        own = within_training(own)
    train = own.train
    if cell.classes == "seen":
        train = read_dataset(cell.data, protocol="unseen").train
    if cell.method in SETTINGS:
        pixels = _decoded(own, train)
        started = time.perf_counter()
        network, made = _trained(cell, args, train, pixels)
        made["training_seconds"] = round(time.perf_counter() - started, 1)
        outputs = _encoded(network, pixels, args, made)
    else:
        outputs, made = _frozen(cell, args, own)
    raw = {"gallery": outputs(own.gallery), "query": outputs(own.query)}
    rotation = None
    if raw["gallery"][1] is None:
        numbers = {label: i for i, label in enumerate(sorted({str(x) for x in train.labels}))}
        labels = np.array([numbers[str(label)] for label in train.labels])
        fit = FITTED.get(cell.method, FITTED["itq"])
        rotation = fit(outputs(train)[0], labels, cell.bits, np.random.default_rng(cell.seed))
    gallery, query = (
        _side(*raw[part], np.array([str(x) for x in its.labels]), rotation)
        for part, its in (("gallery", own.gallery), ("query", own.query))
    )
    scores: dict[str, Any] = {}
    if cell.classes == "all":
        scores["all"] = scored(query, gallery)
    else:
        seen = sorted({str(label) for label in train.labels})
        known = [np.isin(side.labels, seen) for side in (query, gallery)]
        scores["seen"] = scored(query.only(known[0]), gallery.only(known[1]))
        scores["unseen"] = scored(query.only(~known[0]), gallery.only(~known[1]))
        scores["unseen_among_all"] = scored(query.only(~known[0]), gallery)
        if cell.method in SETTINGS:
            work = _work(cell, args)
            scores |= open_scores(Model.load(work), own, frozenset(seen), cell.bits, work)
    protocol = (
        own.protocol if cell.classes == "all" else f"{own.protocol}; trained: {train.protocol}"
    )
    return {
        **_described(cell),
        "images": listed,
        "protocol": protocol,
        "gallery_codes": "network codes on both sides, last epoch",
        "train_images": len(train),
        **made,
        "scores": scores,
    }


def within_training(own: Dataset) -> Dataset:
    """The training images alone: a tenth of each class as queries, of two or more one at least; the
    others to train on, and as the gallery."""
    rng = np.random.default_rng(0)
    labels = np.array([str(label) for label in own.train.labels])
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        held[rows[: min(-(-len(rows) // 10), len(rows) - 1)]] = True
    protocol = f"a tenth of the training images of {own.protocol}"
    query, rest = (
        replace(
            own.train,
            entries=[own.train.entries[i] for i in np.flatnonzero(rows).tolist()],
            protocol=protocol,
        )
        for rows in (held, ~held)
    )
    return replace(own, train=rest, query=query, gallery=rest, val=None, protocol=protocol)


def open_scores(
    model: Model, own: Dataset, seen: frozenset[str], bits: int, work: Path
) -> dict[str, dict[str, float]]:
    """The same three figures with codes that the index learns, without labels, from the features
    of the same network, for classes; through indexes in `work`. By names that begin with open."""
    galleries, queries = sides(own.gallery, seen), sides(own.query, seen)
    found = {}
    for name, query, gallery in (
        ("open_seen", "seen", "seen"),
        ("open_unseen", "unseen", "unseen"),
        ("open_unseen_among_all", "unseen", "all"),
    ):
        with Index.create(work / f"{name}.wb", model.opened()) as index:
            index.add(galleries[gallery], bits=bits, purpose="classes")
            evaluated = evaluate(index, queries[query], keep_constant_bits=True)
        found[name] = {m: round(getattr(evaluated, m), 6) for m in ("map", "map_low", "map_high")}
    return found


def _work(cell: Cell, args: argparse.Namespace) -> Path:
    """Where a cell is trained; removed when it is measured."""
    return Path(args.out / "work" / cell.name)


def _record(cell: Cell, args: argparse.Namespace) -> Path:
    """The file of a cell that is measured."""
    return Path(args.out / f"{cell.name}.json")


def _log(cell: Cell, args: argparse.Namespace) -> Path:
    """What the process of a cell prints."""
    return Path(args.out / "logs" / f"{cell.name}.txt")


def _described(cell: Cell) -> dict[str, Any]:
    return {**cell._asdict(), "data": Path(cell.data).name}


def _images_of(own: Dataset) -> dict[str, Any]:
    """What tells a data set from another of the same name, and not from a packed copy of itself:
    how many images its parts have, and a digest of how many of each label."""
    parts = {"train": own.train, "query": own.query, "gallery": own.gallery}
    labels = {name: sorted(Counter(map(str, part.labels)).items()) for name, part in parts.items()}
    digest = hashlib.sha256(json.dumps(labels).encode()).hexdigest()[:12]
    return {**{name: len(part) for name, part in parts.items()}, "labels": digest}


def scored(query: Side, gallery: Side) -> dict[str, Any]:
    """The figures of queries searched in a gallery, expected over ties as in `wingbar evaluate`."""
    bits = gallery.codes.shape[1]
    names, numbers = np.unique(gallery.labels, return_inverse=True)
    one_hot = np.eye(len(names), dtype=np.float32)[numbers]
    of_labels = np.where(one_hot.T @ gallery.codes >= 0, 1, -1).astype(np.float32)[numbers]
    means = unit(one_hot.T @ gallery.features)
    predicted = [(side.features @ means.T).argmax(1) for side in (query, gallery)]
    found: dict[str, list[float]] = {}
    each = zip(query.labels, predicted[0], _distances(query, gallery, of_labels), strict=True)
    for label, class_, (distances, by_labels, cosines) in each:
        relevant = gallery.labels == label
        if not relevant.any():
            continue
        ranking = to_buckets(distances, relevant)
        near = distances <= RADIUS
        figures = {
            "map": ranking.expected_ap(),
            "map_low": ranking.lowest_ap(),
            "map_high": ranking.highest_ap(),
            "map_labels": to_buckets(by_labels, relevant).expected_ap(),
            "precision_radius_2": float(relevant[near].mean()) if near.any() else 0.0,
            "empty_radius_2": float(not near.any()),
            "feature_map": to_buckets(-cosines, relevant).expected_ap(),
            "argmax_map": _argmax(class_, predicted[1], relevant).expected_ap(),
            "argmax_accuracy": float(names[class_] == label),
        }
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
    usage = health((gallery.codes > 0).astype(np.uint8))
    return {
        **{name: round(float(np.mean(values)), 6) for name, values in found.items()},
        "queries": len(found.get("map", ())),
        "gallery": len(gallery.labels),
        "classes": len(names),
        "unique_codes": usage.unique,
        "largest_bucket": usage.largest_bucket,
        "constant_bits": len(usage.constant),
        "bits": bits,
    }


def _argmax(predicted: int, of_gallery: Int64, relevant: NDArray[np.bool_]) -> Buckets:
    return to_buckets((of_gallery != predicted).astype(np.int8), relevant)


def _distances(
    query: Side, gallery: Side, of_labels: Float32
) -> Iterator[tuple[Int64, Int64, Float32]]:
    """For one query after another, the Hamming distances of the codes [N] and of the codes that the
    labels have, and the cosines of the features; never all of them, which fill gigabytes."""
    packed, packed_labels = codes.pack(gallery.codes > 0), codes.pack(of_labels > 0)
    for rows in batched(range(len(query.labels)), BATCH):
        cosines = query.features[rows] @ gallery.features.T
        for code, row in zip(codes.pack(query.codes[rows] > 0), cosines, strict=True):
            near, by_labels = (codes.hamming(code, c) for c in (packed, packed_labels))
            yield near, by_labels, row


def _side(
    features: Float32, logits: Float32 | None, labels: NDArray[np.str_], rotation: Rotation | None
) -> Side:
    found = rotation.apply(features)[0] if rotation is not None else logits
    assert found is not None
    return Side(np.where(found >= 0, 1, -1).astype(np.float32), features, labels)


Network = Callable[[images.Pixels], tuple[Float32, Float32 | None]]
"""Features [B, d] and code logits [B, b], if any, of pixels [B, H, W, 3]."""

Outputs = Callable[[Images], tuple[Float32, Float32 | None]]
"""Unit features [n, d] and code logits [n, b], if any, of the n images of a part."""


def _trained(
    cell: Cell, args: argparse.Namespace, train: Images, pixels: Mapping[Path, images.Pixels]
) -> tuple[Network, dict[str, Any]]:
    """A trained net as a function of pixels [B, H, W, 3], and how it was made."""
    name, settings = cell.method.partition("-")[0], SETTINGS[cell.method]
    method = methods.get(name)
    crop = {"crop": round(CROP * args.size)} if name == "cmbh" else {}
    config = method.Config(bits=cell.bits, **settings.config, **crop)
    rate = {"lr": cell.rate} if cell.rate else {}
    run = Run(**{**method.RECIPE, **settings.run, **_run_flags(args), **rate, "seed": cell.seed})
    classes = sorted({str(label) for label in train.labels})
    numbers = {label: i for i, label in enumerate(classes)}
    split = Split(
        paths=[str(path) for path in train.paths],
        labels=np.array([numbers[str(label)] for label in train.labels]),
        held_paths=[],
        held_labels=np.empty(0, np.int64),
        classes=classes,
        protocol=train.protocol,
        failed=[],
    )
    work = _work(cell, args)
    training = Training(
        Recorded(method, config, run, train, None),
        split,
        work,
        sources=[pixels[path] for path in train.paths],
    )
    training.restore()
    checkpoint.truncate_log(work, training.position)
    to_take = (run.epochs - training.epoch) * training.steps - training.step
    started = time.perf_counter()
    training.train()
    seconds = time.perf_counter() - started
    if cell.classes == "seen":  # whose model is indexed
        training.finish()
    elif hasattr(training.loss, "end_training"):
        training.loss.end_training(training.net)
    net = training.net.to(training.device).eval()
    made = {
        "config": asdict(config),
        "run": asdict(run),
        "epochs": training.epoch,
        "last_losses": _last_losses(work),
        "device": str(training.device),
    }
    if to_take:  # not one that was stopped after its last step
        speed = to_take * min(run.batch, len(train)) / seconds
        made["trained_images_per_second"] = round(speed, 1)
    device = training.device

    def network(batch: images.Pixels) -> tuple[Float32, Float32 | None]:
        with torch.no_grad():
            output = net(torch.from_numpy(batch).to(device))
        code = None if output.code is None else output.code.float().cpu().numpy()
        return output.feature.float().cpu().numpy(), code

    return network, made | _cost(net, run)


def _cost(net: torch.nn.Module, run: Run) -> dict[str, int]:
    """Parameters and work of a net, which goes to the CPU and back for it."""
    device = next(net.parameters()).device
    found = cost(net.to("cpu"), run.preprocessing.size)
    net.to(device)
    return found


def _encoded(
    network: Network,
    pixels: Mapping[Path, images.Pixels],
    args: argparse.Namespace,
    made: dict[str, Any],
) -> Outputs:
    """The outputs of a network for decoded pictures. Notes in `made` how fast that was."""
    preparation = Preprocessing(size=args.test_size)
    started = time.perf_counter()
    views = (images.load(picture, preparation) for picture in pixels.values())
    found = [network(np.stack(batch)) for batch in batched(views, BATCH)]
    seconds = time.perf_counter() - started
    made["encoded_images_per_second"] = round(len(pixels) / seconds, 1)
    feature = unit(np.concatenate([feature for feature, _ in found]))
    logits = [code for _, code in found if code is not None]
    return _by_path(list(pixels), feature, np.concatenate(logits) if logits else None)


def _by_path(paths: Sequence[Path], feature: Float32, code: Float32 | None) -> Outputs:
    """A function that gives the rows of the images of a part."""
    numbers = {path: i for i, path in enumerate(paths)}

    def outputs(part: Images) -> tuple[Float32, Float32 | None]:
        rows = [numbers[path] for path in part.paths]
        return feature[rows], None if code is None else code[rows]

    return outputs


def _frozen(cell: Cell, args: argparse.Namespace, own: Dataset) -> tuple[Outputs, dict[str, Any]]:
    """The features of the backbone as it comes, computed once for all cells of a data set, and
    again when a file has changed."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made: dict[str, Any] = {"backbone": args.backbone, "epochs": 0, "device": str(device)}
    listed = {entry.path: entry for part in (own.gallery, own.query, own.train) for entry in part}
    every = Images(list(listed.values()), "")
    made_of = [args.backbone, args.weights, args.test_size]
    for path in filter(Path.is_file, [*every.paths, Path(args.weights)]):
        made_of += [str(path), path.stat().st_size, path.stat().st_mtime_ns]
    wanted = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    kept = args.out / "work" / f"{Path(cell.data).name}-frozen.npz"
    if kept.exists():
        with np.load(kept) as file:
            if file["of"] == wanted:
                made["encoded_images_per_second"] = float(file["speed"])
                return _by_path([Path(path) for path in file["paths"]], file["feature"], None), made
    pixels = _decoded(own, own.train)
    net = backbones.create(args.backbone, args.weights).eval().to(device)

    def network(batch: images.Pixels) -> tuple[Float32, Float32 | None]:
        with torch.no_grad():
            return net(torch.from_numpy(batch).to(device)).float().cpu().numpy(), None

    outputs = _encoded(network, pixels, args, made)
    held = io.BytesIO()
    np.savez(
        held,
        of=wanted,
        speed=made["encoded_images_per_second"],
        paths=np.array([str(path) for path in every.paths]),
        feature=outputs(every)[0],
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, held.getvalue())
    return outputs, made


def _run_flags(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "backbone": args.backbone,
        "weights": args.weights,
        "size": args.size,
        "test_size": args.test_size,
        "epochs": args.epochs,
        "batch": args.batch,
        "mirror": args.mirror,
        "workers": args.workers,
        "held_out": 0.0,
        "checkpoint_minutes": 10.0,
    }


def _decoded(own: Dataset, train: Images) -> dict[Path, images.Pixels]:
    """Every picture of a data set, at most SIDE pixels on its short side."""
    paths = list(dict.fromkeys([*own.gallery.paths, *own.query.paths, *train.paths]))
    found = decoded([str(path) for path in paths], SIDE, no_progress)
    return dict(zip(paths, found, strict=True))


def _last_losses(work: Path) -> dict[str, float]:
    """The mean of each loss term over the last epoch of a run's log."""
    lines = (work / "train" / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    last = [record for record in records if record["epoch"] == records[-1]["epoch"]]
    terms = [name for name in last[0] if name not in ("epoch", "step", "lr", "time")]
    return {name: round(float(np.mean([r[name] for r in last])), 5) for name in terms}


def write_cell(cell: Cell, args: argparse.Namespace) -> None:
    """Measure a cell and write its file."""
    before = _seconds_before(cell, args)
    started = time.perf_counter()
    try:
        record = measure(cell, args)
    except ValueError as error:  # a fitted method that cannot have this many bits
        print(f"{cell.name}: {error}")
        record = {**_described(cell), "reason": str(error)}
    if before:  # a part of the training, with the reading of the pictures
        record["training_seconds"] = round(before + record["training_seconds"], 1)
    shutil.rmtree(_work(cell, args), ignore_errors=True)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    record |= {
        "command": args.command_line,
        "commit": args.commit,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "wall_seconds": round(before + time.perf_counter() - started, 1),
        "jobs_at_once": args.jobs,
        "machine": {"gpu": gpu, "cpu": _processor(), "cores": cores()},
        "versions": {name: version(name) for name in ("torch", "numpy", "pillow")},
    }
    write_whole(_record(cell, args), json.dumps(record, indent=1).encode())


def _seconds_before(cell: Cell, args: argparse.Namespace) -> float:
    """Make the folder in which a cell is trained, or keep that of the same cell, settings and
    commit, which was stopped. Returns how many seconds its checkpoint took; 0 without one."""
    work, seconds = _work(cell, args), 0.0
    of = {**_described(cell), **_run_flags(args), "commit": args.commit}
    kept, saved = work / "cell.json", checkpoint.checkpoint_path(work)
    if kept.exists() and saved.exists() and (before := json.loads(kept.read_text()))["of"] == of:
        seconds = before["seconds"] + max(0.0, saved.stat().st_mtime - before["began"])
    else:
        shutil.rmtree(work, ignore_errors=True)
    (work / "train").mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps({"of": of, "seconds": seconds, "began": time.time()}).encode())
    return float(seconds)


def _processor() -> str:
    """The name of the processor and what it does fast."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    found = {key.strip(): value.strip() for key, value in fields.items()}
    flags = found.get("flags", "").split()
    fast = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return f"{found.get('model name', platform.processor())} ({', '.join(fast)})"


# -- all cells


def run(args: argparse.Namespace) -> None:
    """Run the cells that are not there, `jobs` at once, until the time is up."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU that PyTorch can use: leave --device cuda out")
    if args.rates and "all" not in args.classes:
        raise SystemExit("rates are judged on all classes: leave --rates or --classes out")
    if args.rates and not set(args.methods) & set(SETTINGS):
        raise SystemExit(f"{', '.join(args.methods)} are not trained: leave --rates out")
    images_of = _checked(args.data, args.classes)
    try:
        (args.out / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"{args.out} cannot hold the cells ({error.strerror})") from None
    wanted = [*cells_of(args.data, args.methods, args.bits, args.seeds, args.rates, args.classes)]
    for cell in wanted:
        _refuse_other_cell(cell, args, images_of[cell.data])
    all_cells = [cell for cell in wanted if not _record(cell, args).exists()]
    start, waiting = time.monotonic(), list(all_cells)
    running: dict[subprocess.Popen[bytes], tuple[Cell, float]] = {}
    took: dict[str, list[float]] = {}
    failed: list[str] = []
    impossible: list[str] = []

    def left() -> float:
        return start + args.time_limit - time.monotonic() if args.time_limit else float("inf")

    def expected(cell: Cell) -> float:
        of_all = [seconds for values in took.values() for seconds in values]
        return statistics.median(took.get(cell.method) or of_all or [0.0])

    try:
        while (waiting or running) and left() > 0:
            while waiting and len(running) < args.jobs and expected(waiting[0]) < left():
                cell = waiting.pop(0)
                running[_start(cell, args)] = cell, time.monotonic()
            if waiting and not running:  # the next one would not be done in time
                break
            for process in [process for process in running if process.poll() is not None]:
                cell, began = running.pop(process)
                seconds = time.monotonic() - began
                took.setdefault(cell.method, []).append(seconds)
                state = "done"
                if process.returncode:
                    failed.append(cell.name)
                    state = f"FAILED, see {_log(cell, args)}"
                elif reason := _cell_of(_record(cell, args)).get("reason"):
                    impossible.append(cell.name)
                    state = f"is not possible: {reason}"
                print(f"{time.monotonic() - start:7.1f} {cell.name} {state} ({seconds:.1f} s)")
            sys.stdout.flush()
            time.sleep(0.2)
    finally:
        for process in running:
            process.send_signal(signal.SIGINT)  # it writes a checkpoint
        patience = time.monotonic() + PATIENCE
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, patience - time.monotonic()))
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    undone = [cell.name for cell in waiting] + [cell.name for cell, _ in running.values()]
    done = len(all_cells) - len(undone) - len(failed) - len(impossible)
    counts = [f"{counted(done, 'cell')} done", f"{len(failed)} failed", f"{len(undone)} not done"]
    there = len(wanted) - len(all_cells)
    counts += [
        f"{n} {what}"
        for n, what in ((len(impossible), "not possible"), (there, "there before"))
        if n
    ]
    print(", ".join(counts) + (": run again to go on" if undone else ""))
    if failed:
        raise SystemExit(1)


def _checked(folders: Sequence[str], classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What `_images_of` says of each data set. Leave with a message where one cannot be read or has
    too few classes, or where two would have cells of one name."""
    names = Counter(Path(folder).name for folder in folders)
    if "" in names:
        raise SystemExit("cells are named by the folder of their data: give it by its name")
    if twice := [name for name, times in names.items() if times > 1]:
        raise SystemExit(f"--data names {twice[0]} twice, and so would the cells: rename one")
    found = {}
    for folder in folders:
        try:
            own = read_dataset(folder)
            if "seen" in classes:
                read_dataset(folder, protocol="unseen")
        except WingbarError as error:
            raise SystemExit(str(error)) from None
        labels = {label for label in own.train.labels if label is not None}
        if len(labels) < 2:
            raise SystemExit(
                f"the training images of {folder} are of "
                f"{counted(len(labels), 'class', 'classes')}: two are needed"
            )
        found[folder] = _images_of(own)
    return found


def _cell_of(path: Path) -> dict[str, Any]:
    """The cell in a file; empty where there is none. Leaves with a message where it is damaged."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise SystemExit(f"{path} is damaged ({error}): delete it to run it again") from None
    if not isinstance(found, dict):
        raise SystemExit(f"{path} is no cell: move it elsewhere")
    return found


def _refuse_other_cell(cell: Cell, args: argparse.Namespace, images_of: Mapping[str, Any]) -> None:
    """Leave with a message where the cell is there, but of other images or of a network trained
    with other settings: its table would mix them."""
    kept = _record(cell, args)
    found = _cell_of(kept)
    if found.get("images", images_of) != images_of:
        raise SystemExit(f"{kept} is of other images than {cell.data} has: name another OUT")
    run = found.get("run")
    if not run:
        return
    asked = _run_flags(args)
    names = ("backbone", "size", "test_size", "epochs", "batch", "mirror")
    differ = [f"{n} {run[n]}, not {asked[n]}" for n in names if n in run and run[n] != asked[n]]
    if differ:
        raise SystemExit(f"{kept} was trained with {', '.join(differ)}: name another OUT")


def _start(cell: Cell, args: argparse.Namespace) -> subprocess.Popen[bytes]:
    """A process that measures one cell."""
    given = [sys.executable, __file__, "cell", json.dumps(cell._asdict()), str(args.out)]
    shared = ("backbone", "weights", "size", "test_size", "epochs", "batch", "workers", "jobs")
    for name in (*shared, "commit", "command_line"):
        given += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    given += [] if args.mirror else ["--no-mirror"]
    hidden = {} if args.device != "cpu" else {"CUDA_VISIBLE_DEVICES": ""}
    threads = str(max(1, cores() // args.jobs))
    environment = {**os.environ, **hidden, "OMP_NUM_THREADS": threads}
    with _log(cell, args).open("w") as log:
        return subprocess.Popen(
            given, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def pack(args: argparse.Namespace) -> None:
    """Write the pictures of a data set as WebP of SIDE pixels on their short side, in folders by
    part and class."""
    parts = read_parts(args.source)
    named = parts.named or {"train": parts.all.entries}

    def write(one: tuple[str, int, Entry]) -> None:
        part, number, entry = one
        [pixels] = decoded([str(entry.path)], args.side, no_progress)
        target = args.target / part / str(entry.label) / f"{number:06}.webp"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target, "WEBP", quality=args.quality, method=4)

    listed = [(part, i, e) for part, entries in named.items() for i, e in enumerate(entries)]
    for _ in in_order(listed, write, cores()):
        pass
    size = sum(path.stat().st_size for path in args.target.rglob("*.webp"))
    print(f"{args.target}: {len(listed):,} pictures, {size / 2**20:.1f} MiB")


# -- the page

COLUMNS = Path(__file__).with_name("leaderboard_columns.md")  # what the columns of its tables mean
TEXT = """\
# Leaderboard

Methods under one protocol: the same pictures, backbone, epochs, batch and crops, network codes on \
both sides, the last epoch, nothing selected on the queries. MAP is over the whole gallery and \
expected over ties; in brackets its lowest and highest value over the orders of ties. A row is one \
run: an order of methods that are close is not established.

```sh
{command}
```

{circumstances}

{columns}
"""


def table(args: argparse.Namespace) -> None:
    """Print the page that the cells make."""
    records = [_cell_of(path) for path in sorted(args.out.glob("*.json"))]
    impossible = [record for record in records if "reason" in record]
    records = [record for record in records if "scores" in record]
    if not records:
        raise SystemExit(f"{args.out} has no cells: run some first")
    try:
        text = args.text.read_text() if args.text else TEXT
    except OSError as error:
        raise SystemExit(f"{args.text} cannot be read ({error.strerror})") from None
    lines = [_head(text, [r for r in records if not r.get("rate")] or records)]
    for data in dict.fromkeys(record["data"] for record in records):
        every = [record for record in records if record["data"] == data]
        of_data = [record for record in every if not record.get("rate")]
        lines += [f"## {data}", ""]
        if any("run" in record for record in of_data):
            lines += [f"Budget: {_budget(of_data)}.", ""]
        lines += _impossible([record for record in impossible if record["data"] == data])
        lines += _all_classes([r for r in of_data if r["classes"] == "all"])
        lines += _unseen_classes([r for r in of_data if r["classes"] == "seen"])
        lines += _rates([record for record in every if record.get("rate")])
    print("\n".join(lines))


def _head(text: str, records: Sequence[Mapping[str, Any]]) -> str:
    parts = {
        "{command}": "\n".join(_commands(records)),
        "{circumstances}": "\n".join(_machines(records)),
        "{columns}": COLUMNS.read_text().strip(),
    }
    for name, part in parts.items():
        text = text.replace(name, part)
    return text


def _commands(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The commands that make these cells: one for those that differ in methods, commit and pace
    alone."""
    methods_of: dict[str, list[str]] = {}
    for record in records:
        # a method's name has no dash in front; a value ends where the next flag begins
        shared = re.sub(r" --(methods|commit|time-limit|jobs)([ =][^-]\S*)+", "", record["command"])
        methods_of.setdefault(shared, []).append(record["method"])
    return [
        f"{shared} --methods {' '.join(dict.fromkeys(found))}"
        for shared, found in methods_of.items()
    ]


def _machines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each machine."""
    machines: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        machine = record["machine"]["gpu"] or record["machine"]["cpu"]
        machines.setdefault(machine, []).append(record)
    return list(map(_machine_line, machines, machines.values()))


def _budget(records: Sequence[Mapping[str, Any]]) -> str:
    """What the networks were trained with."""
    return ", ".join(
        dict.fromkeys(
            f"{r['backbone']}, {counted(r['epochs'], 'epoch')} of batch {r['batch']} at "
            f"{r['size']} pixels, measured at {r['test_size']}"
            f"{'' if r.get('mirror', True) else ', pictures not mirrored'}"
            for r in (record["run"] for record in records if "run" in record)
        )
    )


def _machine_line(machine: str, records: Sequence[Mapping[str, Any]]) -> str:
    """What ran on a machine, when and how."""

    def once(name: str) -> str:
        return ", ".join(dict.fromkeys(str(record[name]) for record in records))

    methods_of: dict[str, list[str]] = {}
    for record in records:
        kind = {"all": "all classes", "seen": "classes never seen"}[record["classes"]]
        kind = "learning rates" if record.get("rate") else kind
        methods_of.setdefault(kind, []).append(record["method"])
    kinds = "; ".join(
        f"{kind} ({', '.join(dict.fromkeys(found))})" for kind, found in methods_of.items()
    )
    return (
        f"- {machine} (cells at once: {once('jobs_at_once')}; {once('date')}; commit "
        f"{once('commit')}): {kinds}."
    )


def _by_bits(
    records: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    """The records of each code length, the shortest first."""
    for bits in sorted({record["bits"] for record in records}):
        yield bits, [record for record in records if record["bits"] == bits]


def _impossible(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each method that could not be run, with the code lengths and the reason."""
    lines = []
    for method, classes in dict.fromkeys((r["method"], r["classes"]) for r in records):
        own = [r for r in records if (r["method"], r["classes"]) == (method, classes)]
        bits = ", ".join(map(str, sorted({record["bits"] for record in own})))
        where = " where classes are held out" if classes == "seen" else ""
        lines += [f"Not possible: {method} with {bits} bits{where} ({own[0]['reason']}).", ""]
    return lines


def _all_classes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table for each code length."""
    lines = []
    for bits, of_bits in _by_bits(records):
        first = of_bits[0]["scores"]["all"]
        lines += [
            f"### {bits} bits",
            "",
            f"{first['queries']:,} queries, {first['gallery']:,} items, {first['classes']} classes."
            f" {of_bits[0]['protocol']}.",
            "",
            "| method | MAP (lowest, highest) | <sub>labels</sub> | features | class | radius 2 | "
            "unique codes | trained | encoded | M | G |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for record in sorted(of_bits, key=lambda r: -r["scores"]["all"]["map"]):
            s = record["scores"]["all"]
            lines.append(
                f"| {_named(record)} | **{s['map']:.3f}** {_bounds(s)} | "
                f"<sub>{s['map_labels']:.3f}</sub> | {s['feature_map']:.3f} | "
                f"{s['argmax_map']:.3f} | "
                f"{s['precision_radius_2']:.3f} ({s['empty_radius_2']:.1%}) | "
                f"{s['unique_codes']:,} | {_cost_cells(record)} |"
            )
        lines.append("")
    return lines


def _unseen_classes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of seen and unseen classes for each code length."""
    lines = []
    for bits, of_bits in _by_bits(records):
        seen, unseen = (of_bits[0]["scores"][name]["classes"] for name in ("seen", "unseen"))
        lines += [
            f"### Classes never seen, {bits} bits",
            "",
            f"Trained on {seen} classes; {unseen} held out (protocol `unseen`, seed 0).",
            "",
            "| method | seen among seen | unseen among unseen | unseen among all | features: "
            "unseen among unseen | open: seen among seen | open: unseen among unseen | open: "
            "unseen among all |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for record in sorted(of_bits, key=lambda r: -r["scores"]["unseen"]["map"]):
            s = record["scores"]
            opened = " | ".join(
                f"{s[name]['map']:.3f} {_bounds(s[name])}" if name in s else "-"
                for name in ("open_seen", "open_unseen", "open_unseen_among_all")
            )
            lines.append(
                f"| {_named(record)} | {s['seen']['map']:.3f} | **{s['unseen']['map']:.3f}** "
                f"{_bounds(s['unseen'])} | "
                f"{s['unseen_among_all']['map']:.3f} | {s['unseen']['feature_map']:.3f} | "
                f"{opened} |"
            )
        lines.append("")
    return lines


def _rates(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of methods and learning rates for each code length."""
    lines = []
    for bits, of_bits in _by_bits(records):
        rates = sorted({record["rate"] for record in of_bits})
        scores = of_bits[0]["scores"]["all"]
        lines += [
            f"### Learning rates, {bits} bits",
            "",
            f"MAP on training images: {scores['queries']:,} queries, {scores['gallery']:,} items "
            f"to train on and to search. {_budget(of_bits)}, seed {of_bits[0]['seed']}.",
            "",
            "```sh",
            *_commands(of_bits),
            "```",
            "",
            *_machines(of_bits),
            "",
            f"| method | {' | '.join(f'{rate:g}' for rate in rates)} |",
            "|---" * (1 + len(rates)) + "|",
        ]
        for name in sorted({_named(record) for record in of_bits}):
            found = {r["rate"]: r["scores"]["all"]["map"] for r in of_bits if _named(r) == name}
            best = max(found.values())
            shown = [f"{found[rate]:.3f}" if rate in found else "-" for rate in rates]
            bold = [
                f"**{text}**" if len(found) > 1 and found.get(rate) == best else text
                for rate, text in zip(rates, shown, strict=True)
            ]
            lines.append(f"| {name} | {' | '.join(bold)} |")
        lines.append("")
    return lines


def _cost_cells(record: Mapping[str, Any]) -> str:
    """The cells trained, encoded, M and G of a table; dashes where no network was trained."""
    if "parameters_total" not in record:
        return "- | - | - | -"
    where = "" if record["machine"]["gpu"] else " <sub>CPU</sub>"
    speeds = (record.get(f"{name}_images_per_second") for name in ("trained", "encoded"))
    shown = ("-" if speed is None else f"{speed:,.0f}{where}" for speed in speeds)
    return " | ".join(
        [*shown, f"{record['parameters_total'] / 1e6:.2f}", f"{record['macs'] / 1e9:.2f}"]
    )


def _bounds(scores: Mapping[str, float]) -> str:
    """The lowest and the highest MAP over the orders of the ties."""
    return f"({scores['map_low']:.3f}, {scores['map_high']:.3f})"


def _named(record: Mapping[str, Any]) -> str:
    return record["method"] + (f" (seed {record['seed']})" if record["seed"] else "")


# -- the command line


def main() -> None:
    every = [*TRAINED, *FITTED]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    running = verbs.add_parser("run")
    running.set_defaults(verb=run)
    running.add_argument("out", type=Path)
    running.add_argument("--data", action="append", required=True, metavar="FOLDER")
    running.add_argument("--methods", nargs="+", default=every, choices=[*every, *VARIANTS])
    running.add_argument("--classes", nargs="+", default=CLASSES, choices=CLASSES)
    running.add_argument("--bits", nargs="+", type=positive_number, default=list(BITS))
    running.add_argument("--seeds", nargs="+", type=whole_number, default=[0])
    running.add_argument("--rates", nargs="+", type=float, default=[], metavar="RATE")
    running.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    running.add_argument("--time-limit", type=float, default=0, metavar="SECONDS")
    one = verbs.add_parser("cell")
    one.set_defaults(verb=lambda args: write_cell(Cell(**json.loads(args.cell)), args))
    one.add_argument("cell")
    one.add_argument("out", type=Path)
    one.add_argument("--command-line", required=True)
    for verb in (running, one):
        verb.add_argument("--backbone", default="efficientnet_lite0")
        verb.add_argument("--weights", default="imagenet")
        verb.add_argument("--size", type=positive_number, default=160)
        verb.add_argument("--test-size", type=positive_number, default=SIDE)
        verb.add_argument("--epochs", type=positive_number, default=12)
        verb.add_argument("--batch", type=positive_number, default=32)
        verb.add_argument("--workers", type=int, default=1)
        verb.add_argument("--jobs", type=positive_number, default=1)
        verb.add_argument("--commit", default="")
        verb.add_argument("--no-mirror", dest="mirror", action="store_false", help="for digits")
    packing = verbs.add_parser("pack")
    packing.set_defaults(verb=pack)
    packing.add_argument("source", type=Path)
    packing.add_argument("target", type=Path)
    packing.add_argument("--side", type=positive_number, default=SIDE)
    packing.add_argument("--quality", type=positive_number, default=75)
    tabling = verbs.add_parser("table")
    tabling.set_defaults(verb=table)
    tabling.add_argument("out", type=Path)
    tabling.add_argument("--text", type=Path, help="what the page says above its tables")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    if args.verb is run:
        args.command_line = "python benchmarks/leaderboard.py " + shlex.join(sys.argv[1:])
        args.commit = args.commit or _commit()
    try:
        args.verb(args)
    except KeyboardInterrupt:
        if args.verb is run:
            print("stopped: run again to go on", file=sys.stderr)
        raise SystemExit(130) from None


def _commit() -> str:
    """The current commit, "unknown" outside a repository."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
