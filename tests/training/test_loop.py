from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.runs import CONFIG, SMALL, command, in_two_processes, losses, weights
from wingbar.data.readers import read_images
from wingbar.data.records import Entry, Images
from wingbar.errors import DataError, ModelError, TrainingError
from wingbar.methods import dlbhc, fish, orthohash
from wingbar.model.model import Model
from wingbar.parallel import no_progress
from wingbar.training import export, loop, run
from wingbar.training.pictures import split
from wingbar.training.run import Recorded, Run


@pytest.mark.slow
def test_a_model_directory_is_left(trained: Path, data: Path) -> None:
    model = Model.load(trained)
    assert (model.method, model.bits, model.dim) == ("dlbhc", 12, 64)
    record = model.record
    assert record["classes"] == ["blue", "green", "red"]
    assert set(record["held_out_map"]) == {"none", "ties", "pool", "asymmetric"}
    assert record["held_out_map"][record["fine"]] == max(record["held_out_map"].values())
    assert record["protocol"] == "folder: all; 3 of 36 training images held out (seed 3)"
    assert {"run", "config", "versions", "parameters", "macs", "git_commit", "weights"} <= set(
        record
    )
    assert sorted(path.name for path in trained.iterdir()) == [
        "model.json",
        "model.onnx",
        "model.safetensors",
        "proof.npz",
        "train",
    ]
    found = model.encode(read_images(data).paths[:5])
    np.testing.assert_allclose(np.linalg.norm(found.features, axis=1), 1, atol=1e-5)


def test_it_learns(trained: Path) -> None:
    found = losses(trained)
    assert len(found) == 3 * (33 // 8)
    assert np.mean(found[-4:]) < np.mean(found[:4])


@pytest.mark.slow
@pytest.mark.usefixtures("exported_before")
def test_the_same_run_again_is_the_same_bit_for_bit(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run.recorded(trained)
    loop.train(found.method, found.data, tmp_path / "again", found.config, found.run)
    assert weights(tmp_path / "again") == weights(trained)
    monkeypatch.setattr(export, "write", lambda *_: None)  # of another run only losses are asked
    other = replace(SMALL, seed=4, epochs=1)
    loop.train(dlbhc, found.data, tmp_path / "other", CONFIG, other)
    assert losses(tmp_path / "other")[:4] != losses(trained)[:4]


@pytest.mark.slow
@pytest.mark.usefixtures("exported_before")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
def test_workers_do_not_change_the_run(trained: Path, data: Path, tmp_path: Path) -> None:
    loop.train(dlbhc, read_images(data), tmp_path / "m", CONFIG, replace(SMALL, workers=2))
    assert weights(tmp_path / "m") == weights(trained)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "write", lambda *_: None)  # not in those processes
    steady = replace(SMALL, freeze_bn=True, epochs=3, clip=0.0, lr=0.01)
    one, two = tmp_path / "one", tmp_path / "two"
    loop.train(dlbhc, read_images(data), one, CONFIG, steady)
    in_two_processes("-m", "wingbar", *command(data, two, run=steady))
    both = [np.array(losses(folder)[:10]) for folder in (one, two)]
    assert len(both[0]) == 10
    np.testing.assert_allclose(both[1], both[0], atol=1e-5)
    assert Model.load(two).bits == 12


@pytest.mark.slow
@pytest.mark.usefixtures("exported_before")
def test_a_loss_that_is_not_finite_stops_with_its_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "m"
    real, calls = dlbhc.Loss.forward, [0]

    def planted(
        self: dlbhc.Loss,
        net: dlbhc.Net,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        rows: torch.Tensor,
    ) -> object:
        calls[0] += 1
        found = real(self, net, pixels, labels, rows)
        return (
            found
            if calls[0] < 6
            else {**found, "classification": found["classification"] * math.nan}
        )

    monkeypatch.setattr(dlbhc.Loss, "forward", planted)
    with pytest.raises(
        TrainingError,
        match=r"'classification' became nan at epoch 1, step 1; the last checkpoint stays",
    ):
        loop.train(dlbhc, read_images(data), output, CONFIG, replace(SMALL, checkpoint_minutes=0.0))
    kept = (output / "train" / "checkpoint.safetensors").read_bytes()
    assert kept
    monkeypatch.setattr(dlbhc.Loss, "forward", real)
    loop.train(
        dlbhc,
        read_images(data),
        output,
        CONFIG,
        replace(SMALL, checkpoint_minutes=0.0),
        resume=True,
    )
    assert Model.load(output).bits == 12


def test_the_rate_by_hand() -> None:
    run = Run(lr=2.0, epochs=11, warmup=1.0)
    assert loop.learning_rate(run, 0.25) == 0.5
    assert loop.learning_rate(run, 1.0) == 2.0
    assert loop.learning_rate(run, 6.0) == pytest.approx(1.0)
    assert loop.learning_rate(run, 11.0) == pytest.approx(0.0)
    steps = Run(lr=1.0, epochs=30, warmup=0.0, schedule="step", step_epochs=10)
    assert [round(loop.learning_rate(steps, e), 6) for e in (0, 9.9, 10, 25)] == [
        1.0,
        1.0,
        0.1,
        0.01,
    ]


@pytest.mark.slow
def test_a_model_may_see_larger_pictures_than_its_training_did(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    model = loop.train(
        dlbhc, read_images(data), tmp_path / "m", CONFIG, replace(SMALL, test_size=40)
    )
    assert model.preprocessing.size == 40
    assert model.encode_pixels(np.zeros((1, 40, 40, 3), np.uint8)).features.shape == (1, 64)
    assert weights(tmp_path / "m") == weights(trained)
    assert model.record["macs"] > Model.load(trained).record["macs"]


@pytest.mark.slow
@pytest.mark.usefixtures("exported_before")
def test_nothing_held_out_measures_nothing(trained: Path, data: Path, tmp_path: Path) -> None:
    still = replace(SMALL, held_out=0.0, epochs=1, lr=1e-12, freeze_bn=True, warmup=0.0)
    model = loop.train(dlbhc, read_images(data), tmp_path / "m", CONFIG, still, start=trained)
    assert model.record["held_out_map"] == {}
    assert model.fine == "ties"


@pytest.mark.slow
@pytest.mark.usefixtures("exported_before")
def test_measuring_on_the_way_does_not_change_the_run(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    loop.train(dlbhc, read_images(data), tmp_path / "m", CONFIG, replace(SMALL, measure_epochs=1))
    assert weights(tmp_path / "m") == weights(trained)
    records = [
        json.loads(line)
        for line in (tmp_path / "m" / "train" / "log.jsonl").read_text().splitlines()
    ]
    assert sum("held_out_map" in record for record in records) == 2


def test_a_gradient_that_is_not_finite_leaves_the_weights(data: Path, tmp_path: Path) -> None:
    images = read_images(data)
    settings = Recorded(dlbhc, CONFIG, SMALL, images, None)
    training = loop.Training(settings, split(images, SMALL, no_progress), tmp_path)
    before = {name: value.clone() for name, value in training.joint.state_dict().items()}
    first = next(training.net.parameters())
    first.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[no-untyped-call]
    with pytest.raises(TrainingError, match=r"'gradient_norm' became nan .* no checkpoint yet"):
        training.train_step(*next(iter(training._loader())))
    for name, value in training.net.named_parameters():
        assert torch.equal(value, before[f"net.{name}"])


@pytest.mark.parametrize("value", [math.nan, 1e38])
def test_a_network_that_is_not_finite_at_the_end_is_named(
    data: Path, tmp_path: Path, value: float
) -> None:
    images = read_images(data)
    settings = Recorded(dlbhc, CONFIG, SMALL, images, None)
    training = loop.Training(settings, split(images, SMALL, no_progress), tmp_path)
    with torch.no_grad():
        for weights in training.net.parameters():
            weights.fill_(value)
    with pytest.raises(TrainingError, match=r"not finite after its last step: .* a lower --lr"):
        training.finish()


def test_a_run_that_cannot_begin_leaves_no_folder(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "m"
    with pytest.raises(ModelError, match="missing"):
        loop.train(
            dlbhc,
            read_images(data),
            output,
            CONFIG,
            replace(SMALL, weights=str(tmp_path / "missing")),
        )
    with pytest.raises(TrainingError, match="no weights to start from"):
        loop.train(dlbhc, read_images(data), output, CONFIG, SMALL, start=tmp_path)
    with pytest.raises(TrainingError, match="the built-in model holds no weights"):
        loop.train(dlbhc, read_images(data), output, CONFIG, SMALL, start="general")
    assert not output.exists()


def test_batches_that_cannot_be_shared_or_normalised(data: Path, tmp_path: Path) -> None:
    images = read_images(data)
    parts = split(images, SMALL, no_progress)
    for batch, world in ((1, 2), (5, 2), (99, 2)):  # 99: all 33
        settings = Recorded(dlbhc, CONFIG, replace(SMALL, batch=batch), images, None)
        with pytest.raises(TrainingError, match=r"cannot share .* a multiple of 2"):
            loop.Training(settings, parts, tmp_path, 0, world)
    of_one = replace(SMALL, batch=1)
    loop.Training(Recorded(dlbhc, CONFIG, of_one, images, None), parts, tmp_path)
    settings = Recorded(orthohash, orthohash.Config(bits=8), of_one, images, None)
    with pytest.raises(TrainingError, match="of one image it cannot: use a larger --batch"):
        loop.Training(settings, parts, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("exported_before")
def test_a_resumed_run_draws_the_same_numbers_and_misses_no_image(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "write", lambda *_: None)  # only losses are asked
    copy = tmp_path / "pictures"
    shutil.copytree(data, copy)
    images, config = read_images(copy), fish.Config(bits=8)
    often = replace(SMALL, checkpoint_minutes=0.0, epochs=2)
    loop.train(fish, images, tmp_path / "whole", config, often)

    def stop(self: loop.Training) -> None:
        if (self.epoch, self.step) == (0, 2):
            raise RuntimeError("stopped")

    output = tmp_path / "m"
    with monkeypatch.context() as patched:
        patched.setattr(loop.Training, "_report", stop)
        with pytest.raises(RuntimeError, match="stopped"):  # after the checkpoint before step 1
            loop.train(fish, images, output, config, often)
    one = Path(images.paths[0])
    content = one.read_bytes()
    one.write_bytes(b"")
    with pytest.raises(TrainingError, match=f"{one.name} could be read when this run began"):
        loop.train(fish, images, output, config, often, resume=True)
    one.write_bytes(content)
    loop.train(fish, images, output, config, often, resume=True)
    assert losses(output) == losses(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.usefixtures("exported_before")
def test_bad_images_are_left_out_and_listed(data: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no")
    entries = [*read_images(data), Entry(tmp_path / "bad.jpg", "red")]
    loop.train(dlbhc, Images(entries, "mixed"), tmp_path / "m", CONFIG, SMALL)
    record = json.loads((tmp_path / "m" / "train" / "run.json").read_text())
    assert [Path(failure["path"]).name for failure in record["failed"]] == ["bad.jpg"]
    assert Model.load(tmp_path / "m").record["trained"]["failed"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("exported_before")
def test_fine_tuning_begins_from_the_model(trained: Path, data: Path, tmp_path: Path) -> None:
    frozen = replace(SMALL, epochs=1, lr=1e-12, freeze_bn=True, warmup=0.0)
    loop.train(dlbhc, read_images(data), tmp_path / "m", CONFIG, frozen, start=trained)
    before, after = (
        export.load_net(trained).state_dict(),
        export.load_net(tmp_path / "m").state_dict(),
    )
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=1e-6)
    assert Model.load(tmp_path / "m").record["start"] == str(trained)
    pretrained = replace(SMALL, weights="imagenet")  # which there are none of, and none are needed
    with pytest.raises(TrainingError, match="no weights to start from"):
        loop.train(dlbhc, read_images(data), tmp_path / "x", CONFIG, pretrained, start=tmp_path)
    Model.load(trained).opened().save(tmp_path / "open")
    with pytest.raises(TrainingError, match="is a variant of a trained model: start from that one"):
        loop.train(dlbhc, read_images(data), tmp_path / "z", CONFIG, SMALL, start=tmp_path / "open")
    large = replace(SMALL, backbone="resnet18")
    with pytest.raises(TrainingError, match="has the backbone resnet8, not resnet18"):
        loop.train(dlbhc, read_images(data), tmp_path / "y", CONFIG, large, start=trained)


def test_the_norm_of_the_gradient_is_that_before_clipping(data: Path, tmp_path: Path) -> None:
    images = read_images(data)
    parts = split(images, SMALL, no_progress)
    pixels = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    norms = []
    for clip in (0.0, 1e-3):
        settings = Recorded(dlbhc, CONFIG, replace(SMALL, clip=clip), images, None)
        training = loop.Training(settings, parts, tmp_path)
        logged = training.train_step(pixels, torch.arange(8) % 3, torch.arange(8))
        norms.append(logged["gradient_norm"])
        gradients = [p.grad for p in training.joint.parameters() if p.grad is not None]
        left = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
        assert left == pytest.approx(clip or norms[0], rel=1e-3)
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert norms[0] > 0.01


def test_depthwise_convolutions_are_float32_in_spite_of_autocast(
    data: Path, tmp_path: Path
) -> None:
    images = read_images(data)
    settings = Recorded(dlbhc, CONFIG, replace(SMALL, precision="bfloat16"), images, None)
    training = loop.Training(settings, split(images, SMALL, no_progress), tmp_path)
    depthwise, whole = torch.nn.Conv2d(8, 8, 3, groups=8), torch.nn.Conv2d(8, 8, 3)
    training.joint = loop._NetAndLoss(depthwise, whole)
    x = torch.randn(2, 8, 6, 6).bfloat16()
    plain = depthwise(x.float()).bfloat16()
    with training._autocast():
        rounded = depthwise(x)
        with training._depthwise_in_float32():
            assert depthwise(x).dtype == whole(x).dtype == torch.bfloat16
            assert torch.equal(depthwise(x), plain)
        assert torch.equal(depthwise(x), rounded)
    assert not torch.equal(rounded, plain)
    assert "forward" not in vars(depthwise)

    in_a_step = []

    class Replica(torch.nn.Module):
        def forward(self, *_: torch.Tensor) -> dict[str, torch.Tensor]:
            in_a_step.append(depthwise(x))
            return {"total": in_a_step[0].float().sum()}

    training.replica = Replica()
    training.train_step(*(torch.zeros(2, dtype=torch.int64),) * 3)
    assert torch.equal(in_a_step[0], plain)


def test_data_and_backbones_that_cannot_be_trained(data: Path, tmp_path: Path) -> None:
    found = read_images(data)
    with pytest.raises(DataError, match="none of 12 images has one: sort them into a folder"):
        loop.train(dlbhc, read_images(data / "red"), tmp_path / "m", CONFIG, SMALL)
    with pytest.raises(TrainingError, match="alexnet needs images of at least 63 pixels"):
        loop.train(dlbhc, found, tmp_path / "n", CONFIG, replace(SMALL, backbone="alexnet"))
    smaller = replace(SMALL, backbone="alexnet", size=64, test_size=62)
    with pytest.raises(TrainingError, match="at least 63 pixels: use a larger --test-size"):
        loop.train(dlbhc, found, tmp_path / "n", CONFIG, smaller)
    with pytest.raises(ModelError, match="no backbone named"):
        loop.train(dlbhc, found, tmp_path / "n", CONFIG, replace(SMALL, backbone="resnet19"))


@pytest.mark.slow
@pytest.mark.usefixtures("exported_before")
def test_the_command_says_what_came_out(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from wingbar.cli import main

    assert main.main(command(data, tmp_path / "m")) == 0
    out = capsys.readouterr().out
    assert "dlbhc, 12 bits" in out
    assert " held-out training images by fine mode: " in out
    assert (
        main.main(["train", "--repeat", str(tmp_path / "m"), "-o", str(tmp_path / "n"), "--json"])
        == 0
    )
    record = json.loads(capsys.readouterr().out)
    keys = {"method", "backbone", "bits", "dim", "classes", "parameters", "macs", "fingerprint"}
    assert keys <= set(record)
    assert (record["classes"], record["bits"], record["backbone"]) == (3, 12, "resnet8")
    assert weights(tmp_path / "m") == weights(tmp_path / "n")
    assert (
        main.main(["index", str(tmp_path / "a.wb"), str(data), "--model", str(tmp_path / "m")]) == 0
    )
    assert main.main(["evaluate", str(tmp_path / "a.wb"), str(data), "--json"]) == 0
    assert main.main(["bench", "encode", str(tmp_path / "m"), str(data), "--json"]) == 0
    bench = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert bench["ratio"] > 0
    assert bench["decode_images_per_second"] > bench["images_per_second"] / 2
    for wrong in (
        ["train", "-o", "x"],
        ["train", "--repeat", "m", "dlbhc", "-o", "x"],
        ["train", "dlbch", "d", "-o", "x"],
    ):
        assert main.main(wrong) == 2
    assert os.listdir(tmp_path) != []


def test_some_methods_learn_from_several_labels_and_the_others_refuse(
    data: Path, tmp_path: Path
) -> None:
    entries = [
        replace(entry, label="a|b" if i % 3 == 0 else "bc"[i % 2])
        for i, entry in enumerate(read_images(data))
    ]
    several = Images(entries, "several", multi_label=True)
    with pytest.raises(DataError, match="dlbhc learns from one label per image"):
        loop.train(dlbhc, several, tmp_path / "m", CONFIG, SMALL)
    assert not (tmp_path / "m").exists()
    settings = Recorded(orthohash, orthohash.Config(bits=8), SMALL, several, None)
    parts = split(several, SMALL, no_progress)
    training = loop.Training(settings, parts, tmp_path / "m")
    pixels, labels, rows = next(iter(training._loader()))
    assert labels.shape == (8, 3)
    assert math.isfinite(training.train_step(pixels, labels, rows)["total"])
    described = run.describe(settings)
    (tmp_path / "m" / "train").mkdir(parents=True)
    (tmp_path / "m" / "train" / "run.json").write_text(json.dumps(described))
    assert run.recorded(tmp_path / "m").data.multi_label
    assert "multi_label" not in run.describe(replace(settings, data=read_images(data)))


@pytest.mark.parametrize(("optimizer", "decay_scale"), [("sgd", 1.0), ("adam", 0.0)])
def test_the_first_step_of_each_optimizer(optimizer: str, decay_scale: float) -> None:
    """SGD goes down the gradient and decays weights; Adam's first step is the rate, whatever the
    gradient (Kingma & Ba, ICLR 2015, Algorithm 1)."""
    weights = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
    weights.grad = torch.tensor([0.5, -0.25])
    group = {"params": [weights], "decay_scale": decay_scale}
    settings = replace(SMALL, optimizer=optimizer, lr=0.1, weight_decay=0.01)
    loop._optimizer([group], settings).step()
    expected = {"sgd": [2 - 0.1 * (0.5 + 0.02), -1 + 0.1 * (0.25 + 0.01)], "adam": [1.9, -0.9]}
    torch.testing.assert_close(weights.detach(), torch.tensor(expected[optimizer]))
