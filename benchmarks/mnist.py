"""DLBHC on MNIST as in its paper: 60,000 training images are the gallery, 10,000 test images the
queries.

    python benchmarks/mnist.py mnist.npz WORK --bits 48

mnist.npz holds train_images [60000, 28, 28] uint8, train_labels, test_images and test_labels. The
images, the model and the index are written into WORK; precision and MAP of the first 1,000 hits are
printed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

from wingbar.data.readers import read_dataset
from wingbar.evaluation import labelled
from wingbar.index.index import Index
from wingbar.methods import dlbhc
from wingbar.training.loop import train
from wingbar.training.run import Run


def write_images(archive: Path, folder: Path) -> None:
    arrays = np.load(archive)
    for part in ("train", "test"):
        for i, (pixels, label) in enumerate(
            zip(arrays[f"{part}_images"], arrays[f"{part}_labels"], strict=True)
        ):
            path = folder / part / str(label) / f"{i:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--bits", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    if not (args.work / "mnist").is_dir():
        write_images(args.archive, args.work / "mnist")
    data = read_dataset(args.work / "mnist")
    config = dlbhc.Config(bits=args.bits, latent_std=0.1, latent_bias=0.0, classifier_lr=1.0)
    run = Run(
        backbone="resnet20",
        weights="none",
        size=32,
        epochs=args.epochs,
        batch=64,
        lr=0.2,
        area=0.7,
        mirror=False,
        held_out=0.01,
    )
    start = time.time()
    model = train(dlbhc, data.train, args.work / f"dlbhc{args.bits}-{int(start)}", config, run)
    print(
        f"trained in {time.time() - start:.0f} s: {model}; held out: "
        f"{model.record['held_out_map']}",
        flush=True,
    )
    path = args.work / f"mnist{args.bits}-{int(start)}.wb"
    with Index.create(path, model) as index:
        print(f"{index.add(data.gallery).images_per_second:.0f} images/s indexed", flush=True)
        result = labelled.evaluate(
            index, data.query, protocol=data.protocol, keep_constant_bits=True
        )
        searchable, labels = index.searchable(), np.array(index.labels())
        nearest = searchable.nearest(model.encode(data.query.paths).codes, 1000)
        precisions = [
            (labels[np.searchsorted(searchable.ids, top.ids)] == label).mean()
            for top, label in zip(nearest, data.query.labels, strict=True)
        ]
    print(
        f"{args.bits} bits: precision@1000 {np.mean(precisions):.4f}, MAP@1000 "
        f"{result.map_at_1000:.4f}, MAP {result.map:.4f}"
    )
    print(result)


if __name__ == "__main__":
    main()
