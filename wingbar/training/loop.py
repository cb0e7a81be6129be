"""The one training loop: seeds, schedule, mixed precision, checkpoints, resume, several processes.
Every method uses it.

A run is determined by its seed: the order of images and the variation of each depend on (seed,
epoch, row) alone, not on workers or on where a run was interrupted, so a resumed run continues bit
for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import DataLoader

from wingbar import images, methods
from wingbar.data.records import Images
from wingbar.errors import ModelError, TrainingError
from wingbar.files import write_whole
from wingbar.model import itq
from wingbar.model.itq import Rotation
from wingbar.model.model import Model, over_scales
from wingbar.networks import backbones
from wingbar.parallel import Progress, batched, cores, in_order, no_progress
from wingbar.training.checkpoint import (
    _claim,
    _forget_log_after,
    _ignore_interrupts,
    _interruptible,
    _unwrapped,
    _write_run,
)
from wingbar.training.held_out import Side, fine_scores
from wingbar.training.pictures import Parts, Pictures, batches, split
from wingbar.training.run import Run, describe, recorded

GALLERY_SAMPLE = 5000  # training images that held-out ones are searched in, at most
_EVAL_BATCH = 32


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

    `config` is the method's Config, `run` a Run; None means the method's own defaults. `resume`
    goes on from the checkpoint in `output`; `start` is the directory of a model of the same method
    and backbone to begin from (fine-tuning). Under `torchrun` the batch is shared by the processes.
    Images that cannot be read are left out and listed in `output/train/run.json`.

    Raises DataError for data that cannot teach, ModelError for missing weights, TrainingError when
    the loss is not finite (naming the term; the last checkpoint stays) or `output` holds another
    run. KeyboardInterrupt ends the step that is running and leaves a checkpoint.
    """
    run, config = run or Run(**method.RECIPE), config or method.Config()
    output = Path(output)
    described = describe(method, config, run, data, start)
    with _processes() as (rank, world):
        if rank == 0:
            _claim(output, described, resume)
        report = progress if progress and rank == 0 else no_progress
        job = _Job(
            method, config, run, split(data, run, report), output, described, rank, world, report
        )
        if start is not None:
            _load_net(job.net, Path(start), run.backbone)
        if resume:
            job.load()
        job.train()
        if rank == 0:
            return job.finish()
    return Model.load(output)


def export_checkpoint(folder: str | os.PathLike[str], progress: Progress | None = None) -> Model:
    """Make a model directory of the last checkpoint of an unfinished run, in its own folder.

    Raises TrainingError when there is no checkpoint.
    """
    found = recorded(folder)
    report = progress or no_progress
    described = describe(found.method, found.config, found.run, found.data, found.start)
    parts = split(found.data, found.run, report)
    job = _Job(found.method, found.config, found.run, parts, Path(folder), described, 0, 1, report)
    if not job.load():
        raise TrainingError(
            f"{folder} has no checkpoint yet: let the training run longer, or resume it"
        )
    return job.finish()


def learning_rate(run: Run, epoch: float) -> float:
    """The rate at a point of training, in epochs from its start: linear warm-up, then cosine or
    steps."""
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
        self.method, self.config, self.run, self.parts, self.output = (
            method,
            config,
            run,
            parts,
            output,
        )
        self.described, self.rank, self.world, self.progress = described, rank, world, progress
        self.device = (
            torch.device("cuda", rank % torch.cuda.device_count())
            if torch.cuda.is_available()
            else torch.device("cpu")
        )
        torch.manual_seed(run.seed)
        backbone = backbones.create(run.backbone, run.weights)
        self.net: nn.Module = method.Net(backbone, config, len(parts.classes))
        self.loss: Any = method.Loss(backbone, config, len(parts.classes), len(parts.paths))
        groups = method.param_groups(self.net, self.loss, config)
        both = _Both(self.net, self.loss).to(self.device)
        both = both.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            [
                {**group, "weight_decay": run.weight_decay * group["decay_scale"]}
                for group in groups
            ],
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
        """All steps that are left. A checkpoint is left behind at the end, on Ctrl-C, and every so
        often."""
        with _interruptible() as interrupted:
            while self.epoch < self.run.epochs:
                self._train_epoch(interrupted)
        if self.rank == 0:
            self.save()

    def _train_epoch(self, interrupted: list[bool]) -> None:
        mine = batches(
            self.run, len(self.parts.paths), self.epoch, self.step, self.rank, self.world
        )
        loader: DataLoader[Any] = DataLoader(
            Pictures(self.parts, self.run),
            batch_sampler=mine,
            num_workers=self.run.workers,
            worker_init_fn=_ignore_interrupts,
        )
        self.net.train()
        self.loss.train()
        if self.run.freeze_bn:
            for module in self.both.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        for pixels, labels, rows in loader:
            losses = self._train_step(pixels, labels, rows)
            self._log(
                {
                    "epoch": self.epoch,
                    "step": self.step,
                    "lr": self.optimizer.param_groups[0]["lr"],
                    **losses,
                }
            )
            self.step += 1
            done = (self.epoch * self.steps + self.step) * self.run.batch
            self.progress("training", done, self.run.epochs * self.steps * self.run.batch)
            if self.step < self.steps:
                self._after_step(interrupted)
        self.loss.end_epoch()
        self.epoch, self.step = self.epoch + 1, 0
        every = self.run.measure_epochs
        if (
            self.rank == 0
            and every
            and self.epoch % every == 0
            and self.epoch < self.run.epochs
            and self.parts.held_paths
        ):
            self._log({"epoch": self.epoch, "held_out_map": self.measure()[0]})
        self._after_step(interrupted)

    def _train_step(self, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, float]:
        at = self.epoch + self.step / self.steps
        for group in (
            self.optimizer.param_groups
        ):  # a step uses the rate of its end, so that the first one moves
            group["lr"] = learning_rate(self.run, at + 1 / self.steps) * group["lr_scale"]
        with self._autocast():
            terms = self.both(pixels.to(self.device), labels.to(self.device), rows.to(self.device))
        losses = self._over_processes({name: float(term.detach()) for name, term in terms.items()})
        for name, value in losses.items():
            if not np.isfinite(value):
                kept = (
                    "the last checkpoint stays"
                    if self._checkpoint.exists()
                    else "there was no checkpoint yet"
                )
                raise TrainingError(
                    f"the loss term {name!r} became {value} at epoch {self.epoch}, step "
                    f"{self.step}; {kept}: "
                    "try a lower --lr, or --precision float32"
                )
        self.optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        if self.run.clip:
            nn.utils.clip_grad_norm_(self.both.parameters(), self.run.clip)
        self.optimizer.step()
        return losses

    def _over_processes(self, losses: dict[str, float]) -> dict[str, float]:
        """The mean of each term over the processes, which share a batch equally; so all of them see
        the same numbers."""
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
        """Write net, loss, optimizer, generator and place into one file, which replaces the old one
        when it is whole."""
        tensors = {
            f"both.{name}": value for name, value in _unwrapped(self.both).state_dict().items()
        }
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{i}.{name}": value
                for name, value in state.items()
                if isinstance(value, Tensor)
            }
        tensors["generator"] = torch.get_rng_state()
        data = save(
            {name: value.contiguous() for name, value in tensors.items()},
            {"place": f"{self.epoch} {self.step}"},
        )
        write_whole(self._checkpoint, data)

    def load(self) -> bool:
        """Go to where the checkpoint was written; False when there is none yet. Raises
        TrainingError when it is damaged."""
        if not self._checkpoint.is_file():
            return False
        try:
            with safe_open(self._checkpoint, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
                self.epoch, self.step = map(int, file.metadata()["place"].split())
        except SafetensorError as error:
            raise TrainingError(
                f"{self._checkpoint} cannot be read ({error}): delete it to start again"
            ) from None
        own = {
            name.removeprefix("both."): value
            for name, value in tensors.items()
            if name.startswith("both.")
        }
        _unwrapped(self.both).load_state_dict(own)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, i, key = name.split(".", 2)
                state.setdefault(int(i), {})[key] = value
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        torch.set_rng_state(tensors["generator"])
        _forget_log_after(self.output / "train" / "log.jsonl", self.epoch, self.step)
        return True

    def _log(self, record: Mapping[str, Any]) -> None:
        if self.rank == 0:
            with (self.output / "train" / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({**record, "time": round(time.time(), 2)}) + "\n")

    # -- measure and finish

    def measure(self) -> tuple[dict[str, float], Rotation | None]:
        """MAP of each fine mode for the held-out images, if any, searched in (at most
        GALLERY_SAMPLE of) the training images; and the rotation that makes codes of those, for a
        method without codes of its own."""
        rng = np.random.default_rng(self.run.seed)
        rows = np.sort(rng.permutation(len(self.parts.paths))[:GALLERY_SAMPLE])
        if not self.parts.held_paths and self._gives_codes:
            return {}, None
        gallery, rotation = self._side(
            [self.parts.paths[row] for row in rows], self.parts.labels[rows], None
        )
        if not self.parts.held_paths:
            return {}, rotation
        query, _ = self._side(self.parts.held_paths, self.parts.held_labels, rotation)
        return fine_scores(query, gallery), rotation

    def _side(
        self, paths: Sequence[str], labels: NDArray[np.int64], rotation: Rotation | None
    ) -> tuple[Side, Rotation | None]:
        """The net's outputs for pictures. Codes that it does not give come from `rotation`, which
        is fitted where it is None."""
        self.net.eval()
        preprocessing = self.run.preprocessing
        raw = []
        for batch in batched(
            in_order(paths, lambda path: images.load(path, preprocessing), cores()), _EVAL_BATCH
        ):
            raw.append(over_scales(self._outputs, batch, preprocessing))
            self.progress("measuring", len(raw) * _EVAL_BATCH, len(paths))
        found = np.concatenate(raw)
        if self._gives_codes:
            feature, logits = np.split(found, [found.shape[1] - self.config.bits], axis=1)
            return Side(logits, feature, labels), None
        feature = found
        if rotation is None:
            rotation = itq.fit_codes(
                feature, self.config.bits, np.random.default_rng(self.run.seed)
            )
        return Side(rotation.apply(feature)[0].astype(np.float32), feature, labels), rotation

    @cached_property
    def _gives_codes(self) -> bool:
        """Whether the net has codes of its own."""
        self.net.eval()
        return (
            self._outputs(np.zeros((1, self.run.size, self.run.size, 3), np.uint8))[1] is not None
        )

    def _outputs(
        self, pixels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """The net's unit features and code logits, if any, of pictures [B, H, W, 3]."""
        with torch.no_grad(), self._autocast():
            found = self.net(torch.from_numpy(pixels).to(self.device))
        feature = nn.functional.normalize(found.feature.float(), dim=1).cpu().numpy()
        return feature, None if found.code is None else found.code.float().cpu().numpy()

    def finish(self) -> Model:
        """Measure, choose the fine mode, export. The model directory is complete when model.json
        appears."""
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
        return export.write(
            self.output, self.net.to("cpu"), record, self.run.preprocessing, paths, rotation
        )


def load_net(folder: str | os.PathLike[str]) -> nn.Module:
    """The Net of a trained model directory, with its weights. Raises ModelError or OSError when it
    is not complete."""
    model = Model.load(folder)
    weights = Path(folder) / "model.safetensors"
    if (
        hashlib.sha256(weights.read_bytes()).hexdigest()
        != model.record["weights"]["model.safetensors"]
    ):
        raise ModelError(
            f"{weights} is not the file that model.json describes: copy the model again"
        )
    method = methods.get(model.method)
    backbone, config = (
        backbones.create(model.record["backbone"]),
        method.Config(**model.record["config"]),
    )
    net: nn.Module = method.Net(backbone, config, len(model.record["classes"]))
    net.load_state_dict(load_file(weights))
    return net


def _load_net(net: nn.Module, folder: Path, backbone: str) -> None:
    """Weights of a trained model of `backbone` into `net`, where their shapes fit. Raises
    TrainingError."""
    try:
        theirs = Model.load(folder).record["backbone"]
        state = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError, ModelError) as error:
        raise TrainingError(f"{folder} has no weights to begin from ({error})") from None
    if theirs != backbone:
        raise TrainingError(
            f"{folder} is of the backbone {theirs}, not {backbone}: begin from a model of the "
            "same one"
        )
    own = net.state_dict()
    net.load_state_dict(
        {n: v for n, v in state.items() if n in own and own[n].shape == v.shape}, strict=False
    )


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
