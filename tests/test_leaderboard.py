"""The leaderboard of benchmarks/: its order, its figures, its end in time, and its page."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import write_classes
from wingbar.evaluation.metrics import ap_bounds, expected_ap
from wingbar.methods import NAMES

FILE = Path(__file__).parent.parent / "benchmarks" / "leaderboard.py"


@pytest.fixture(scope="module")
def board() -> Any:
    sys.path.append(str(FILE.parent))  # for the scripts that it imports
    spec = importlib.util.spec_from_file_location("leaderboard", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["leaderboard"] = module
    spec.loader.exec_module(module)
    return module


def test_an_early_end_leaves_a_fair_comparison(board: Any) -> None:
    every = [*board.TRAINED, *board.FITTED]
    assert set(NAMES) <= set(every)
    cells = list(board.cells_of(["a/one", "two"], every, [12, 48, 24, 32], [0]))
    n = len(every)
    groups = [cells[i : i + n] for i in range(0, len(cells), n)]
    assert all([cell.method for cell in group] == every for group in groups)
    assert [(g[0].data, g[0].bits, g[0].classes) for g in groups] == [
        ("a/one", 12, "all"),
        ("a/one", 48, "all"),
        ("a/one", 48, "seen"),
        ("two", 12, "all"),
        ("two", 48, "all"),
        ("two", 48, "seen"),
        ("a/one", 24, "all"),
        ("a/one", 32, "all"),
        ("a/one", 12, "seen"),
        ("two", 24, "all"),
        ("two", 32, "all"),
        ("two", 12, "seen"),
    ]
    assert len({cell.name for cell in cells}) == len(cells)
    assert cells[0].name == f"one-all-12-{every[0]}-0"
    judged = [cell.name for cell in board.cells_of(["a/one"], ["lsh", "csq"], [48], [1], [0.01, 1])]
    assert judged == ["one-all-48-csq-1-0.01", "one-all-48-csq-1-1"]
    some = board.cells_of(["a"], ["csq"], [12, 48, 24], [0], classes=["all"])
    assert [cell.bits for cell in some] == [12, 48, 24]
    some = board.cells_of(["a"], ["csq"], [24, 32], [0], classes=["seen"])
    assert [(cell.bits, cell.classes) for cell in some] == [(24, "seen"), (32, "seen")]
    judged = [cell.name for cell in board.cells_of(["a"], ["cmbh-B"], [12], [0], [0.1])]
    assert judged == ["a-all-12-cmbh-B-0-0.1"]


def test_cells_of_another_budget_are_refused(board: Any, tmp_path: Path) -> None:
    budget = {"backbone": "resnet8", "size": 32, "test_size": 32, "epochs": 1, "batch": 8}
    (tmp_path / "a-all-12-csq-0.json").write_text(json.dumps({"run": {**budget, "mirror": True}}))
    asked = {"weights": "none", "mirror": True, "workers": 0, **budget, "epochs": 2, "size": 64}
    data = {"data": [str(written(tmp_path / "a"))], "rates": [], "classes": ["all"]}
    chosen = {"methods": ["itq", "csq"], "bits": [12], "seeds": [0]}
    args = argparse.Namespace(out=tmp_path, device="cpu", **data, **chosen, **asked)
    with pytest.raises(SystemExit, match=r"with size 32, not 64, epochs 1, not 2: name another"):
        board.run(args)


def written(folder: Path, each: int = 3) -> Path:
    """A small data set with parts, in a folder."""
    for part in ("train", "val"):
        write_classes(folder / part, each)
    return folder


def asked(out: Path, *data: Path, classes: tuple[str, ...] = ("all",)) -> argparse.Namespace:
    """What `run` is asked for: cells of ITQ."""
    flags = {"device": "cpu", "rates": [], "classes": classes, "jobs": 1, "time_limit": 0}
    chosen = {"methods": ["itq"], "bits": [8], "seeds": [0], "data": list(map(str, data))}
    return argparse.Namespace(out=out, **flags, **chosen)


def test_data_sets_that_no_cell_could_use_are_refused_before_any_starts(
    board: Any, tmp_path: Path
) -> None:
    one, other = written(tmp_path / "a" / "birds"), written(tmp_path / "b" / "birds", 4)
    with pytest.raises(SystemExit, match="--data names birds twice"):
        board.run(asked(tmp_path / "out", one, other))
    with pytest.raises(SystemExit, match="give it by its name"):
        board.run(asked(tmp_path / "out", Path()))
    with pytest.raises(SystemExit, match="brids"):
        board.run(asked(tmp_path / "out", tmp_path / "a" / "brids"))
    write_classes(tmp_path / "alone" / "train", 2)
    for name in ("red", "blue"):
        shutil.rmtree(tmp_path / "alone" / "train" / name)
    shutil.copytree(tmp_path / "alone" / "train", tmp_path / "alone" / "val")
    with pytest.raises(SystemExit, match="are of 1 class: two are needed"):
        board.run(asked(tmp_path / "out", tmp_path / "alone"))
    with pytest.raises(SystemExit, match="has one class"):
        board.run(asked(tmp_path / "out", tmp_path / "alone", classes=("seen",)))
    assert not (tmp_path / "out").exists()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SystemExit, match="file cannot hold the cells"):
        board.run(asked(file, one))


def test_cells_of_other_images_are_refused(board: Any, tmp_path: Path) -> None:
    one, other = written(tmp_path / "a" / "birds"), written(tmp_path / "b" / "birds", 4)
    out = tmp_path / "out"
    out.mkdir()
    cell = out / "birds-all-8-itq-0.json"
    cell.write_text(json.dumps({"images": board._images_of(board.read_dataset(one))}))
    board.run(asked(out, one))  # which is done
    with pytest.raises(SystemExit, match=r"is of other images than .*/b/birds has"):
        board.run(asked(out, other))
    cell.write_text("{")
    with pytest.raises(SystemExit, match=r"birds-all-8-itq-0\.json is damaged"):
        board.run(asked(out, one))


def test_a_copy_has_the_images_of_its_source(board: Any, tmp_path: Path) -> None:
    one, other = written(tmp_path / "a"), written(tmp_path / "b")
    for path in [*other.rglob("*.jpg")]:
        path.rename(path.with_name(f"copy{path.name}"))
    same, another = (board._images_of(board.read_dataset(folder)) for folder in (one, other))
    assert same == another
    assert same["train"] == 9
    path = next((other / "train" / "red").iterdir())
    path.rename(other / "train" / "blue" / "moved.jpg")  # as many, of other labels
    assert board._images_of(board.read_dataset(other)) != same


def test_rates_of_classes_never_seen_are_refused(board: Any, tmp_path: Path) -> None:
    args = argparse.Namespace(out=tmp_path, device="cpu", rates=[0.1], classes=["seen"])
    with pytest.raises(SystemExit, match="judged on all classes"):
        board.run(args)


def test_variants_of_cmbh_are_its_settings_but_for_what_they_change(board: Any) -> None:
    whole = board.SETTINGS["cmbh"].config
    assert list(board.VARIANTS) == ["cmbh-B", "cmbh-B+L", "cmbh-B+L+T", "cmbh-fused"]
    assert board.SETTINGS["cmbh-B+L+T"].config == {**whole, "regions": 0}
    assert board.SETTINGS["cmbh-fused"].config == {**whole, "fused": True}
    assert not set(board.VARIANTS) & set(board.TRAINED)  # only for who names them


def test_rates_are_judged_on_training_images(board: Any, tmp_path: Path) -> None:
    for part, each in (("train", 11), ("val", 3)):
        write_classes(tmp_path / part, each, first_seed=100 * each)
    (tmp_path / "train" / "alone").mkdir()
    (tmp_path / "train" / "red" / "000.jpg").rename(tmp_path / "train" / "alone" / "000.jpg")
    own = board.within_training(board.read_dataset(tmp_path))
    names = [[path.relative_to(tmp_path) for path in part.paths] for part in (own.query, own.train)]
    assert {path.parts[0] for part in names for path in part} == {"train"}
    assert [path.parts[1] for path in names[0]] == ["blue", "blue", "green", "green", "red"]
    assert len(names[1]) == 33 - 5
    assert [path.parts[1] for path in names[1]].count("alone") == 1
    assert not set(names[0]) & set(names[1])
    assert own.gallery == own.train


def test_figures_by_brute_force(board: Any) -> None:
    rng = np.random.default_rng(0)

    def side(n: int) -> Any:
        labels = rng.integers(0, 3, n)
        codes = np.where(rng.random((n, 6)) < 0.3 + 0.2 * labels[:, None], 1, -1)
        features = rng.standard_normal((n, 4)) + labels[:, None]
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        names = np.array(list("abc"))[labels]
        return board.Side(codes.astype(np.float32), unit.astype(np.float32), names)

    query, gallery = side(8), side(30)
    found = board.scored(query, gallery)
    majority = {c: np.where(gallery.codes[gallery.labels == c].sum(0) >= 0, 1, -1) for c in "abc"}
    of_labels = np.array([majority[c] for c in gallery.labels])
    aps, labels, features, precision = [], [], [], []
    for code, feature, label in zip(*query, strict=True):
        relevant = gallery.labels == label
        distance = (code != gallery.codes).sum(1)
        aps.append(ap_bounds(distance, relevant))
        labels.append(expected_ap((code != of_labels).sum(1), relevant))
        features.append(expected_ap(-(gallery.features @ feature), relevant))
        near = distance <= 2
        precision.append(relevant[near].mean() if near.any() else 0)
    expected = [*np.mean(aps, 0), np.mean(labels), np.mean(features), np.mean(precision)]
    names = ("map", "map_low", "map_high", "map_labels", "feature_map", "precision_radius_2")
    np.testing.assert_allclose([found[name] for name in names], expected, atol=1e-5)
    assert found["unique_codes"] == len(np.unique(gallery.codes, axis=0))
    assert (found["queries"], found["gallery"], found["classes"]) == (8, 30, 3)


def test_cells_that_are_there_stay_and_the_time_ends(
    board: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []

    def start(cell: Any, args: argparse.Namespace) -> subprocess.Popen[bytes]:
        started.append(cell.name)
        seconds = "30" if cell.method == "csq" else "0"
        return subprocess.Popen(["sleep", seconds], start_new_session=True)

    monkeypatch.setattr(board, "_start", start)
    (tmp_path / "d-all-12-dlbhc-0.json").write_text("{}")
    args = argparse.Namespace(
        out=tmp_path,
        data=[str(written(tmp_path / "d"))],
        methods=["dlbhc", "crh", "csq"],
        bits=[12],
        seeds=[0],
    )
    args.device, args.jobs, args.time_limit = "cpu", 2, 1.0
    args.rates, args.classes = [], board.CLASSES
    begin = time.monotonic()
    board.run(args)
    assert time.monotonic() - begin < 5
    assert started[:2] == ["d-all-12-crh-0", "d-all-12-csq-0"]
    assert "d-all-12-dlbhc-0" not in started
    out = capsys.readouterr().out
    assert "d-all-12-crh-0 done" in out
    assert "0 failed" in out
    assert "run again to go on" in out


def record(method: str, classes: str, value: float) -> dict[str, Any]:
    """A cell, as far as the page reads it."""
    scores = {
        **dict.fromkeys(("map", "map_low", "map_high", "map_labels", "feature_map"), value),
        **dict.fromkeys(("argmax_map", "precision_radius_2", "empty_radius_2"), value / 2),
        **{"queries": 9, "gallery": 99, "classes": 3, "unique_codes": 5},
    }
    parts = ("all",) if classes == "all" else ("seen", "unseen", "unseen_among_all")
    return {
        **{"data": "birds", "method": method, "bits": 12, "classes": classes, "seed": 0},
        **{
            "protocol": "p",
            "command": f"run x --methods {method} y --time-limit={value} --bits 12",
            "commit": "abc",
            "date": "2026-11-26",
        },
        **{"machine": {"gpu": None, "cpu": "some CPU"}, "jobs_at_once": 2},
        "encoded_images_per_second": 70.0,
        "scores": dict.fromkeys(parts, scores),
    }


def test_the_page_ranks_what_was_measured(
    board: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="has no cells"):
        board.table(argparse.Namespace(out=tmp_path, text=None))
    budget = {"backbone": "b", "epochs": 3, "batch": 8, "size": 64, "test_size": 80}
    judged = {"run": budget, "command": "learn it", "machine": {"gpu": None, "cpu": "other"}}
    for i, cell in enumerate(
        [
            record("csq", "all", 0.5),
            record("crh", "all", 0.75),
            {**record("crh", "seen", 0.25), "machine": {"gpu": "a GPU", "cpu": "x"}},
            {**record("csq", "all", 0.125), "rate": 0.01, **judged},
            {**record("csq", "all", 0.375), "rate": 0.1, **judged},
            {**record("crh", "all", 0.625), "rate": 0.01, **judged},
        ]
    ):
        (tmp_path / f"{i}.json").write_text(json.dumps(cell))
    for bits in (12, 24):
        refused = {"data": "birds", "method": "itq_cca", "bits": bits, "classes": "all"}
        cell = {**refused, "reason": f"too many bits: {bits}"}
        (tmp_path / f"none{bits}.json").write_text(json.dumps(cell))
    board.table(argparse.Namespace(out=tmp_path, text=None))
    page = capsys.readouterr().out
    assert page.index("| crh | **0.750** (0.750, 0.750) | <sub>0.750</sub>") < page.index(
        "| csq | **0.500** (0.500, 0.500) | <sub>0.500</sub>"
    )
    assert "| crh | 0.250 | **0.250** (0.250, 0.250) | 0.250 | 0.250 | - | - | - |" in page
    assert "9 queries, 99 items to train on and to search. b, 3 epochs of batch 8" in page
    assert "| method | 0.01 | 0.1 |\n|---|---|---|\n| crh | 0.625 | - |\n" in page
    assert "| csq | 0.125 | **0.375** |\n" in page
    assert (
        "- some CPU (cells at once: 2; 2026-11-26; commit abc): all classes (csq, crh).\n" in page
    )
    assert "- a GPU (cells at once: 2; 2026-11-26; commit abc): classes never seen (crh).\n" in page
    assert (
        "- other (cells at once: 2; 2026-11-26; commit abc): learning rates (csq, crh).\n" in page
    )
    assert page.count("- other") == 1
    assert page.count("run x --bits 12 --methods csq crh\n") == 1
    assert page.count("learn it --methods csq crh\n") == 1
    assert "\nNot possible: itq_cca with 12, 24 bits (too many bits: 12).\n" in page


def test_a_text_of_ones_own_stands_above_the_tables(
    board: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(record("csq", "all", 0.5)))
    text = tmp_path / "text.md"
    with pytest.raises(SystemExit, match=r"text\.md cannot be read"):
        board.table(argparse.Namespace(out=tmp_path, text=text))
    text.write_text("Ours {a} of {command}\n")
    board.table(argparse.Namespace(out=tmp_path, text=text))
    assert capsys.readouterr().out.startswith(
        "Ours {a} of run x --bits 12 --methods csq\n\n## birds"
    )


def test_the_page_says_which_speeds_are_of_a_cpu(board: Any) -> None:
    cost = {
        "trained_images_per_second": 40.2,
        "encoded_images_per_second": 1234.5,
        "parameters_total": 2_150_000,
        "macs": 315_193_216,
    }
    of_cpu = {**cost, "machine": {"gpu": None, "cpu": "some CPU"}}
    assert board._cost_cells(of_cpu) == "40 <sub>CPU</sub> | 1,234 <sub>CPU</sub> | 2.15 | 0.32"
    stopped = {**of_cpu, "machine": {"gpu": "a GPU", "cpu": "x"}}
    del stopped["trained_images_per_second"]
    assert board._cost_cells(stopped) == "- | 1,234 | 2.15 | 0.32"


def test_a_stopped_cell_goes_on_from_its_checkpoint(
    board: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the steps that are left, and ends as one that was not stopped."""
    for part, each in (("train", 6), ("val", 2)):
        write_classes(tmp_path / "data" / part, each, first_seed=10 * each)
    args = argparse.Namespace(backbone="resnet8", weights="none", size=32, test_size=40, epochs=2)
    args.batch, args.workers, args.mirror, args.jobs = 6, 0, True, 1
    args.commit, args.command_line = "abc", "run x"
    cell = board.Cell(str(tmp_path / "data"), "orthohash", 8, "all", 0)
    take, taken = board.Training.train_step, []

    def step(training: Any, *batch: Any) -> Any:
        taken.append(1)
        if len(taken) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return take(training, *batch)

    monkeypatch.setattr(board.Training, "train_step", step)
    stop_at, args.out = 0, tmp_path / "whole"
    board.write_cell(cell, args)
    whole = json.loads((args.out / f"{cell.name}.json").read_text())
    every = len(taken)
    taken.clear()
    stop_at, args.out = 4, tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        board.write_cell(cell, args)
    assert not list(args.out.glob("*.json"))
    board.write_cell(cell, args)
    assert len(taken) == every
    again = json.loads((args.out / f"{cell.name}.json").read_text())
    assert again["scores"] == whole["scores"]
    assert again["last_losses"] == whole["last_losses"]
    assert not list((args.out / "work").iterdir())
    taken.clear()
    with pytest.raises(KeyboardInterrupt):
        board.write_cell(cell, args)
    args.commit = "def"  # of other code: it begins anew
    board.write_cell(cell, args)
    assert len(taken) == 4 + every


@pytest.mark.slow
def test_a_miniature_is_trained_and_measured(tmp_path: Path) -> None:
    for part, each in (("train", 6), ("val", 2)):
        write_classes(tmp_path / "data" / part, each, first_seed=10 * each)

    def call(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, str(FILE), *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    small = str(tmp_path / "small")
    assert "24 pictures" in call("pack", str(tmp_path / "data"), small, "--side", "40")
    flags = "--backbone resnet8 --weights none --size 32 --test-size 40 --epochs 1 --batch 8"
    methods = "--methods orthohash cmbh-B itq_cca lsh --bits 8 --workers 0 --jobs 2 --device cpu"
    flags += " --no-mirror"
    out = tmp_path / "out"
    said = call("run", str(out), "--data", small, *flags.split(), *methods.split())
    assert "6 cells done, 0 failed, 0 not done, 2 not possible" in said
    assert "small-all-8-itq_cca-0 is not possible: bits must be from 1 to 2, not 8" in said
    part = json.loads((out / "small-all-8-cmbh-B-0.json").read_text())
    assert not part["config"]["levels"]
    assert part["config"]["crop"] == 19
    trained = json.loads((out / "small-all-8-orthohash-0.json").read_text())
    assert trained["epochs"] == 1
    assert not trained["run"]["mirror"]
    assert 0 < trained["scores"]["all"]["map"] <= 1
    unseen = json.loads((out / "small-seen-8-orthohash-0.json").read_text())["scores"]
    three = {"seen", "unseen", "unseen_among_all"}
    assert set(unseen) == three | {f"open_{name}" for name in three}
    assert 0 < unseen["open_unseen"]["map_low"] <= unseen["open_unseen"]["map"] <= 1
    assert [path.name for path in (out / "work").iterdir()] == ["small-frozen.npz"]
    refused = json.loads((out / "small-all-8-itq_cca-0.json").read_text())
    assert refused["reason"] == "bits must be from 1 to 2, not 8"
    page = call("table", str(out))
    assert "| orthohash |" in page
    assert "| cmbh-B |" in page
    assert "1 epoch of batch 8 at 32 pixels, measured at 40, pictures not mirrored." in page
    again = out / "small-all-8-lsh-0.json"
    first = json.loads(again.read_text())["scores"]
    again.unlink()
    for picture in Path(small).rglob("*.webp"):  # the kept features are enough
        then = picture.stat()
        picture.write_bytes(bytes(then.st_size))
        os.utime(picture, ns=(then.st_atime_ns, then.st_mtime_ns))
    said = call("run", str(out), "--data", small, *flags.split(), *methods.split())
    assert "1 cell done, 0 failed" in said
    assert json.loads(again.read_text())["scores"] == first
    again.unlink()
    os.utime(picture)  # but for a file that has changed since
    said = call("run", str(out), "--data", small, *flags.split(), *methods.split(), code=1)
    assert "0 cells done, 1 failed, 0 not done, 7 there before\n" in said
    assert f"FAILED, see {out / 'logs'}" in said
