"""The settings of a training run, and how its folder records them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from wingbar import methods
from wingbar.data.records import Entry, Images
from wingbar.errors import TrainingError
from wingbar.images import Failure, Preprocessing
from wingbar.methods.bounds import require, require_one_of
from wingbar.model.model import MAX_SIZE
from wingbar.networks import BACKBONES

MIN_SIZE = 8  # side of images, in pixels


@dataclass(frozen=True, kw_only=True)
class Run:
    """How to train, whatever the method. Its fields are the flags of `wingbar train`, and the help
    of each is its documentation.

    `test_size`: random crops enlarge what they show, so that a network trained on them does better
    on images somewhat larger than its `size` (Touvron et al., NeurIPS 2019); the score on the
    held-out images tells by how much.

    Raises TrainingError for values out of range.
    """

    backbone: str = field(
        default="efficientnet_lite0",
        metadata={"help": f"backbone: {', '.join(BACKBONES)}, or timm:NAME"},
    )
    weights: str = field(
        default="imagenet",
        metadata={"help": "initial weights of the backbone: imagenet, none, or a file"},
    )
    size: int = field(
        default=224, metadata={"help": "side of the square training images, in pixels"}
    )
    test_size: int = field(
        default=0,
        metadata={"help": "side of the images that the trained model takes, in pixels; 0: --size"},
    )
    whole: bool = field(
        default=False,
        metadata={"help": "the trained model takes whole images in their own aspect ratio"},
    )
    scales: str = field(
        default="1",
        metadata={
            "help": "with --whole: scales over which the trained model averages, such as 0.7,1,1.4"
        },
    )
    epochs: int = field(default=20, metadata={"help": "passes over the training images"})
    batch: int = field(default=32, metadata={"help": "images per step, over all processes"})
    lr: float = field(default=0.01, metadata={"help": "learning rate"})
    optimizer: str = field(
        default="sgd", metadata={"help": "sgd, or adam, which needs a far lower --lr"}
    )
    momentum: float = field(default=0.9, metadata={"help": "momentum of SGD"})
    nesterov: bool = field(default=False, metadata={"help": "use Nesterov momentum"})
    weight_decay: float = field(default=5e-4, metadata={"help": "weight decay"})
    schedule: str = field(
        default="cosine",
        metadata={
            "help": "learning-rate schedule: cosine (to zero), or step (divided by 10 every "
            "--step-epochs)"
        },
    )
    step_epochs: int = field(
        default=10, metadata={"help": "epochs between the steps of --schedule step"}
    )
    warmup: float = field(
        default=1.0, metadata={"help": "epochs over which the learning rate rises from zero"}
    )
    clip: float = field(
        default=10.0, metadata={"help": "maximum norm of the gradient; 0: no clipping"}
    )
    area: float = field(
        default=0.35,
        metadata={"help": "smallest share of an image's area that a random crop keeps"},
    )
    mirror: bool = field(default=True, metadata={"help": "flip half of the images horizontally"})
    lighting: float = field(
        default=0.0,
        metadata={
            "help": "standard deviation of random lighting (PCA of the colours); papers use 0.1"
        },
    )
    precision: str = field(
        default="auto",
        metadata={"help": "float32, bfloat16, or auto: bfloat16 where the hardware is fast at it"},
    )
    instances: bool = field(
        default=False,
        metadata={
            "help": "each image is a class of its own: learn to find it again in altered copies "
            "(turned, distorted, covered, blurred, compressed), which are drawn on the fly"
        },
    )
    freeze_bn: bool = field(
        default=False, metadata={"help": "freeze the statistics of batch normalisation"}
    )
    held_out: float = field(
        default=0.05,
        metadata={"help": "share of each class held out of training, to measure the model on"},
    )
    measure_epochs: int = field(
        default=0,
        metadata={"help": "epochs between measurements on the held-out images; 0: only at the end"},
    )
    checkpoint_minutes: float = field(default=5.0, metadata={"help": "minutes between checkpoints"})
    workers: int = field(
        default=1, metadata={"help": "processes that decode images; 0: the training process does"}
    )
    cache: int = field(
        default=0,
        metadata={
            "help": "keep the training images in memory, decoded, with this short side in pixels, "
            "somewhat above --size; 0: decode them in every epoch"
        },
    )
    seed: int = field(default=0, metadata={"help": "random seed; it determines the run"})

    def __post_init__(self) -> None:
        require_one_of(self, "schedule", "cosine", "step")
        require_one_of(self, "optimizer", "sgd", "adam")
        require_one_of(self, "precision", "auto", "float32", "bfloat16")
        require(self, "epochs", "batch", "step_epochs", least=1)
        require(self, "size", least=MIN_SIZE, most=MAX_SIZE)
        if self.test_size:
            require(self, "test_size", least=MIN_SIZE, most=MAX_SIZE)
        require(self, "cache", "workers", "measure_epochs", "checkpoint_minutes", least=0)
        require(self, "seed", least=0, most=2**63 - 1)
        require(self, "warmup", "clip", "weight_decay", "lighting", least=0)
        require(self, "momentum", "held_out", least=0, below=1)
        require(self, "area", above=0, most=1)
        require(self, "lr", above=0)
        if 0 < self.cache < self.size:
            raise TrainingError(
                f"cache must be 0 or at least --size, {self.size}, not {self.cache}"
            )
        try:
            self.preprocessing  # noqa: B018  # which checks the scales
        except ValueError as error:
            raise TrainingError(f"{error}: see --whole and --scales") from None

    @property
    def preprocessing(self) -> Preprocessing:
        """How the trained model prepares images."""
        scales = tuple(float(scale) for scale in self.scales.split(","))
        return Preprocessing(size=self.test_size or self.size, whole=self.whole, scales=scales)


@dataclass(frozen=True)
class Recorded:
    """Everything that determines a run, as its folder records it.

    method: the method's module.
    config: the method's Config.
    run: how to train.
    data: the labelled images, before any are held out.
    start: the directory of the model whose weights training begins with; None without one.
    """

    method: ModuleType
    config: Any
    run: Run
    data: Images
    start: str | None


def describe(settings: Recorded) -> dict[str, Any]:
    """Everything needed to repeat a run, as JSON; `recorded` reads it back."""
    described: dict[str, Any] = {
        "method": settings.method.__name__.rsplit(".", 1)[-1],
        "config": asdict(settings.config),
        "run": asdict(settings.run),
        "start": None if settings.start is None else os.path.abspath(settings.start),
        "data": settings.data.protocol,
        "images": [
            [str(entry.path), entry.label]
            for entry in settings.data
            if settings.run.instances or entry.label is not None
        ],
    }
    if settings.data.multi_label:
        described["multi_label"] = True
    return json.loads(json.dumps(described))  # as it is read back: tuples become lists


def read_record(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What the run in `folder` recorded of itself. Raises TrainingError when it holds none, or one
    that cannot be read."""
    path = record_path(Path(folder))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except FileNotFoundError:
        raise TrainingError(f"{folder} holds no run: there is no {path}") from None
    except ValueError as error:
        raise TrainingError(
            f"{path} cannot be read ({error}): begin another run, in another folder"
        ) from None
    return found


def record_path(folder: Path) -> Path:
    """Where the run in `folder` records its settings."""
    return folder / "train" / "run.json"


def failures(folder: str | os.PathLike[str]) -> list[Failure]:
    """The images that the run in `folder` could not read, with the reason, as it recorded them."""
    try:
        return [Failure(**failure) for failure in read_record(folder).get("failed", [])]
    except TypeError as error:
        raise TrainingError(
            f"{record_path(Path(folder))} cannot be read (failed: {error}): begin another run, in "
            "another folder"
        ) from None


def recorded(folder: str | os.PathLike[str]) -> Recorded:
    """The run that `folder` holds. Raises TrainingError when it holds none, or one of a different
    version of wingbar."""
    found = read_record(folder)
    try:
        method = methods.get(found["method"])
        entries = [Entry(Path(name), label) for name, label in found["images"]]
        return Recorded(
            method=method,
            config=method.Config(**found["config"]),
            run=Run(**found["run"]),
            data=Images(entries, found["data"], multi_label=bool(found.get("multi_label", False))),
            start=found["start"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{record_path(Path(folder))} cannot be read ({error}): was it written by another "
            "version of wingbar?"
        ) from None
