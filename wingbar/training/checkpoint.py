"""Read and write the files of a run's folder: the checkpoint, run.json and the log.

A checkpoint holds everything that the next step depends on, so that a resumed run continues bit for
bit. It is one safetensors file whose tensors are named

- `both.NAME`: parameters and buffers of the net and the loss,
- `optimizer.I.NAME`: the optimizer's state of its parameter number I,
- `generator`, and `generator_cuda` on a GPU: the states of PyTorch's random generators;

the next step stands in its metadata.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from wingbar.errors import TrainingError
from wingbar.files import write_whole
from wingbar.training.pictures import Split
from wingbar.training.run import read_record, record_path

# flags that change how a run is carried out, and not a bit of what it learns
_FREE = ("workers", "checkpoint_minutes", "measure_epochs")


class Position(NamedTuple):
    """The next step of a run.

    epoch: passes over the training images that are complete, from 0.
    step: steps of the current epoch that are complete, from 0.
    """

    epoch: int
    step: int


def checkpoint_path(output: Path) -> Path:
    """Where the run in the folder `output` keeps its checkpoint."""
    return output / "train" / "checkpoint.safetensors"


def save(
    output: Path, joint: nn.Module, optimizer: torch.optim.Optimizer, position: Position
) -> None:
    """Replace the checkpoint of the run in `output`. `joint` holds the net and the loss.

    Raises OSError and leaves the old checkpoint whole when it cannot be written.
    """
    tensors = {f"both.{name}": value for name, value in joint.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{i}.{name}": value
            for name, value in state.items()
            if isinstance(value, Tensor)
        }
    tensors["generator"] = torch.get_rng_state()
    if next(joint.parameters()).is_cuda:
        tensors["generator_cuda"] = torch.cuda.get_rng_state()
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    place = {"place": f"{position.epoch} {position.step}"}
    write_whole(checkpoint_path(output), to_safetensors(contiguous, place))


def load(output: Path, joint: nn.Module, optimizer: torch.optim.Optimizer) -> Position | None:
    """Restore net, loss, optimizer and random generator from the checkpoint in `output`, and return
    the next step; None, and nothing is changed, when there is no checkpoint yet.

    Raises TrainingError when the checkpoint is damaged or of another network.
    """
    path = checkpoint_path(output)
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
            position = Position(*map(int, file.metadata()["place"].split()))
    except SafetensorError as error:
        raise TrainingError(f"{path} cannot be read ({error}): delete it to start again") from None
    both = {
        name.removeprefix("both."): value
        for name, value in tensors.items()
        if name.startswith("both.")
    }
    try:
        joint.load_state_dict(both)
    except RuntimeError:
        raise TrainingError(
            f"{path} is of another network than {record_path(output)} describes: begin another "
            "run, in another folder"
        ) from None
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".", 2)
            state.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    torch.set_rng_state(tensors["generator"])
    if "generator_cuda" in tensors and next(joint.parameters()).is_cuda:
        torch.cuda.set_rng_state(tensors["generator_cuda"])
    return position


def claim(output: Path, described: Mapping[str, Any], resume: bool) -> None:
    """Check that the folder `output` can take the run that `described` describes (`run.describe`);
    nothing is written.

    Raises TrainingError when the folder is not empty, or, with `resume`, when it does not hold the
    same run.
    """
    if resume:
        _require_same(output, read_record(output), described)
    elif output.exists() and any(output.iterdir()):
        raise TrainingError(
            f"{output} is not empty: add --resume to continue the run in it, or name another folder"
        )


def _require_same(output: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise TrainingError, naming what differs, where the run `before` of the folder `output` is
    not the run `now`; flags that change nothing in what is learned may differ."""
    if before.get("method") != now["method"]:
        differ = [f"method {before.get('method')}, not {now['method']}"]
    else:
        was, asked = ({**run.get("config", {}), **run.get("run", {})} for run in (before, now))
        if strange := sorted(was.keys() ^ asked.keys()):
            raise TrainingError(
                f"{output} was started by another version of wingbar, which differs in "
                f"{', '.join(strange)}: finish it with that version, or begin another run"
            )
        differ = [
            f"{key} {was[key]}, not {asked[key]}"
            for key in was
            if was[key] != asked[key] and key not in _FREE
        ]
    rest = [key for key in now if key not in ("method", "config", "run")]
    differ += [
        f"other images, as {_first_image(before)}" if key == "images" else f"other {key}"
        for key in rest
        if now[key] != before.get(key)
    ]
    if differ:
        raise TrainingError(
            f"{output} was started with {'; '.join(differ)}: resume it with the flags that it was "
            "started with"
        )


def _first_image(described: Mapping[str, Any]) -> str:
    """The path of the first image of a run."""
    return next((str(path) for path, _ in described.get("images", [])), "none")


def check_unread(output: Path, split: Split) -> None:
    """Raise TrainingError where other images cannot be read than when the run in `output` began:
    what it has learned of each image is kept by its number among those that can."""
    before = {failure["path"] for failure in read_record(output).get("failed", [])}
    now = {failure.path: failure.reason for failure in split.failed}
    for path in sorted(now.keys() - before):
        raise TrainingError(
            f"{path} could be read when this run began, and now it cannot ({now[path]}): put it "
            "back and resume, or begin another run"
        )
    for path in sorted(before - now.keys()):
        raise TrainingError(
            f"{path} could not be read when this run began, and now it can: take it away and "
            "resume, or begin another run"
        )


def write_run(output: Path, described: Mapping[str, Any], split: Split) -> None:
    """Record the run in run.json, in a folder of its own: its description and the images it trains
    on. Raises OSError."""
    record = {
        **described,
        "protocol": split.protocol,
        "classes": list(split.classes),
        "held_out": list(split.held_paths),
        "failed": [asdict(failure) for failure in split.failed],
    }
    record_path(output).parent.mkdir(parents=True, exist_ok=True)
    write_whole(record_path(output), json.dumps(record, indent=1).encode())


def append_log(output: Path, record: Mapping[str, Any]) -> None:
    """Append `record` and the time, in seconds since 1970, to log.jsonl. Raises OSError."""
    with _log_path(output).open("a", encoding="utf-8") as file:
        file.write(json.dumps({**record, "time": round(time.time(), 2)}) + "\n")


def truncate_log(output: Path, position: Position) -> None:
    """Drop what was logged after the checkpoint at `position`: a resumed run logs it again."""
    path = _log_path(output)
    if path.is_file():
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
        kept = [line for line in lines if _logged_at(json.loads(line)) < position]
        write_whole(path, "".join(line + "\n" for line in kept).encode())


def _logged_at(record: Mapping[str, Any]) -> tuple[int, float]:
    """Epoch and step of a log record; a record without a step ends its epoch."""
    if "step" in record:
        return record["epoch"], record["step"]
    return record["epoch"] - 1, float("inf")


def _log_path(output: Path) -> Path:
    return output / "train" / "log.jsonl"
