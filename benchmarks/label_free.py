"""How the label-free feature was chosen: leave-one-out on training images, for each way of centring
and reducing it.

    python benchmarks/label_free.py DATA/train

DATA/train is a folder of class folders. Every image is a query against all others; nothing is tuned
on a query split. Prints MAP and nearest-neighbour accuracy of the cosine ranking, and expected MAP
over ties of ITQ codes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.data.readers import read_images
from wingbar.evaluation.metrics import expected_ap
from wingbar.hamming import codes
from wingbar.model import itq
from wingbar.model.model import Model
from wingbar.parallel import BATCH, batched, cores, in_order


def leave_one_out(score: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float, float]:
    """MAP over ties and nearest-neighbour accuracy: score [N, N], larger is nearer."""
    aps, right = [], []
    for i in range(len(labels)):
        others = np.arange(len(labels)) != i
        relevant = labels[others] == labels[i]
        aps.append(expected_ap(-score[i][others], relevant))
        right.append(relevant[score[i][others].argmax()])
    return float(np.mean(aps)), float(np.mean(right))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    model = Model.load()
    found = read_images(args.folder)
    pixels = in_order(found.paths, lambda path: images.load(path, model.preprocessing), cores())
    raw = np.concatenate([model.run(batch) for batch in batched(pixels, BATCH)])
    labels = np.unique([str(label) for label in found.labels], return_inverse=True)[1]
    x, mean = raw.astype(np.float64), raw.mean(0, dtype=np.float64)
    directions = np.linalg.eigh(np.cov((x - mean).T))[1][:, ::-1]
    print(f"{len(raw)} images of {args.folder}, leave-one-out")
    print("centring  numbers     MAP   top-1")
    for share in (0.0, 0.5, 1.0):
        for dim in (128, 256, 512, x.shape[1]):
            unit = itq.unit((x - share * mean) @ directions[:, :dim])
            ap, top1 = leave_one_out(unit @ unit.T, labels)
            print(f"{share:8.2f}  {dim:7}  {ap:6.4f}  {top1:6.4f}", flush=True)
    print("    bits  expected MAP of the codes")
    for bits in (12, 24, 32, 48, 64):
        logits, _ = itq.fit(raw, bits, np.random.default_rng(0)).apply(raw)
        packed = codes.pack(logits >= 0)
        distance = np.stack([codes.hamming(code, packed) for code in packed])
        print(
            f"{bits:8}  {leave_one_out(-distance.astype(np.float64), labels)[0]:6.4f}", flush=True
        )


if __name__ == "__main__":
    main()
