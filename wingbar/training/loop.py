"""The training loop that every method uses: seeds, schedule, mixed precision, several processes.

The seed determines a run: the order of the images and the variation of each depend on (seed, epoch,
row) alone, not on worker processes or on where the run was interrupted, so that a resumed run
continues bit for bit.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from wingbar import images, methods
from wingbar.data.records import Images
from wingbar.errors import DataError, TrainingError, WingbarError, counted, one_line
from wingbar.model.model import Model
from wingbar.networks import backbones
from wingbar.parallel import Progress, no_progress
from wingbar.training import checkpoint, export, held_out
from wingbar.training.checkpoint import Position
from wingbar.training.pictures import Pictures, Split, batches, decoded, split
from wingbar.training.run import Recorded, Run, describe, recorded


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
    continues from the checkpoint in `output`; `start` is the directory of a model of the same
    method and backbone whose weights training begins with (fine-tuning). Under `torchrun` the
    processes share each batch. Images that cannot be read are left out and listed in
    `output/train/run.json`.

    Raises DataError for data that this method or none can be trained on, ModelError for missing
    weights, TrainingError when a loss term or the gradient is not finite (naming it; the last
    checkpoint stays) or `output` holds something else. KeyboardInterrupt ends the current step and
    leaves a checkpoint.
    """
    settings = Recorded(
        method=method,
        config=config or method.Config(),
        run=run or Run(**method.RECIPE),
        data=data,
        start=None if start is None else os.fspath(start),
    )
    _check_labels(method, data)
    output = Path(output)
    described = describe(settings)
    with _processes() as (rank, world):
        if rank == 0:
            checkpoint.claim(output, described, resume)
        report = progress if progress and rank == 0 else no_progress
        training = Training(
            settings, split(data, settings.run, report), output, rank, world, report
        )
        if settings.start is not None:
            export.start_from(training.net, Path(settings.start), settings.run.backbone)
        if resume:
            checkpoint.check_unread(output, training.split)
            training.restore()
        if rank == 0:
            checkpoint.write_run(output, described, training.split)
            checkpoint.truncate_log(output, training.position)
        training.train()
        if rank == 0:
            return training.finish()
    return Model.load(output)


def _check_labels(method: ModuleType, data: Images) -> None:
    """Raise DataError where images have several labels and the method learns from one."""
    name = method.__name__.rsplit(".", 1)[-1]
    if data.multi_label and name not in methods.MULTI_LABEL:
        raise DataError(
            f"{name} learns from one label per image, and these have several: train "
            f"{', '.join(methods.MULTI_LABEL)} on them"
        )


def export_checkpoint(folder: str | os.PathLike[str], progress: Progress | None = None) -> Model:
    """Write a model directory from the last checkpoint of an unfinished run, into the run's folder.

    Raises TrainingError when there is no checkpoint.
    """
    settings = recorded(folder)
    report = progress or no_progress
    parts = split(settings.data, settings.run, report)
    training = Training(settings, parts, Path(folder), progress=report)
    if not training.restore():
        raise TrainingError(
            f"{folder} has no checkpoint yet: let the training run longer, or resume it"
        )
    return training.finish()


def learning_rate(run: Run, epoch: float) -> float:
    """The learning rate at a point of the run, in epochs from its start: linear warm-up, then a
    cosine to zero, or steps."""
    if epoch < run.warmup:
        return run.lr * epoch / run.warmup
    if run.schedule == "step":
        return run.lr * 0.1 ** int(epoch // run.step_epochs)
    done = (epoch - run.warmup) / max(run.epochs - run.warmup, 1e-9)
    return run.lr * 0.5 * (1 + float(np.cos(np.pi * min(done, 1.0))))


class Training:
    """A run in progress: the net, the loss, the optimizer, and which step comes next.

    net, loss: the method's Net and Loss, on `device`.
    epoch, step: the next step, both from 0.
    steps: steps in an epoch.
    """

    def __init__(
        self,
        settings: Recorded,
        split: Split,
        output: Path,
        rank: int = 0,
        world: int = 1,
        progress: Progress = no_progress,
        sources: Sequence[images.Source] | None = None,
    ) -> None:
        """The state before the first step, in process `rank` of `world`. `sources` are the training
        images where they have been decoded before. Raises ModelError for a backbone or weights
        that are missing."""
        self.settings, self.run, self.split, self.output = settings, settings.run, split, output
        self.rank, self.world, self.progress = rank, world, progress
        self.device = _device(rank)
        method, config, run = settings.method, settings.config, settings.run
        classes, items = len(split.classes), len(split.paths)
        batch = min(run.batch, items)
        if batch % world:
            raise TrainingError(
                f"{world} processes cannot share {counted(batch, 'image')} equally: use a --batch "
                f"that is a multiple of {world}"
            )

        torch.manual_seed(run.seed)
        # where it starts from a model, that has the weights
        weights = "none" if settings.start is not None else run.weights
        backbone = backbones.create(run.backbone, weights)
        for flag, side in (("--size", run.size), ("--test-size", run.preprocessing.size)):
            if side < backbone.least:
                raise TrainingError(
                    f"{run.backbone} needs images of at least {backbone.least} pixels: use a "
                    f"larger {flag}"
                )
        self.net: nn.Module = method.Net(backbone, config, classes)
        self.loss: Any = method.Loss(backbone, config, classes, items)
        groups = method.param_groups(self.net, self.loss, config)
        self.joint = _NetAndLoss(self.net, self.loss).to(self.device)
        if batch == world and any(isinstance(m, nn.BatchNorm1d) for m in self.joint.modules()):
            raise TrainingError(
                "this method normalises over the images of a batch, and of one image it cannot: "
                "use a larger --batch"
            )
        self.joint.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = _optimizer(groups, run)
        # what computes a step: `joint` itself, or its replica whose gradients are averaged
        self.replica: nn.Module = self.joint
        if world > 1:
            self.replica = nn.parallel.DistributedDataParallel(self.joint, broadcast_buffers=False)

        if sources is None and run.cache:
            sources = decoded(split.paths, run.cache, progress)
        self.pictures = Pictures(split, run, sources)
        self.epoch = self.step = 0
        self.steps = max(items // run.batch, 1)
        self._saved_at = time.monotonic()

    @property
    def position(self) -> Position:
        """The next step."""
        return Position(self.epoch, self.step)

    def restore(self) -> bool:
        """Continue from the checkpoint; False when there is none. Raises TrainingError when it is
        damaged."""
        position = checkpoint.load(self.output, self.joint, self.optimizer)
        if position is None:
            return False
        self.epoch, self.step = position
        return True

    def train(self) -> None:
        """Take all remaining steps. Checkpoints are written every `checkpoint_minutes`, on Ctrl-C
        and at the end."""
        with _interruptible() as interrupted:
            while self.epoch < self.run.epochs:
                self._train_epoch(interrupted)
        self._save()

    def _train_epoch(self, interrupted: list[bool]) -> None:
        self._set_training_mode()
        for pixels, labels, rows in self._loader():
            losses = self.train_step(pixels, labels, rows)
            rate = self.optimizer.param_groups[0]["lr"]
            self._log({"epoch": self.epoch, "step": self.step, "lr": rate, **losses})
            self.step += 1
            self._report()
            if self.step < self.steps:
                self._checkpoint_if_due(interrupted)
        self.loss.end_epoch()
        self.epoch, self.step = self.epoch + 1, 0
        if self.rank == 0 and self._measures_after_epoch():
            self._log({"epoch": self.epoch, "held_out_map": self.measure().scores})
        self._checkpoint_if_due(interrupted)

    def _set_training_mode(self) -> None:
        self.joint.train()
        if self.run.freeze_bn:
            for module in self.joint.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _loader(self) -> DataLoader[Any]:
        """The rest of the epoch's batches, of each this process's share."""
        shares = batches(
            self.run, len(self.split.paths), self.epoch, self.step, self.rank, self.world
        )
        return DataLoader(
            self.pictures,
            batch_sampler=shares,
            num_workers=self.run.workers,
            worker_init_fn=_start_worker,
            # one of its own: it draws a seed for each pass, also for the rest of one after a resume
            generator=torch.Generator(),
        )

    def train_step(self, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, float]:
        """One step on this process's share of a batch: pixels [B, H, W, 3] uint8, class numbers [B]
        int64, rows [B] int64 -> the loss terms, averaged over the whole batch, and
        "gradient_norm", before clipping.

        Raises TrainingError when a term or the norm is not finite; the weights then stay.
        """
        # a step uses the rate at its end, so that the first one is above zero
        start = self.epoch + self.step / self.steps
        rate = learning_rate(self.run, start + 1 / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        with self._autocast(), self._depthwise_in_float32():
            terms = self.replica(
                pixels.to(self.device), labels.to(self.device), rows.to(self.device)
            )
        losses = self._mean_over_processes(
            {name: float(term.detach()) for name, term in terms.items()}
        )
        self._check_finite(losses)
        self.optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        # without a limit it only measures
        norm = nn.utils.clip_grad_norm_(self.joint.parameters(), self.run.clip or float("inf"))
        measured = {"gradient_norm": float(norm)}
        self._check_finite(measured)
        self.optimizer.step()
        return {**losses, **measured}

    def _autocast(self) -> torch.autocast:
        fast = self.device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        wanted = self.run.precision == "bfloat16" or (self.run.precision == "auto" and fast)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted)

    @contextmanager
    def _depthwise_in_float32(self) -> Iterator[None]:
        """Let depthwise convolutions compute in float32 in spite of autocast on a CPU, where oneDNN
        takes several times as long for their gradients in bfloat16."""
        slow = [] if self.device.type != "cpu" else [*filter(_is_depthwise, self.joint.modules())]
        for convolution in slow:
            convolution.forward = _InFloat32(convolution.forward)
        try:
            yield
        finally:
            for convolution in slow:
                del convolution.forward

    def _mean_over_processes(self, losses: dict[str, float]) -> dict[str, float]:
        """Each term's mean over the processes, whose shares of a batch are equal; all processes get
        the same numbers."""
        if self.world == 1:
            return losses
        values = torch.tensor(list(losses.values()), dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(values)
        return dict(zip(losses, (values / self.world).tolist(), strict=True))

    def _check_finite(self, losses: Mapping[str, float]) -> None:
        for name, value in losses.items():
            if not np.isfinite(value):
                kept = (
                    "the last checkpoint stays"
                    if checkpoint.checkpoint_path(self.output).exists()
                    else "there was no checkpoint yet"
                )
                raise TrainingError(
                    f"{name!r} became {value} at epoch {self.epoch}, step "
                    f"{self.step}; {kept}: try a lower --lr, or --precision float32"
                )

    def _not_finite(self) -> TrainingError:
        """What the last step can make, whose own losses and gradient were finite."""
        return TrainingError(
            f"the network in {self.output} gives numbers that are not finite after its last step: "
            "begin again, in another folder, with a lower --lr"
        )

    def _log(self, record: Mapping[str, Any]) -> None:
        if self.rank == 0:
            checkpoint.append_log(self.output, record)

    def _report(self) -> None:
        done = (self.epoch * self.steps + self.step) * self.run.batch
        self.progress("training", done, self.run.epochs * self.steps * self.run.batch)

    def _measures_after_epoch(self) -> bool:
        """Whether the held-out images are measured now, on the way; `finish` does it at the end."""
        every = self.run.measure_epochs
        due = every > 0 and self.epoch % every == 0 and self.epoch < self.run.epochs
        return due and len(self.split.held_paths) > 0

    def _checkpoint_if_due(self, interrupted: list[bool]) -> None:
        """Write a checkpoint when it is time for one. Raises KeyboardInterrupt, after writing one,
        when Ctrl-C was pressed.

        Of several processes each knows only its share of an epoch until the end of it, so that they
        write checkpoints only then.
        """
        waited = time.monotonic() - self._saved_at
        is_whole = self.world == 1 or self.step == 0
        if is_whole and (interrupted or waited >= 60 * self.run.checkpoint_minutes):
            self._save()
        if interrupted:
            raise KeyboardInterrupt

    def _save(self) -> None:
        if self.rank == 0:
            checkpoint.save(self.output, self.joint, self.optimizer, self.position)
            self._saved_at = time.monotonic()

    def measure(self) -> held_out.Measured:
        """MAP of the held-out images by fine mode, and the rotation of a net without codes."""
        self.net.eval()
        return held_out.measure(
            self._outputs, self.split, self.run, self.settings.config.bits, self.progress
        )

    def _outputs(
        self, pixels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """The net's unit features [B, d] and code logits [B, b], if any, of pixels [B, H, W, 3]."""
        with torch.no_grad(), self._autocast():
            output = self.net(torch.from_numpy(pixels).to(self.device))
        feature = nn.functional.normalize(output.feature.float(), dim=1).cpu().numpy()
        if not np.isfinite(feature).all():
            raise self._not_finite()
        return feature, None if output.code is None else output.code.float().cpu().numpy()

    def finish(self) -> Model:
        """End the training of methods that have a last step, measure, choose the fine mode, export.
        The model directory is complete once model.json appears.

        Raises TrainingError where exporting fails; what was trained is kept.
        """
        if not all(bool(values.isfinite().all()) for values in self.net.parameters()):
            raise self._not_finite()
        if hasattr(self.loss, "end_training"):
            self.loss.end_training(self.net)
        measured = self.measure()
        scores = measured.scores
        described = describe(self.settings)
        record = {
            "name": self.output.resolve().name,
            "fine": measured.fine(is_of_classes=not self.run.instances),
            "held_out_map": {mode: round(value, 6) for mode, value in scores.items()},
            "classes": list(self.split.classes),
            "protocol": self.split.protocol,
            "trained": {
                "epochs": self.epoch,
                "of_epochs": self.run.epochs,
                "steps": self.step,
                "images": len(self.split.paths),
                "failed": len(self.split.failed),
            },
            "held_out": _held_out_record(measured),
            **{key: value for key, value in described.items() if key != "images"},
        }
        try:
            return export.write(
                self.output,
                self.net.to("cpu"),
                record,
                self.run.preprocessing,
                self.split.paths[: export.PARITY_IMAGES],
                measured.rotation,
            )
        except WingbarError:
            raise
        except Exception as error:
            raise TrainingError(
                f"{self.output} is trained and kept, but could not be exported "
                f"({type(error).__name__}: {one_line(error)}): the same command with --resume "
                "tries again"
            ) from error


def _held_out_record(measured: held_out.Measured) -> dict[str, Any]:
    """What a model's record says of the searches that its scores are of; {} where none were."""
    if measured.searches is None:
        return {}
    usage = measured.usage
    codes = {} if usage is None else {"unique_codes": usage.unique, "constant_bits": usage.constant}
    return {**measured.searches._asdict(), **codes}


class _NetAndLoss(nn.Module):
    """Net and loss as one module, as DistributedDataParallel needs them."""

    def __init__(self, net: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.loss(self.net, pixels, labels, rows)
        return terms


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1


class _InFloat32:
    """A module's forward, computed in float32 and returned as what it is given."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.forward = forward

    def __call__(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.forward(x.float()).to(x.dtype)


def _device(rank: int) -> torch.device:
    """A GPU for each process, in turn, where there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda", rank % torch.cuda.device_count())
    return torch.device("cpu")


def _optimizer(groups: list[dict[str, Any]], run: Run) -> torch.optim.Optimizer:
    """SGD or Adam over a method's parameter groups."""
    decaying = [
        {**group, "weight_decay": run.weight_decay * group["decay_scale"]} for group in groups
    ]
    if run.optimizer == "adam":
        return torch.optim.Adam(decaying, lr=run.lr)
    return torch.optim.SGD(decaying, lr=run.lr, momentum=run.momentum, nesterov=run.nesterov)


@contextmanager
def _processes() -> Iterator[tuple[int, int]]:
    """Rank and number of the processes that `torchrun` started; 0 and 1 without it."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield torch.distributed.get_rank(), torch.distributed.get_world_size()
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def _interruptible() -> Iterator[list[bool]]:
    """A list that stays empty until Ctrl-C is pressed; pressed twice, it interrupts at once."""
    pressed: list[bool] = []

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)

    try:
        before = signal.signal(signal.SIGINT, on_interrupt)
    except ValueError:  # not in the main thread, which alone receives signals
        yield pressed
        return
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker(worker: int) -> None:
    """Let a worker process ignore Ctrl-C, which reaches it too: it ends with its loader."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
