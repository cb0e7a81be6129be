"""A small training run, as the tests of training start it in this process and from the shell."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from wingbar.methods import cmbh, dlbhc
from wingbar.training.run import Run

CONFIG = dlbhc.Config(bits=12, latent_std=0.1, latent_bias=0.0)
SMALL = Run(
    backbone="resnet8",
    weights="none",
    size=32,
    epochs=3,
    batch=8,
    lr=0.05,
    workers=0,
    precision="float32",
    held_out=0.1,
    seed=3,
)


def weights(folder: Path) -> bytes:
    """The weights of a finished run."""
    return (folder / "model.safetensors").read_bytes()


def losses(folder: Path) -> list[float]:
    """The total loss of each logged step."""
    lines = (folder / "train" / "log.jsonl").read_text().splitlines()
    return [record["total"] for record in map(json.loads, lines) if "total" in record]


def command(
    data: Path,
    output: Path,
    *more: str,
    method: str = "dlbhc",
    config: dlbhc.Config | cmbh.Config = CONFIG,
    run: Run = SMALL,
) -> list[str]:
    """`wingbar train METHOD` with the flags of `config` and `run`."""
    flags: list[str] = []
    for name, value in {**asdict(config), **asdict(run)}.items():
        flag = name.replace("_", "-")
        flags += (
            [f"--{'' if value else 'no-'}{flag}"]
            if isinstance(value, bool)
            else [f"--{flag}", str(value)]
        )
    return ["train", method, str(data), "-o", str(output), *flags, *more]


def in_two_processes(*program: str) -> None:
    """A script or, behind "-m", a module with its arguments, run by torchrun as two processes."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, *program],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """`wingbar` with these arguments, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "wingbar", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
