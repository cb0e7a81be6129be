from __future__ import annotations

import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.runs import CONFIG, SMALL, command, losses, start, weights
from wingbar.data.readers import read_images
from wingbar.errors import TrainingError
from wingbar.methods import csq, dlbhc
from wingbar.training import checkpoint, export, loop
from wingbar.training.checkpoint import Position


@pytest.mark.slow
@pytest.mark.usefixtures("exported_before")
def test_killed_at_any_step_and_resumed_it_is_the_same_bit_for_bit(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "m"
    often = replace(SMALL, checkpoint_minutes=0.0)
    arguments = command(data, output, run=often)
    rng = np.random.default_rng(5)
    for attempt in range(2):
        process = start([*arguments, *(["--resume"] if attempt else [])])
        log = output / "train" / "log.jsonl"
        goal = (len(losses(output)) if log.exists() else 0) + int(rng.integers(1, 4))
        deadline = time.monotonic() + 120
        while (
            process.poll() is None
            and time.monotonic() < deadline
            and not (log.exists() and len(losses(output)) >= goal)
        ):
            time.sleep(0.005)
        process.kill()
        process.communicate()
    assert not (output / "model.json").exists(), "it finished before it was killed"
    loop.train(dlbhc, read_images(data), output, CONFIG, often, resume=True)
    assert weights(output) == weights(trained)
    assert losses(output) == losses(trained)


@pytest.mark.slow
@pytest.mark.usefixtures("exported_before")
def test_ctrl_c_ends_the_step_and_leaves_a_checkpoint(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "m"
    arguments = command(data, output)
    process = start(arguments)
    deadline = time.monotonic() + 120
    while not (output / "train" / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert (output / "train" / "checkpoint.safetensors").exists()
    exported = start(["export", str(output), "--json"])
    text, error = exported.communicate(timeout=300)
    assert exported.returncode == 0, error
    assert json.loads(text)["bits"] == 12
    known = json.loads(text)["trained"]
    assert known["of_epochs"] == SMALL.epochs
    assert known["epochs"] < SMALL.epochs
    copy = shutil.copytree(output, tmp_path / "copy")
    free = replace(SMALL, workers=1, checkpoint_minutes=9.0, measure_epochs=1)
    loop.train(dlbhc, read_images(data), copy, CONFIG, free, resume=True)
    assert weights(copy) == weights(trained)
    again = start(["train", "--resume", "-o", str(output)])  # by the settings that it recorded
    _, error = again.communicate(timeout=300)
    assert again.returncode == 0, error
    known = json.loads((output / "model.json").read_text())["trained"]
    assert (known["epochs"], known["steps"]) == (SMALL.epochs, 0)
    assert weights(output) == weights(trained)


@pytest.mark.slow
@pytest.mark.usefixtures("exported_before")
def test_an_export_that_fails_loses_no_training(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, output = read_images(data), tmp_path / "m"

    def fail(*_: object) -> bytes:
        raise AttributeError("no such thing\nin this PyTorch")

    with monkeypatch.context() as patch:
        patch.setattr(export, "to_onnx", fail)
        with pytest.raises(
            TrainingError, match=r"kept, .* \(AttributeError: no such thing.*resume"
        ):
            loop.train(dlbhc, images, output, CONFIG, SMALL)
    assert not (output / "model.json").exists()
    before = losses(output)
    loop.train(dlbhc, images, output, CONFIG, SMALL, resume=True)
    assert losses(output) == before
    assert weights(output) == weights(trained)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "write", lambda *_: None)
    output = tmp_path / "m"
    loop.train(dlbhc, read_images(data), output, CONFIG, replace(SMALL, epochs=1))
    (output / "train" / "checkpoint.safetensors").write_bytes(b"gone")
    with pytest.raises(TrainingError, match=r"checkpoint\.safetensors cannot be read"):
        loop.train(dlbhc, read_images(data), output, CONFIG, replace(SMALL, epochs=1), resume=True)


@pytest.mark.slow
def test_a_folder_that_holds_something_else_is_refused(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    found = read_images(data)
    with pytest.raises(TrainingError, match="is not empty: add --resume"):
        loop.train(dlbhc, found, trained, CONFIG, SMALL)
    with pytest.raises(TrainingError, match="nowhere holds no run: there is no"):
        loop.train(dlbhc, found, tmp_path / "nowhere", CONFIG, SMALL, resume=True)
    lr, bits = SMALL.lr, CONFIG.bits
    other = replace(SMALL, lr=1.0, seed=7)
    with pytest.raises(TrainingError, match=f"was started with lr {lr}, not 1.0; seed 3, not 7: "):
        loop.train(dlbhc, found, trained, CONFIG, other, resume=True)
    with pytest.raises(TrainingError, match=f"with bits {bits}, not {bits + 1}: resume it with"):
        loop.train(dlbhc, found, trained, replace(CONFIG, bits=bits + 1), SMALL, resume=True)
    with pytest.raises(TrainingError, match="with method dlbhc, not csq: resume it with"):
        loop.train(csq, found, trained, csq.Config(bits=bits), SMALL, resume=True)
    with pytest.raises(TrainingError, match="with cache 0, not 99: resume it with"):
        loop.train(dlbhc, found, trained, CONFIG, replace(SMALL, cache=99), resume=True)
    fewer = replace(found, entries=found.entries[1:])
    with pytest.raises(TrainingError, match=r"with other images, as .*000\.jpg: resume it with"):
        loop.train(dlbhc, fewer, trained, CONFIG, SMALL, resume=True)


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_told(trained: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(trained, tmp_path / "m")
    record = json.loads((copy / "train" / "run.json").read_text())
    record["config"]["bits"] += 4
    (copy / "train" / "run.json").write_text(json.dumps(record))
    with pytest.raises(TrainingError, match=r"checkpoint\.safetensors is of another network than"):
        loop.export_checkpoint(copy)


@pytest.mark.slow
def test_a_run_of_another_version_is_refused_by_what_it_lacks_or_has(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    for strange in ("momentum", "magnetism"):
        output = tmp_path / strange
        (output / "train").mkdir(parents=True)
        record = json.loads((trained / "train" / "run.json").read_text())
        if record["run"].pop(strange, None) is None:
            record["run"][strange] = 3
        (output / "train" / "run.json").write_text(json.dumps(record))
        with pytest.raises(TrainingError, match=f"another version .* differs in {strange}: finish"):
            loop.train(dlbhc, read_images(data), output, CONFIG, SMALL, resume=True)


def test_a_damaged_record_of_a_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "run.json").write_text("{")
    with pytest.raises(TrainingError, match=r"run\.json cannot be read .*: begin another run"):
        checkpoint.claim(tmp_path, {}, resume=True)
    (tmp_path / "train" / "run.json").write_text('{"method": "csq"}')
    now = {"method": "csq", "config": {}, "run": {"lr": 1.0}}
    with pytest.raises(TrainingError, match="another version of wingbar, which differs in lr"):
        checkpoint.claim(tmp_path, now, resume=True)


@pytest.mark.slow
def test_a_run_without_a_checkpoint_cannot_be_exported(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "new" / "train").mkdir(parents=True)
    (tmp_path / "new" / "train" / "run.json").write_bytes(
        (trained / "train" / "run.json").read_bytes()
    )
    with pytest.raises(TrainingError, match="no checkpoint yet"):
        loop.export_checkpoint(tmp_path / "new")


def test_the_log_is_truncated_at_the_checkpoint(tmp_path: Path) -> None:
    """What was logged after it, and a line that was not written whole, are dropped."""
    (tmp_path / "train").mkdir()
    places: list[dict[str, object]] = [
        {"epoch": 0, "step": 0},
        {"epoch": 0, "step": 1},
        {"epoch": 1, "held_out_map": {}},  # measured at the end of epoch 0
        {"epoch": 1, "step": 0},
        {"epoch": 1, "step": 1},
    ]
    for place in places:
        checkpoint.append_log(tmp_path, place)
    log = tmp_path / "train" / "log.jsonl"
    with log.open("a") as file:
        file.write('{"epoch": 0, "st')
    for position, kept in (((1, 1), 4), ((1, 0), 3), ((0, 1), 1)):
        checkpoint.truncate_log(tmp_path, Position(*position))
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [{**line, "time": 0} for line in lines] == [{**p, "time": 0} for p in places[:kept]]
