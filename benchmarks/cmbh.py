"""How well each output of a trained CMBH model retrieves, on one data set: codes, classes,
features, and each fine mode.

    python benchmarks/cmbh.py MODEL butterflies  # gallery and queries as in `wingbar evaluate`
    python benchmarks/cmbh.py --birds WORK       # the parts of CMBH on the eight drawn species

Each line is a MAP over the whole gallery, expected over ties. "argmax" is the MAP if only the
predicted class were stored: items of the same predicted class are at distance 0, all others at 1.
"classes by probability" is the MAP if the gallery stored its predicted classes, and a query ranked
them by its own probabilities: what codes for classes can reach.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wingbar import images
from wingbar.data import toy
from wingbar.data.readers import read_dataset
from wingbar.data.records import Dataset, Images
from wingbar.errors import WingbarError
from wingbar.evaluation import labelled
from wingbar.evaluation.metrics import expected_ap
from wingbar.hamming import codes
from wingbar.index.index import Index
from wingbar.methods import cmbh, dlbhc
from wingbar.model.itq import unit
from wingbar.model.model import Model
from wingbar.parallel import batched
from wingbar.training import export, loop
from wingbar.training.held_out import Side, fine_scores
from wingbar.training.run import Run

Array = NDArray[np.float32]

PARTS: dict[str, dict[str, Any]] = {
    "B": {"levels": False, "transfer": False, "regions": 0},
    "B+L": {"transfer": False, "regions": 0},
    "B+L+T": {"regions": 0},
    "B+L+T+R": {},
}
"""The rows of the paper's Table 4: what each leaves out."""


def outputs(net: cmbh.Net, preprocessing: images.Preprocessing, part: Images) -> dict[str, Array]:
    """Feature (f^l; f with --fused), matching scores, class and code logits of every image."""
    found: dict[str, list[Array]] = {"feature": [], "scores": [], "logits": [], "code": []}
    with torch.no_grad():
        for batch in batched((images.load(path, preprocessing) for path in part.paths), 32):
            matches, _ = net.compare(torch.from_numpy(np.stack(batch)))
            for name, values in matches._asdict().items():
                found[name].append(values.flatten(1).numpy())
    return {name: np.concatenate(values) for name, values in found.items()}


def mean_ap(distance: Array, query: Images, gallery: Images) -> float:
    """MAP of distances [Q, N]."""
    labels = np.array(gallery.labels)
    return float(
        np.mean(
            [
                expected_ap(row, labels == label)
                for row, label in zip(distance, query.labels, strict=True)
            ]
        )
    )


def report(model: Path, data: Dataset) -> None:
    """Print every line of the table."""
    net = export.load_net(model).eval()
    assert isinstance(net, cmbh.Net)
    preprocessing = Model.load(model).preprocessing
    q, g = (outputs(net, preprocessing, part) for part in (data.query, data.gallery))
    q_labels, g_labels = numbered(data)
    packed = [codes.pack(side["code"] >= 0) for side in (q, g)]
    hamming = np.stack([codes.hamming(code, packed[1]) for code in packed[0]]).astype(np.float32)
    predicted = [side["logits"].argmax(1) for side in (q, g)]
    accuracy = (predicted[0] == q_labels).mean()
    places = np.argsort(np.argsort(-q["logits"], axis=1), axis=1)  # of the classes, for each query
    lines = {
        "code": hamming,
        "classes by probability": places[:, predicted[1]].astype(np.float32),
        f"argmax (accuracy {accuracy:.3f})": (predicted[0][:, None] != predicted[1][None]).astype(
            np.float32
        ),
        "feature, exhaustive": -unit(q["feature"]) @ unit(g["feature"]).T,
        "matching scores, exhaustive": -unit(q["scores"]) @ unit(g["scores"]).T,
        "tanh of the code logits, exhaustive": -unit(np.tanh(q["code"]))
        @ unit(np.tanh(g["code"])).T,
        "logits of the query against the bits": -(
            q["code"] @ np.where(g["code"] >= 0, 1, -1).T.astype(np.float32)
        ),
    }
    for name, distance in lines.items():
        print(f"{name:42} {mean_ap(distance, data.query, data.gallery):.4f}", flush=True)
    for kind, q_feature, g_feature in (
        ("feature", q["feature"], g["feature"]),
        ("tanh", np.tanh(q["code"]), np.tanh(g["code"])),
    ):
        query = Side(q["code"], unit(q_feature), q_labels)
        gallery = Side(g["code"], unit(g_feature), g_labels)
        for mode, value in fine_scores(query, gallery).items():
            print(f"{f'fine mode {mode}, shortlist 200, by {kind}':42} {value:.4f}")
    print(f"distinct codes {len(np.unique(packed[1], axis=0)):,} among {len(packed[1]):,}")
    print(f"distance from a class to the nearest other one: {nearest_classes(g['code'], g_labels)}")


def nearest_classes(logits: Array, labels: NDArray[np.int64]) -> str:
    """How many classes have the nearest other class at which Hamming distance, by the code that
    most items of a class have: "0 bits: 2, 3 bits: 59"."""
    usual = []
    for c in range(int(labels.max()) + 1):
        found, counts = np.unique(logits[labels == c] >= 0, axis=0, return_counts=True)
        usual.append(found[counts.argmax()])
    codes_of = np.array(usual)
    distances = (codes_of[:, None] != codes_of[None]).sum(2)
    np.fill_diagonal(distances, distances.max() + 1)
    bits, classes = np.unique(distances.min(1), return_counts=True)
    return ", ".join(f"{b} bits: {n}" for b, n in zip(bits, classes, strict=True))


def numbered(data: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Class numbers of the queries and of the gallery; -1 for a label that the gallery lacks."""
    names = sorted({str(label) for label in data.gallery.labels})
    number = {label: i for i, label in enumerate(names)}
    query, gallery = (
        np.array([number.get(str(label), -1) for label in part.labels])
        for part in (data.query, data.gallery)
    )
    return query, gallery


def on_birds(work: Path, each: int, epochs: int, seed: int) -> None:
    """DLBHC and the parts of CMBH on the drawn species, with the same number of epochs."""
    data = read_dataset(toy.write_birds(work / f"birds-{each}", train=each, test=20, size=96))
    run = Run(size=96, epochs=epochs, lr=0.02, area=0.8, held_out=0.1, seed=seed)
    other = dlbhc.Config(
        bits=12, latent_std=0.05, latent_bias=0.0, latent_lr=5.0, classifier_lr=5.0
    )
    whole = cmbh.Config(bits=12, width=128, dim=128, head_lr=5.0)
    methods: dict[str, tuple[ModuleType, Any]] = {"dlbhc": (dlbhc, other)}
    methods |= {name: (cmbh, replace(whole, **without)) for name, without in PARTS.items()}
    for name, (method, config) in methods.items():
        place = work / f"{name}-{each}-{seed}"
        model = loop.train(method, data.train, place, config, run)
        with Index.create(place.with_name(f"{place.name}.wb"), model) as index:
            index.add(data.gallery)
            found = labelled.evaluate(index, data.query, keep_constant_bits=True)
        print(
            f"{name:8} seed {seed}  codes {found.map:.4f} ({found.map_low:.4f}, "
            f"{found.map_high:.4f})  fine {found.rerank_map:.4f}  feature {found.feature_map:.4f}  "
            f"held out {model.record['held_out_map']}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--birds", type=Path, metavar="WORK")
    parser.add_argument("--each", type=int, default=40, help="birds of each species to train on")
    parser.add_argument("--epochs", type=int, default=12, help="of the birds' runs")
    parser.add_argument("--seed", type=int, default=0, help="of the birds' runs")
    args = parser.parse_args()
    if args.birds:
        on_birds(args.birds, args.each, args.epochs, args.seed)
    elif args.model and args.data:
        report(args.model, read_dataset(args.data))
    else:
        parser.error("name a model and a data set, or --birds WORK")


if __name__ == "__main__":
    try:
        main()
    except WingbarError as error:
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
