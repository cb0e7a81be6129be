"""The one training loop: seeds, schedule, mixed precision, checkpoints, resume, several processes. Every method uses it.

A run is determined by its seed: the order of images and the variation of each depend on (seed, epoch, row) alone, not on
workers or on where a run was interrupted, so a resumed run continues bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from wingbar import images, methods
from wingbar.data.readers import Entry, Images
from wingbar.errors import DataError, ImageError, ModelError, TrainingError
from wingbar.images import Augmentation, Preparation
from wingbar.index.fine import Side, fine_scores
from wingbar.index.sync import Failure, Progress
from wingbar.model import itq
from wingbar.model.itq import Rotation
from wingbar.model.model import Model, batched, cores, in_order, over_scales
from wingbar.networks import backbones

GALLERY_SAMPLE = 5000  # training images that held-out ones are searched in, at most
_EVAL_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Run:
    """How to train, whatever the method. Its fields are the flags of `wingbar train`.

    `test_size`: random boxes enlarge what they cut out, so that a network trained on them does better on pictures somewhat
    larger than its `size` (Touvron et al., NeurIPS 2019); by how much is to be seen on the held-out images.
    """

    backbone: str = field(default="efficientnet_lite0", metadata={"help": "the network; see wingbar train --help for names"})
    weights: str = field(default="imagenet", metadata={"help": "first weights of the backbone: imagenet, none, or a file"})
    size: int = field(default=224, metadata={"help": "side of the square that the network sees, pixels"})
    test_size: int = field(default=0, metadata={"help": "side that the trained model sees; 0: the same"})
    whole: bool = field(default=False, metadata={"help": "the trained model sees whole pictures in their own shape"})
    scales: str = field(default="1", metadata={"help": "with --whole: sizes that the trained model averages over, as 0.7,1,1.4"})
    epochs: int = field(default=20, metadata={"help": "passes over the training images"})
    batch: int = field(default=32, metadata={"help": "images a step, over all processes"})
    lr: float = field(default=0.01, metadata={"help": "learning rate"})
    momentum: float = field(default=0.9, metadata={"help": "momentum of SGD"})
    nesterov: bool = field(default=False, metadata={"help": "Nesterov's momentum"})
    weight_decay: float = field(default=5e-4, metadata={"help": "weight decay"})
    schedule: str = field(default="cosine", metadata={"help": "cosine (to zero) or step (a tenth after each --step-epochs)"})
    step_epochs: int = field(default=10, metadata={"help": "epochs between the steps of --schedule step"})
    warmup: float = field(default=1.0, metadata={"help": "epochs over which the learning rate rises from zero"})
    clip: float = field(default=10.0, metadata={"help": "greatest norm of the gradient; 0 does not clip"})
    area: float = field(default=0.35, metadata={"help": "least share of a picture that a random crop keeps"})
    mirror: bool = field(default=True, metadata={"help": "mirror half of the pictures"})
    lighting: float = field(default=0.0, metadata={"help": "deviation of random light (PCA of colours); papers use 0.1"})
    precision: str = field(default="auto", metadata={"help": "float32, bfloat16, or auto: bfloat16 where it is fast"})
    freeze_bn: bool = field(default=False, metadata={"help": "keep the statistics of batch normalisation as they are"})
    held_out: float = field(default=0.05, metadata={"help": "share of each class kept from training, to measure on"})
    measure_epochs: int = field(default=0, metadata={"help": "measure after each so many epochs; 0: only at the end"})
    checkpoint_minutes: float = field(default=5.0, metadata={"help": "minutes between checkpoints"})
    workers: int = field(default=1, metadata={"help": "processes that decode pictures; 0: none"})
    seed: int = field(default=0, metadata={"help": "determines the run"})

    def __post_init__(self) -> None:
        wrong = [
            (self.schedule in ("cosine", "step"), "schedule is cosine or step"),
            (self.precision in ("auto", "float32", "bfloat16"), "precision is auto, float32 or bfloat16"),
            (min(self.size, self.epochs, self.batch, self.step_epochs) >= 1, "size, epochs, batch, step_epochs are at least 1"),
            (self.test_size >= 0, "test_size is not below 0"),
            (0 <= self.held_out < 1, "held_out is a share below 1"),
            (0 < self.area <= 1, "area is a share above 0"),
            (self.lr > 0 and self.warmup >= 0 and self.clip >= 0, "lr is above 0, warmup and clip are not below it"),
        ]
        for fine, reason in wrong:
            if not fine:
                raise TrainingError(f"{reason}, not {self}")
        try:
            self.preparation  # noqa: B018  # which checks them
        except ValueError as error:
            raise TrainingError(f"{error}: see --whole and --scales") from None

    @property
    def preparation(self) -> Preparation:
        """How the trained model sees pictures."""
        scales = tuple(float(scale) for scale in self.scales.split(","))
        return Preparation(size=self.test_size or self.size, whole=self.whole, scales=scales)


@dataclass(frozen=True)
class Parts:
    """Training images of a run and those held out of them: paths, label numbers [n] int64, names of the classes."""

    paths: Sequence[str]
    labels: NDArray[np.int64]
    held_paths: Sequence[str]
    held_labels: NDArray[np.int64]
    classes: Sequence[str]
    protocol: str
    failed: Sequence[Failure]


def train(
    method: ModuleType,
    data: Images,
    output: str | os.PathLike[str],
    config: Any = None,
    run: Run | None = None,
    *,
    resume: bool = False,
    start: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Model:
    """Train `method` on the labelled images `data` and leave a model directory in `output`.

    `config` is the method's Config, `run` a Run; None means the method's own defaults. `resume` goes on from the checkpoint in
    `output`; `start` is the directory of a model of the same method and backbone to begin from (fine-tuning).
    Under `torchrun` the batch is shared by the processes. Images that cannot be read are left out and listed in
    `output/train/run.json`.

    Raises DataError for data that cannot teach, ModelError for missing weights, TrainingError when the loss is not
    finite (naming the term; the last checkpoint stays) or `output` holds another run. KeyboardInterrupt ends the step
    that is running and leaves a checkpoint.
    """
    run, config = run or Run(**method.RECIPE), config or method.Config()
    output = Path(output)
    described = describe(method, config, run, data, start)
    with _processes() as (rank, world):
        if rank == 0:
            _claim(output, described, resume)
        report = progress if progress and rank == 0 else _no_progress
        job = _Job(method, config, run, split(data, run, report), output, described, rank, world, report)
        if start is not None:
            _load_net(job.net, Path(start), run.backbone)
        if resume:
            job.load()
        job.train()
        if rank == 0:
            return job.finish()
    return Model.load(output)


def describe(method: ModuleType, config: Any, run: Run, data: Images, start: str | os.PathLike[str] | None) -> dict[str, Any]:
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
    """The run that `folder` holds. Raises TrainingError when it holds none, or one of another version of wingbar."""
    path = Path(folder) / "train" / "run.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        method = methods.get(found["method"])
        entries = [Entry(Path(name), label) for name, label in found["images"]]
        data = Images(entries, found["data"])
        return Recorded(method, method.Config(**found["config"]), Run(**found["run"]), data, found["start"])
    except FileNotFoundError:
        raise TrainingError(f"{folder} holds no run: there is no {path}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} cannot be read ({error}): was it written by another version?") from None


def export_checkpoint(folder: str | os.PathLike[str], progress: Progress | None = None) -> Model:
    """Make a model directory of the last checkpoint of an unfinished run, in its own folder.

    Raises TrainingError when there is no checkpoint.
    """
    found = recorded(folder)
    report = progress or _no_progress
    described = describe(found.method, found.config, found.run, found.data, found.start)
    parts = split(found.data, found.run, report)
    job = _Job(found.method, found.config, found.run, parts, Path(folder), described, 0, 1, report)
    if not job.load():
        raise TrainingError(f"{folder} has no checkpoint yet: let the training run longer, or resume it")
    return job.finish()


def split(data: Images, run: Run, progress: Progress) -> Parts:
    """The training images that can be read, numbered by class, a seeded share of each class held out."""
    labelled = [(str(entry.path), entry.label) for entry in data if entry.label is not None]
    failed: list[Failure] = []
    good: list[tuple[str, str]] = []
    preparation = Preparation(size=run.size)

    def readable(entry: tuple[str, str]) -> str | None:
        try:
            images.load(entry[0], preparation)
        except ImageError as error:
            return str(error)
        return None

    for i, (entry, reason) in enumerate(zip(labelled, in_order(labelled, readable, cores()), strict=True)):
        progress("checking images", i + 1, len(labelled))
        if reason is None:
            good.append(entry)
        else:
            failed.append(Failure(entry[0], reason))
    classes = sorted({label for _, label in good})
    if len(classes) < 2:
        raise DataError(f"training needs labelled images of at least two classes, these have {len(classes)}")
    number = {label: i for i, label in enumerate(classes)}
    labels = np.array([number[label] for _, label in good])
    rng = np.random.default_rng(run.seed)
    held: list[int] = []
    for c in range(len(classes)):
        members = np.flatnonzero(labels == c)
        count = min(max(round(run.held_out * len(members)), 1 if run.held_out else 0), len(members) - 1)
        held += rng.permutation(members)[:count].tolist()
    is_held = np.zeros(len(labels), bool)
    is_held[held] = True
    paths = np.array([path for path, _ in good], object)
    protocol = f"{data.protocol}; {len(held)} of {len(good)} training images held out (seed {run.seed})"
    return Parts(paths[~is_held].tolist(), labels[~is_held], paths[is_held].tolist(), labels[is_held], classes, protocol, failed)


class Pictures(Dataset[tuple[Tensor, int, int]]):
    """Training pictures by (epoch, row): pixels [size, size, 3] uint8, label, row."""

    def __init__(self, parts: Parts, run: Run) -> None:
        self.parts, self.seed = parts, run.seed
        self.preparation = Preparation(size=run.size)
        self.augmentation = Augmentation(area=run.area, mirror=run.mirror, lighting=run.lighting)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, int, int]:
        """The picture of `row`, varied as `epoch` wants it."""
        epoch, row = place
        rng = np.random.default_rng([self.seed, epoch, row])
        pixels = images.augment(self.parts.paths[row], self.preparation, self.augmentation, rng)
        return torch.from_numpy(pixels.copy()), int(self.parts.labels[row]), row


def batches(run: Run, items: int, epoch: int, first_step: int, rank: int, world: int) -> list[list[tuple[int, int]]]:
    """The batches of an epoch from `first_step` on, this process's share of each: (epoch, row) pairs.

    The last, smaller batch is left out, unless it is the only one.
    """
    order = np.random.default_rng([run.seed, epoch]).permutation(items)
    count = max(items // run.batch, 1)
    shares = [order[i * run.batch : (i + 1) * run.batch][rank::world].tolist() for i in range(count)]
    return [[(epoch, row) for row in share] for share in shares[first_step:]]


def learning_rate(run: Run, epoch: float) -> float:
    """The rate at a point of training, in epochs from its start: linear warm-up, then cosine or steps."""
    if epoch < run.warmup:
        return run.lr * epoch / run.warmup
    if run.schedule == "step":
        return run.lr * 0.1 ** int(epoch // run.step_epochs)
    done = (epoch - run.warmup) / max(run.epochs - run.warmup, 1e-9)
    return run.lr * 0.5 * (1 + float(np.cos(np.pi * min(done, 1.0))))


class _Both(nn.Module):
    """Net and loss as one module, which is what DistributedDataParallel can wrap."""

    def __init__(self, net: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.loss(self.net, pixels, labels, rows)
        return found


class _Job:
    """The state of one run."""

    def __init__(
        self,
        method: ModuleType,
        config: Any,
        run: Run,
        parts: Parts,
        output: Path,
        described: Mapping[str, Any],
        rank: int,
        world: int,
        progress: Progress,
    ) -> None:
        self.method, self.config, self.run, self.parts, self.output = method, config, run, parts, output
        self.described, self.rank, self.world, self.progress = described, rank, world, progress
        self.device = torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
        torch.manual_seed(run.seed)
        backbone = backbones.create(run.backbone, run.weights)
        self.net: nn.Module = method.Net(backbone, config, len(parts.classes))
        self.loss: Any = method.Loss(backbone, config, len(parts.classes), len(parts.paths))
        groups = method.param_groups(self.net, self.loss, config)
        both = _Both(self.net, self.loss).to(self.device)
        both = both.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            [{**group, "weight_decay": run.weight_decay * group["decay_scale"]} for group in groups],
            lr=run.lr,
            momentum=run.momentum,
            nesterov=run.nesterov,
        )
        self.both: nn.Module = both
        if world > 1:
            self.both = nn.parallel.DistributedDataParallel(both, broadcast_buffers=False)
        self.epoch = self.step = 0  # the next step to make
        self.steps = max(len(parts.paths) // run.batch, 1)  # in an epoch
        self._saved_at = time.monotonic()
        if rank == 0:
            _write_run(output, described, parts)

    def train(self) -> None:
        """All steps that are left. A checkpoint is left behind at the end, on Ctrl-C, and every so often."""
        with _interruptible() as interrupted:
            while self.epoch < self.run.epochs:
                self._train_epoch(interrupted)
        if self.rank == 0:
            self.save()

    def _train_epoch(self, interrupted: list[bool]) -> None:
        mine = batches(self.run, len(self.parts.paths), self.epoch, self.step, self.rank, self.world)
        loader: DataLoader[Any] = DataLoader(
            Pictures(self.parts, self.run), batch_sampler=mine, num_workers=self.run.workers, worker_init_fn=_ignore_interrupts
        )
        self.net.train()
        self.loss.train()
        if self.run.freeze_bn:
            for module in self.both.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        for pixels, labels, rows in loader:
            losses = self._train_step(pixels, labels, rows)
            self._log({"epoch": self.epoch, "step": self.step, "lr": self.optimizer.param_groups[0]["lr"], **losses})
            self.step += 1
            done = (self.epoch * self.steps + self.step) * self.run.batch
            self.progress("training", done, self.run.epochs * self.steps * self.run.batch)
            if self.step < self.steps:
                self._after_step(interrupted)
        self.loss.end_epoch()
        self.epoch, self.step = self.epoch + 1, 0
        every = self.run.measure_epochs
        if self.rank == 0 and every and self.epoch % every == 0 and self.epoch < self.run.epochs and self.parts.held_paths:
            self._log({"epoch": self.epoch, "held_out_map": self.measure()[0]})
        self._after_step(interrupted)

    def _train_step(self, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, float]:
        at = self.epoch + self.step / self.steps
        for group in self.optimizer.param_groups:  # a step uses the rate of its end, so that the first one moves
            group["lr"] = learning_rate(self.run, at + 1 / self.steps) * group["lr_scale"]
        with self._autocast():
            terms = self.both(pixels.to(self.device), labels.to(self.device), rows.to(self.device))
        losses = self._over_processes({name: float(term.detach()) for name, term in terms.items()})
        for name, value in losses.items():
            if not np.isfinite(value):
                kept = "the last checkpoint stays" if self._checkpoint.exists() else "there was no checkpoint yet"
                raise TrainingError(
                    f"the loss term {name!r} became {value} at epoch {self.epoch}, step {self.step}; {kept}: "
                    "try a lower --lr, or --precision float32"
                )
        self.optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        if self.run.clip:
            nn.utils.clip_grad_norm_(self.both.parameters(), self.run.clip)
        self.optimizer.step()
        return losses

    def _over_processes(self, losses: dict[str, float]) -> dict[str, float]:
        """The mean of each term over the processes, which share a batch equally; so all of them see the same numbers."""
        if self.world == 1:
            return losses
        values = torch.tensor(list(losses.values()), dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(values)
        return dict(zip(losses, (values / self.world).tolist(), strict=True))

    def _after_step(self, interrupted: list[bool]) -> None:
        due = time.monotonic() - self._saved_at >= 60 * self.run.checkpoint_minutes
        if self.rank == 0 and (due or interrupted):
            self.save()
            self._saved_at = time.monotonic()
        if interrupted:
            raise KeyboardInterrupt

    def _autocast(self) -> torch.autocast:
        fast = self.device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        wanted = self.run.precision == "bfloat16" or (self.run.precision == "auto" and fast)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted)

    # -- checkpoints

    @property
    def _checkpoint(self) -> Path:
        return self.output / "train" / "checkpoint.safetensors"

    def save(self) -> None:
        """Write net, loss, optimizer, generator and place into one file, which replaces the old one when it is whole."""
        tensors = {f"both.{name}": value for name, value in _unwrapped(self.both).state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items() if isinstance(value, Tensor)}
        tensors["generator"] = torch.get_rng_state()
        data = save({name: value.contiguous() for name, value in tensors.items()}, {"place": f"{self.epoch} {self.step}"})
        write_whole(self._checkpoint, data)

    def load(self) -> bool:
        """Go to where the checkpoint was written; False when there is none yet. Raises TrainingError when it is damaged."""
        if not self._checkpoint.is_file():
            return False
        try:
            with safe_open(self._checkpoint, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
                self.epoch, self.step = map(int, file.metadata()["place"].split())
        except SafetensorError as error:
            raise TrainingError(f"{self._checkpoint} cannot be read ({error}): delete it to start again") from None
        own = {name.removeprefix("both."): value for name, value in tensors.items() if name.startswith("both.")}
        _unwrapped(self.both).load_state_dict(own)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, i, key = name.split(".", 2)
                state.setdefault(int(i), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        torch.set_rng_state(tensors["generator"])
        _forget_log_after(self.output / "train" / "log.jsonl", self.epoch, self.step)
        return True

    def _log(self, record: Mapping[str, Any]) -> None:
        if self.rank == 0:
            with (self.output / "train" / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({**record, "time": round(time.time(), 2)}) + "\n")

    # -- measure and finish

    def measure(self) -> tuple[dict[str, float], Rotation | None]:
        """MAP of each fine mode for the held-out images, if any, searched in (at most GALLERY_SAMPLE of) the training images;
        and the rotation that makes codes of those, for a method without codes of its own."""
        rng = np.random.default_rng(self.run.seed)
        rows = np.sort(rng.permutation(len(self.parts.paths))[:GALLERY_SAMPLE])
        if not self.parts.held_paths and self._gives_codes:
            return {}, None
        gallery, rotation = self._side([self.parts.paths[row] for row in rows], self.parts.labels[rows], None)
        if not self.parts.held_paths:
            return {}, rotation
        query, _ = self._side(self.parts.held_paths, self.parts.held_labels, rotation)
        return fine_scores(query, gallery), rotation

    def _side(self, paths: Sequence[str], labels: NDArray[np.int64], rotation: Rotation | None) -> tuple[Side, Rotation | None]:
        """The net's outputs for pictures. Codes that it does not give come from `rotation`, which is fitted where it is None."""
        self.net.eval()
        preparation = self.run.preparation
        raw = []
        for batch in batched(in_order(paths, lambda path: images.load(path, preparation), cores()), _EVAL_BATCH):
            raw.append(over_scales(self._outputs, batch, preparation))
            self.progress("measuring", len(raw) * _EVAL_BATCH, len(paths))
        found = np.concatenate(raw)
        if self._gives_codes:
            feature, logits = np.split(found, [found.shape[1] - self.config.bits], axis=1)
            return Side(logits, feature, labels), None
        feature = found
        if rotation is None:
            rotation = itq.fit_codes(feature, self.config.bits, np.random.default_rng(self.run.seed))
        return Side(rotation.apply(feature)[0].astype(np.float32), feature, labels), rotation

    @cached_property
    def _gives_codes(self) -> bool:
        """Whether the net has codes of its own."""
        self.net.eval()
        return self._outputs(np.zeros((1, self.run.size, self.run.size, 3), np.uint8))[1] is not None

    def _outputs(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """The net's unit features and code logits, if any, of pictures [B, H, W, 3]."""
        with torch.no_grad(), self._autocast():
            found = self.net(torch.from_numpy(pixels).to(self.device))
        feature = nn.functional.normalize(found.feature.float(), dim=1).cpu().numpy()
        return feature, None if found.code is None else found.code.float().cpu().numpy()

    def finish(self) -> Model:
        """Measure, choose the fine mode, export. The model directory is complete when model.json appears."""
        from wingbar.training import export

        scores, rotation = self.measure()
        best = max(scores, key=lambda mode: scores[mode]) if scores else "pool"
        record = {
            "name": self.output.resolve().name,
            "fine": best,
            "held_out_map": {mode: round(value, 6) for mode, value in scores.items()},
            "classes": list(self.parts.classes),
            "protocol": self.parts.protocol,
            "trained": {
                "epochs": self.epoch,
                "steps": self.step,
                "images": len(self.parts.paths),
                "failed": len(self.parts.failed),
            },
            **{key: value for key, value in self.described.items() if key != "images"},
        }
        paths = self.parts.paths[: export.PARITY_IMAGES]
        return export.write(self.output, self.net.to("cpu"), record, self.run.preparation, paths, rotation)


def _unwrapped(module: nn.Module) -> nn.Module:
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module


def load_net(folder: str | os.PathLike[str]) -> nn.Module:
    """The Net of a trained model directory, with its weights. Raises ModelError or OSError when it is not complete."""
    model = Model.load(folder)
    weights = Path(folder) / "model.safetensors"
    if hashlib.sha256(weights.read_bytes()).hexdigest() != model.record["weights"]["model.safetensors"]:
        raise ModelError(f"{weights} is not the file that model.json describes: copy the model again")
    method = methods.get(model.method)
    backbone, config = backbones.create(model.record["backbone"]), method.Config(**model.record["config"])
    net: nn.Module = method.Net(backbone, config, len(model.record["classes"]))
    net.load_state_dict(load_file(weights))
    return net


def _load_net(net: nn.Module, folder: Path, backbone: str) -> None:
    """Weights of a trained model of `backbone` into `net`, where their shapes fit. Raises TrainingError."""
    try:
        theirs = Model.load(folder).record["backbone"]
        state = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError, ModelError) as error:
        raise TrainingError(f"{folder} has no weights to begin from ({error})") from None
    if theirs != backbone:
        raise TrainingError(f"{folder} is of the backbone {theirs}, not {backbone}: begin from a model of the same one")
    own = net.state_dict()
    net.load_state_dict({n: v for n, v in state.items() if n in own and own[n].shape == v.shape}, strict=False)


def _claim(output: Path, described: Mapping[str, Any], resume: bool) -> None:
    """Refuse a folder that holds something else than the run to go on with."""
    there = output / "train" / "run.json"
    if resume:
        if not there.is_file():
            raise TrainingError(f"{output} holds no run to resume")
        before = json.loads(there.read_text())
        changed = [key for key in described if described[key] != before.get(key)]
        if changed:
            raise TrainingError(f"{output} was started with another {', '.join(changed)}: resume with the same flags")
    elif output.exists() and any(output.iterdir()):
        raise TrainingError(f"{output} is not empty: add --resume to go on with it, or name another folder")
    (output / "train").mkdir(parents=True, exist_ok=True)


def _write_run(output: Path, described: Mapping[str, Any], parts: Parts) -> None:
    record = {
        **described,
        "protocol": parts.protocol,
        "classes": list(parts.classes),
        "held_out": list(parts.held_paths),
        "failed": [asdict(failure) for failure in parts.failed],
    }
    write_whole(output / "train" / "run.json", json.dumps(record, indent=1).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`, or leave the old one whole."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _forget_log_after(path: Path, epoch: int, step: int) -> None:
    """Drop what was logged after the checkpoint, which will be logged again."""
    if path.is_file():
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
        kept = [line for line in lines if _place(json.loads(line)) < (epoch, step)]
        write_whole(path, "".join(line + "\n" for line in kept).encode())


def _place(record: Mapping[str, Any]) -> tuple[int, float]:
    return (record["epoch"], record["step"]) if "step" in record else (record["epoch"] - 1, float("inf"))


@contextmanager
def _interruptible() -> Iterator[list[bool]]:
    """A list that is empty until Ctrl-C is pressed; pressed twice, it interrupts at once."""
    pressed: list[bool] = []

    def note(number: int, frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread, where no signal arrives
        yield pressed
        return
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches worker processes too; they end with their loader."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


@contextmanager
def _processes() -> Iterator[tuple[int, int]]:
    """Rank and number of processes: those of `torchrun`, or 0 and 1."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield torch.distributed.get_rank(), torch.distributed.get_world_size()
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


def _no_progress(stage: str, done: int, total: int) -> None:
    pass
