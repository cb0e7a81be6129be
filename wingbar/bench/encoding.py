"""Images a second of decoding, encoding and both, beside PyTorch in the same run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
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
IMAGES = 256  # a round; images of the folder are repeated where there are fewer


def encode(model_path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Images a second of decoding, of encoding and of both together, beside PyTorch eager in
    float32 on the same pixels.

    Each number is the median of ROUNDS rounds, in which the contestants take turns.
    `eager_images_per_second` and `ratio` are None where PyTorch or the model's weights are missing.
    Raises DataError without readable images.
    """
    model = Model.load(model_path)
    files, distinct = _readable(folder, model)
    pixels = [images.load(data, model.preprocessing) for data in files]

    def decode() -> None:
        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(lambda data: images.load(data, model.preprocessing), files))

    contestants: dict[str, Callable[[], object]] = {
        "decode": decode,
        "encode": lambda: [model.run(batch) for batch in batched(pixels, BATCH)],
        "both": lambda: model.encode(files) if model.gives_codes else _decode_and_run(model, files),
    }
    eager = _eager(model_path, model)
    if eager is not None:
        contestants["eager"] = lambda: [eager(np.stack(batch)) for batch in batched(pixels, BATCH)]
    for contestant in contestants.values():
        contestant()  # warm up
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            times[name].append(time.perf_counter() - start)
    speed: dict[str, float | None] = {
        name: IMAGES / median(seconds) for name, seconds in times.items()
    }
    slow = speed.get("eager")
    return {
        "model": model.name,
        "images": IMAGES,
        "distinct_images": distinct,
        "threads": cores(),
        "decode_images_per_second": speed["decode"],
        "encode_images_per_second": speed["encode"],
        "images_per_second": speed["both"],
        "eager_images_per_second": slow,
        "ratio": _ratio(speed["encode"], slow),
    }


def _readable(folder: str | os.PathLike[str], model: Model) -> tuple[list[bytes], int]:
    """IMAGES files that can be read, some more than once where the folder has fewer, and how many
    different ones."""
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


def _decode_and_run(model: Model, files: list[bytes]) -> None:
    for batch in batched(
        in_order(files, lambda data: images.load(data, model.preprocessing), cores()), BATCH
    ):
        model.run(batch)


def _eager(path: str | os.PathLike[str], model: Model) -> Callable[[images.Pixels], object] | None:
    """The model's net in PyTorch, float32, or None where it cannot be had."""
    if find_spec("torch") is None:
        return None
    import torch

    from wingbar.networks import backbones
    from wingbar.training import export

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


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _us(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e6


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def _speed(work: Callable[[], object], count: int) -> float:
    """How many of `count` things a second."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)
