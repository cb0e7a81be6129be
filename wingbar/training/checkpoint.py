"""Checkpoints and the files of a run's folder."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from wingbar.errors import TrainingError
from wingbar.files import write_whole
from wingbar.training.pictures import Parts


def _unwrapped(module: nn.Module) -> nn.Module:
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module


def _claim(output: Path, described: Mapping[str, Any], resume: bool) -> None:
    """Refuse a folder that holds something else than the run to go on with."""
    there = output / "train" / "run.json"
    if resume:
        if not there.is_file():
            raise TrainingError(f"{output} holds no run to resume")
        before = json.loads(there.read_text())
        changed = [key for key in described if described[key] != before.get(key)]
        if changed:
            raise TrainingError(
                f"{output} was started with another {', '.join(changed)}: resume with the same "
                "flags"
            )
    elif output.exists() and any(output.iterdir()):
        raise TrainingError(
            f"{output} is not empty: add --resume to go on with it, or name another folder"
        )
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


def _forget_log_after(path: Path, epoch: int, step: int) -> None:
    """Drop what was logged after the checkpoint, which will be logged again."""
    if path.is_file():
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
        kept = [line for line in lines if _place(json.loads(line)) < (epoch, step)]
        write_whole(path, "".join(line + "\n" for line in kept).encode())


def _place(record: Mapping[str, Any]) -> tuple[int, float]:
    return (
        (record["epoch"], record["step"])
        if "step" in record
        else (record["epoch"] - 1, float("inf"))
    )


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
