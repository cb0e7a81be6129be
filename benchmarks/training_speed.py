"""Images per second of wingbar's training step and of a plain float32 loop, in one run.

    python benchmarks/training_speed.py FOLDER [--backbone resnet18] [--size 224]

FOLDER holds labelled images. Both train the same net on the same batches, in turns; decoding is not
timed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from torch.utils.data import DataLoader

from wingbar.data.readers import read_images
from wingbar.methods import dlbhc
from wingbar.networks import backbones
from wingbar.parallel import no_progress
from wingbar.training import loop, pictures
from wingbar.training.run import Recorded, Run

ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    run = Run(backbone=args.backbone, weights="none", size=args.size, batch=args.batch, workers=0)
    config = dlbhc.Config()
    data = read_images(args.folder)[: 20 * args.batch]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "m"
        (output / "train").mkdir(parents=True)
        parts = pictures.split(data, run, no_progress)
        training = loop.Training(Recorded(dlbhc, config, run, data, None), parts, output)
        training.net.train()
        training.epoch = 1  # past the warm-up
        loader = DataLoader(
            pictures.Pictures(parts, run),
            batch_sampler=pictures.batches(run, len(parts.paths), 0, 0, 0, 1),
        )
        batches = [batch for batch, _ in zip(loader, range(4), strict=False)]

        backbone = backbones.create(args.backbone)
        net = dlbhc.Net(backbone, config, len(parts.classes))
        loss = dlbhc.Loss(backbone, config, len(parts.classes), len(parts.paths))
        optimizer = torch.optim.SGD([*net.parameters(), *loss.parameters()], lr=0.01, momentum=0.9)

        def plain(pixels: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> None:
            optimizer.zero_grad()
            loss(net, pixels, labels, rows)["total"].backward()
            optimizer.step()

        contestants = {"plain float32": plain, "wingbar": training.train_step}
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for i in range(ROUNDS + 1):
            for name, step in contestants.items():
                start = time.perf_counter()
                step(*batches[i % len(batches)])
                if i:  # the first is a warm-up
                    times[name].append(time.perf_counter() - start)
    speed = {name: args.batch / median(seconds) for name, seconds in times.items()}
    print(
        f"{args.backbone}, {args.size} pixels, batch {args.batch}, {torch.get_num_threads()} "
        f"threads, {ROUNDS} rounds"
    )
    for name, images in speed.items():
        print(f"{name:14} {images:6.1f} images/s")
    print(f"ratio {speed['wingbar'] / speed['plain float32']:.2f}")


if __name__ == "__main__":
    main()
