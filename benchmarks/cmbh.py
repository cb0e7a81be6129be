"""What a trained CMBH model's outputs are worth, on one data set: codes, classes, features, and
each fine mode.

    python benchmarks/cmbh.py MODEL butterflies  # gallery and queries as `wingbar evaluate`
    python benchmarks/cmbh.py --birds WORK       # CMBH and DLBHC on the eight drawn species

Each line is a MAP over the whole gallery, expected over ties. "argmax" is the code that only names
the class that the network predicts: items of the same predicted class are at distance 0, all others
at 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wingbar import images
from wingbar.data import toy
from wingbar.data.readers import read_dataset
from wingbar.data.records import Dataset, Images
from wingbar.evaluation import labelled
from wingbar.evaluation.metrics import expected_ap
from wingbar.hamming import codes
from wingbar.index.index import Index
from wingbar.methods import cmbh, dlbhc
from wingbar.model.model import Model
from wingbar.parallel import batched
from wingbar.training import loop
from wingbar.training.run import Run

Array = NDArray[np.float32]


def outputs(net: cmbh.Net, preprocessing: images.Preprocessing, part: Images) -> dict[str, Array]:
    """Feature f^l, matching scores, class logits and code logits of every picture."""
    found: dict[str, list[Array]] = {"feature": [], "scores": [], "logits": [], "code": []}
    with torch.no_grad():
        for batch in batched((images.load(path, preprocessing) for path in part.paths), 32):
            seen = net.see(net.backbone.stages(torch.from_numpy(np.stack(batch)), 2)[1])
            for name, values in seen._asdict().items():
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


def unit(x: Array) -> Array:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def report(model: Path, data: Dataset) -> None:
    """Print every line of the table."""
    net = loop.load_net(model).eval()
    assert isinstance(net, cmbh.Net)
    preprocessing = Model.load(model).preprocessing
    q, g = (outputs(net, preprocessing, part) for part in (data.query, data.gallery))
    packed = [codes.pack(side["code"] >= 0) for side in (q, g)]
    hamming = np.stack([codes.hamming(code, packed[1]) for code in packed[0]]).astype(np.float32)
    predicted = [side["logits"].argmax(1) for side in (q, g)]
    names = sorted(set(data.gallery.labels))
    right = np.mean(
        [names[c] == label for c, label in zip(predicted[0], data.query.labels, strict=True)]
    )
    lines = {
        "code": hamming,
        f"argmax (accuracy {right:.3f})": (predicted[0][:, None] != predicted[1][None]).astype(
            np.float32
        ),
        "feature f^l, exhaustive": -unit(q["feature"]) @ unit(g["feature"]).T,
        "matching scores, exhaustive": -unit(q["scores"]) @ unit(g["scores"]).T,
        "tanh of the code logits, exhaustive": -unit(np.tanh(q["code"]))
        @ unit(np.tanh(g["code"])).T,
        "logits of the query against the bits": -(
            q["code"] @ np.where(g["code"] >= 0, 1, -1).T.astype(np.float32)
        ),
    }
    for name, distance in lines.items():
        print(f"{name:42} {mean_ap(distance, data.query, data.gallery):.4f}", flush=True)
    for kind, of in (
        ("f^l", lambda side: side["feature"]),
        ("tanh", lambda side: np.tanh(side["code"])),
    ):
        sides = [
            loop.Side(side["code"], unit(of(side)), labels)
            for side, labels in zip((q, g), numbered(data), strict=True)
        ]
        for mode, value in loop.fine_scores(*sides).items():
            print(f"{f'fine mode {mode}, shortlist 200, by {kind}':42} {value:.4f}")
    print(f"distinct codes {len(np.unique(packed[1], axis=0)):,} among {len(packed[1]):,}")


def numbered(data: Dataset) -> list[NDArray[np.int64]]:
    names = {label: i for i, label in enumerate(sorted(set(data.gallery.labels)))}
    return [
        np.array([names.get(label, -1) for label in part.labels])
        for part in (data.query, data.gallery)
    ]


def on_birds(work: Path) -> None:
    """CMBH beside DLBHC on the drawn species, with the same budget."""
    data = read_dataset(toy.write(work / "birds", train=40, test=20, size=96))
    run = Run(size=96, epochs=12, lr=0.02, area=0.8, held_out=0.1)
    methods = {
        "dlbhc": (
            dlbhc,
            dlbhc.Config(
                bits=12, latent_std=0.05, latent_bias=0.0, latent_lr=5.0, classifier_lr=5.0
            ),
        ),
        "cmbh": (cmbh, cmbh.Config(bits=12, width=128, dim=128, head_lr=5.0, regions=0)),
    }
    for name, (method, config) in methods.items():
        model = loop.train(method, data.train, work / name, config, run)
        with Index.create(work / f"{name}.wb", model) as index:
            index.add(data.gallery)
            print(name, labelled.evaluate(index, data.query, keep_constant_bits=True), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--birds", type=Path, metavar="WORK")
    args = parser.parse_args()
    if args.birds:
        on_birds(args.birds)
    elif args.model and args.data:
        report(args.model, read_dataset(args.data))
    else:
        parser.error("name a model and a data set, or --birds WORK")


if __name__ == "__main__":
    main()
