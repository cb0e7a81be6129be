"""The settings of a training run, and its record."""

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
from wingbar.images import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Run:
    """How to train, whatever the method. Its fields are the flags of `wingbar train`.

    `test_size`: random boxes enlarge what they cut out, so that a network trained on them does
    better on pictures somewhat larger than its `size` (Touvron et al., NeurIPS 2019); by how much
    is to be seen on the held-out images.
    """

    backbone: str = field(
        default="efficientnet_lite0",
        metadata={"help": "the network; see wingbar train --help for names"},
    )
    weights: str = field(
        default="imagenet",
        metadata={"help": "first weights of the backbone: imagenet, none, or a file"},
    )
    size: int = field(
        default=224, metadata={"help": "side of the square that the network sees, pixels"}
    )
    test_size: int = field(
        default=0, metadata={"help": "side that the trained model sees; 0: the same"}
    )
    whole: bool = field(
        default=False, metadata={"help": "the trained model sees whole pictures in their own shape"}
    )
    scales: str = field(
        default="1",
        metadata={"help": "with --whole: sizes that the trained model averages over, as 0.7,1,1.4"},
    )
    epochs: int = field(default=20, metadata={"help": "passes over the training images"})
    batch: int = field(default=32, metadata={"help": "images a step, over all processes"})
    lr: float = field(default=0.01, metadata={"help": "learning rate"})
    momentum: float = field(default=0.9, metadata={"help": "momentum of SGD"})
    nesterov: bool = field(default=False, metadata={"help": "Nesterov's momentum"})
    weight_decay: float = field(default=5e-4, metadata={"help": "weight decay"})
    schedule: str = field(
        default="cosine",
        metadata={"help": "cosine (to zero) or step (a tenth after each --step-epochs)"},
    )
    step_epochs: int = field(
        default=10, metadata={"help": "epochs between the steps of --schedule step"}
    )
    warmup: float = field(
        default=1.0, metadata={"help": "epochs over which the learning rate rises from zero"}
    )
    clip: float = field(
        default=10.0, metadata={"help": "greatest norm of the gradient; 0 does not clip"}
    )
    area: float = field(
        default=0.35, metadata={"help": "least share of a picture that a random crop keeps"}
    )
    mirror: bool = field(default=True, metadata={"help": "mirror half of the pictures"})
    lighting: float = field(
        default=0.0, metadata={"help": "deviation of random light (PCA of colours); papers use 0.1"}
    )
    precision: str = field(
        default="auto", metadata={"help": "float32, bfloat16, or auto: bfloat16 where it is fast"}
    )
    freeze_bn: bool = field(
        default=False, metadata={"help": "keep the statistics of batch normalisation as they are"}
    )
    held_out: float = field(
        default=0.05, metadata={"help": "share of each class kept from training, to measure on"}
    )
    measure_epochs: int = field(
        default=0, metadata={"help": "measure after each so many epochs; 0: only at the end"}
    )
    checkpoint_minutes: float = field(default=5.0, metadata={"help": "minutes between checkpoints"})
    workers: int = field(default=1, metadata={"help": "processes that decode pictures; 0: none"})
    seed: int = field(default=0, metadata={"help": "determines the run"})

    def __post_init__(self) -> None:
        wrong = [
            (self.schedule in ("cosine", "step"), "schedule is cosine or step"),
            (
                self.precision in ("auto", "float32", "bfloat16"),
                "precision is auto, float32 or bfloat16",
            ),
            (
                min(self.size, self.epochs, self.batch, self.step_epochs) >= 1,
                "size, epochs, batch, step_epochs are at least 1",
            ),
            (self.test_size >= 0, "test_size is not below 0"),
            (0 <= self.held_out < 1, "held_out is a share below 1"),
            (0 < self.area <= 1, "area is a share above 0"),
            (
                self.lr > 0 and self.warmup >= 0 and self.clip >= 0,
                "lr is above 0, warmup and clip are not below it",
            ),
        ]
        for fine, reason in wrong:
            if not fine:
                raise TrainingError(f"{reason}, not {self}")
        try:
            self.preprocessing  # noqa: B018  # which checks them
        except ValueError as error:
            raise TrainingError(f"{error}: see --whole and --scales") from None

    @property
    def preprocessing(self) -> Preprocessing:
        """How the trained model sees pictures."""
        scales = tuple(float(scale) for scale in self.scales.split(","))
        return Preprocessing(size=self.test_size or self.size, whole=self.whole, scales=scales)


def describe(
    method: ModuleType, config: Any, run: Run, data: Images, start: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """Everything that a run needs to be done again, as JSON; `recorded` reads it."""
    described = {
        "method": method.__name__.rsplit(".", 1)[-1],
        "config": asdict(config),
        "run": asdict(run),
        "start": None if start is None else os.path.abspath(start),
        "data": data.protocol,
        "images": [[str(entry.path), entry.label] for entry in data if entry.label is not None],
    }
    return json.loads(json.dumps(described))


@dataclass(frozen=True)
class Recorded:
    """A run as it was written down in its folder."""

    method: ModuleType
    config: Any
    run: Run
    data: Images
    start: str | None


def recorded(folder: str | os.PathLike[str]) -> Recorded:
    """The run that `folder` holds. Raises TrainingError when it holds none, or one of another
    version of wingbar."""
    path = Path(folder) / "train" / "run.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        method = methods.get(found["method"])
        entries = [Entry(Path(name), label) for name, label in found["images"]]
        data = Images(entries, found["data"])
        return Recorded(
            method, method.Config(**found["config"]), Run(**found["run"]), data, found["start"]
        )
    except FileNotFoundError:
        raise TrainingError(f"{folder} holds no run: there is no {path}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} cannot be read ({error}): was it written by another version?"
        ) from None
