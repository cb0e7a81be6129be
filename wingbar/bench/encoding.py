"""Images per second of decoding, encoding and both, beside PyTorch in the same run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from wingbar import images
from wingbar.errors import DataError, ImageError, ModelError
from wingbar.model.model import Model
from wingbar.parallel import BATCH, batched, cores, in_order

ROUNDS = 5
IMAGES = 256  # per round; a folder with fewer is repeated


def encode(model_path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Images per second of decoding, of encoding and of both together, beside PyTorch eager in
    float32 on the same pixels.

    Each number is the median of ROUNDS rounds of IMAGES images, in which the contestants take
    turns. `eager_images_per_second` and `ratio`, which is encoding over eager, are None without
    PyTorch or the model's weights. Raises DataError without readable images.
    """
    model = Model.load(model_path)
    files, distinct = sample_files(folder, model)
    pixels = [images.load(data, model.preprocessing) for data in files]

    def decode() -> None:
        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(lambda data: images.load(data, model.preprocessing), files))

    contestants: dict[str, Callable[[], object]] = {
        "decode": decode,
        "encode": lambda: [model.run(batch) for batch in batched(pixels, BATCH)],
        "both": lambda: model.encode(files) if model.gives_codes else decode_and_run(model, files),
    }
    eager = _eager(model_path, model)
    if eager is not None:
        contestants["eager"] = lambda: [eager(np.stack(batch)) for batch in batched(pixels, BATCH)]
    speed = _images_per_second(contestants)
    return {
        "model": model.name,
        "images": IMAGES,
        "distinct_images": distinct,
        "threads": cores(),
        "decode_images_per_second": speed["decode"],
        "encode_images_per_second": speed["encode"],
        "images_per_second": speed["both"],
        "eager_images_per_second": speed.get("eager"),
        "ratio": speed["encode"] / speed["eager"] if "eager" in speed else None,
    }


def sample_files(folder: str | os.PathLike[str], model: Model) -> tuple[list[bytes], int]:
    """The bytes of IMAGES readable images of `folder`, repeated if it has fewer, and how many of
    them are distinct. Raises DataError if there is none."""
    readable: list[bytes] = []
    for path in images.find(folder).images:
        try:
            data = images.read(path)
            images.load(data, model.preprocessing)
            readable.append(data)
        except ImageError:
            continue
        if len(readable) == IMAGES:
            break
    if not readable:
        raise DataError(f"{folder} has no image that can be read")
    return [readable[i % len(readable)] for i in range(IMAGES)], len(readable)


def decode_and_run(model: Model, files: Sequence[bytes]) -> None:
    """Decode `files` in threads and run the network on them in batches, as `Model.encode` does,
    without making codes."""
    decoded = in_order(files, lambda data: images.load(data, model.preprocessing), cores())
    for batch in batched(decoded, BATCH):
        model.run(batch)


def _images_per_second(contestants: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The median speed of each contestant; they take turns in every round."""
    for contestant in contestants.values():
        contestant()  # warm up
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            times[name].append(time.perf_counter() - start)
    return {name: IMAGES / median(seconds) for name, seconds in times.items()}


def _eager(path: str | os.PathLike[str], model: Model) -> Callable[[images.Pixels], object] | None:
    """The model's network in PyTorch, float32, for pixels [B, H, W, 3]; None without PyTorch or its
    weights."""
    if find_spec("torch") is None:
        return None
    import torch

    from wingbar.networks import backbones
    from wingbar.training import export

    if "opened" in model.record:  # with open codes: its folder has no weights
        return None
    if model.method == "itq":
        try:
            net: torch.nn.Module = backbones.create(model.record["backbone"], "imagenet").eval()
        except ModelError:
            return None
    else:
        try:
            net = export.load_net(Path(path)).eval()
        except (ModelError, OSError):
            return None

    def run(pixels: images.Pixels) -> object:
        before = torch.get_num_threads()
        torch.set_num_threads(cores())  # as many as ONNX Runtime uses
        try:
            with torch.no_grad():
                return net(torch.from_numpy(pixels))
        finally:
            torch.set_num_threads(before)

    return run
