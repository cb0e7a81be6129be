from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.commands import run
from tests.conftest import picture
from tests.data.shelf import Shelf, serve
from tests.model.encoders import SIZE, vit
from tests.model.test_imported import SIGLIP, SQUARE, graph_of, pooled
from tests.model.text_towers import (
    TOKENS,
    image_tower,
    text_tower,
    tokenizer,
    write_both,
    write_text,
)
from wingbar.data import encoders
from wingbar.images import Preprocessing
from wingbar.index.store import Store
from wingbar.model import installed
from wingbar.model.imported import from_onnx
from wingbar.model.model import GENERAL, PROOF, Model

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Shelf]:
    """A hub with a small network in the place of each encoder of one file."""
    network = graph_of(tmp_path / "small.onnx", pooled(), ["B", 3, "H", "W"]).read_bytes()
    for name in ("siglip2-base", "dinov3-small"):
        known = encoders.ENCODERS[name]
        one = replace(known, output="y", size=0, beside=(), sha256="", text=None)
        monkeypatch.setitem(encoders.ENCODERS, name, one)
    paths = [encoders.ENCODERS[name].urls("")[0] for name in ("siglip2-base", "dinov3-small")]
    yield from serve(Shelf(files=dict.fromkeys(paths, network)))


def test_by_name(capsys: Capture, hub: Shelf, tmp_path: Path) -> None:
    made = tmp_path / "m"
    code, out, err = run(capsys, "model", "import", "siglip2-base", "--hub", hub.url, "-o", made)
    assert code == 0
    assert f"{made}: siglip2-base (label-free, not fitted yet, " in out
    assert f"Next: wingbar index photos.wb photos/ --model {made}" in out
    first, second = err.strip().splitlines()
    assert "under Apache-2.0; fetching 94.6 MB from http://127.0.0.1" in first
    assert "no checksum of this file was known; it has sha256" in second
    assert sorted(path.name for path in made.iterdir()) == ["model.json", "model.onnx", "proof.npz"]
    imported = Model.load(made).record["imported"]
    assert imported["licence"] == "Apache-2.0"
    assert imported["sha256"] in second
    assert imported["mean"] == [0.5, 0.5, 0.5]

    again = run(capsys, "model", "import", "siglip2-base", "--hub", hub.url, "-o", made)
    assert again[::2] == (2, f"wingbar: {made} holds a model already: name another directory\n")

    picture(1).save(tmp_path / "a.png")
    index = tmp_path / "a.wb"
    assert run(capsys, "index", index, tmp_path / "a.png", "--model", made, "--bits", 3)[0] == 0
    assert run(capsys, "verify", index)[:2] == (0, f"{index} is intact\n")
    assert run(capsys, "search", index, tmp_path / "a.png")[0] == 0


def test_an_encoder_of_images_and_texts(
    capsys: Capture, hub: Shelf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = write_text(tmp_path / "t.onnx", text_tower(causal=True), "text_embeds").read_bytes()
    made = tokenizer().to_str().encode()
    image = image_tower(tmp_path / "i.onnx").read_bytes()
    files = {
        name: encoders.KnownFile(name, len(data), hashlib.sha256(data).hexdigest())
        for name, data in (("onnx/i.onnx", image), ("onnx/t.onnx", text), ("tokenizer.json", made))
    }
    known = encoders.ENCODERS["clip-vit-b32"]
    assert known.text is not None
    one = replace(
        known,
        output="y",
        file="onnx/i.onnx",
        size=len(image),
        sha256=files["onnx/i.onnx"].sha256,
        text=replace(
            known.text,
            network=files["onnx/t.onnx"],
            tokenizer=files["tokenizer.json"],
            tokens=TOKENS,
            pad="<end>",
        ),
    )
    monkeypatch.setitem(encoders.ENCODERS, known.name, one)
    given = dict(zip(files, (image, text, made), strict=True))
    hub.files = {one.url(path, ""): data for path, data in given.items()}
    command = ["model", "import", known.name, "--hub", hub.url, "-o"]
    code, out, err = run(capsys, *command, tmp_path / "m")
    assert code == 0, err
    assert 'It knows texts: wingbar search photos.wb --text "red dress"' in out
    assert ", and 0.0 MB for texts" in err
    assert "no checksum" not in err
    assert Model.load(tmp_path / "m").has_text
    code, _, err = run(capsys, *command, tmp_path / "n", "--no-text")
    assert (code, "for texts" in err) == (0, False)
    assert not Model.load(tmp_path / "n").has_text

    for i in range(3):
        picture(i).save(tmp_path / f"{i}.png")
    index = tmp_path / "a.wb"
    pictures = [tmp_path / f"{i}.png" for i in range(3)]
    assert run(capsys, "index", index, *pictures, "--model", tmp_path / "m", "--bits", 3)[0] == 0
    code, out, _ = run(capsys, "search", index, "--text", "a red dress", "-k", 2)
    found = [json.loads(line) for line in out.splitlines()]
    assert [(hit["query"], hit["rank"], hit["p_chance"]) for hit in found] == [
        ("a red dress", 1, None),
        ("a red dress", 2, None),
    ]
    code, _, err = run(capsys, "search", index, "--text", "x", "--radius", 1)
    assert (code, "without a radius: leave it out" in err) == (2, True)
    assert run(capsys, "search", index)[2] == (
        "wingbar: name an image to search with, or a --text\n"
    )
    hub.files[one.url("tokenizer.json", "")] = made + b" "
    assert "its sha256 is" in run(capsys, *command, tmp_path / "o")[2]


def test_a_files_own_tower_for_texts(capsys: Capture, tmp_path: Path) -> None:
    path = write_both(tmp_path / "both.onnx", vit(), text_tower(causal=True))
    command = ["model", "import", path, "--size", SIZE, "-o", tmp_path / "m", "--text", path]
    code, _, err = run(capsys, *command)
    assert (code, "--text needs the tower's --tokens" in err) == (2, True)
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    flags = ["--tokens", TOKENS, "--pad-token", "<end>"]
    assert run(capsys, *command, *flags)[0] == 0
    assert Model.load(tmp_path / "m").has_text
    code, _, err = run(capsys, *command[:-2], "--lower")
    assert "holds a model already" in err
    command[-3] = tmp_path / "n"
    code, _, err = run(capsys, *command[:-2], "--lower")
    assert (code, err) == (2, "wingbar: --lower goes with --text: leave it out\n")


def test_a_licence_that_is_not_permissive_is_accepted_first(
    capsys: Capture, hub: Shelf, tmp_path: Path
) -> None:
    command = ["model", "import", "dinov3-small", "--hub", hub.url, "-o", tmp_path / "m"]
    code, _, err = run(capsys, *command)
    assert code == 2
    assert "under DINOv3's own licence, which does not allow every use: read it at https://" in err
    assert hub.asked == []  # nothing was fetched
    assert run(capsys, *command, "--accept-licence", "--json")[0] == 0
    assert len(hub.asked) == 1


def test_a_checksum_is_compared(capsys: Capture, hub: Shelf, tmp_path: Path) -> None:
    command = ["model", "import", "siglip2-base", "--hub", hub.url, "-o", tmp_path / "m"]
    code, _, err = run(capsys, *command, "--sha256", "0123")
    assert code == 2
    assert "its sha256 is" in err
    assert not (tmp_path / "m" / "model.json").exists()
    assert run(capsys, *command, "--revision", "other")[0] == 2  # not on this hub
    code, _, err = run(capsys, *command, "--to-255")
    assert (code, err) == (2, "wingbar: --to-255 is for files: leave it out\n")


def loaded(path: Path) -> tuple[Preprocessing, dict[str, Any]]:
    model = Model.load(path)
    return model.preprocessing, model.record["imported"]


def test_a_file_with_flags_or_its_configuration(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    path = graph_of(tmp_path / "onnx" / "net.onnx", pooled(), ["B", 3, "H", "W"])
    command = ["model", "import", path, "-o"]
    gone = run(capsys, "model", "import", tmp_path / "gone.onnx", "-o", tmp_path / "0")
    assert gone == (2, "", f"wingbar: there is no file {tmp_path / 'gone.onnx'}\n")
    code, _, err = run(capsys, *command, tmp_path / "0")
    assert (code, "put its preprocessor_config.json beside it, or give --size" in err) == (2, True)
    flags = ["--size", 32, "--edge", 40, "--bicubic", "--mean", "0,0,0", "--std", "1,1,1"]
    code, out, _ = run(capsys, *command, tmp_path / "1", *flags, "--to-255", "--json")
    assert code == 0
    assert json.loads(out)["name"] == "net"
    seen, how = loaded(tmp_path / "1")
    assert seen == Preprocessing(size=32, edge=40, bicubic=True)
    assert (how["scale"], how["mean"], how["std"]) == (1.0, [0, 0, 0], [1, 1, 1])
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**SIGLIP, "size": 48}))
    assert run(capsys, *command, tmp_path / "2", "--name", "mine")[0] == 0
    assert loaded(tmp_path / "2")[0] == Preprocessing(size=48, squash=True)
    assert Model.load(tmp_path / "2").name == "mine"
    wrong: list[tuple[list[Any], str]] = [
        (["--size", 32, "--edge", 16], "edge is at least size"),
        (["--size", 32, "--edge", 64, "--squash"], "not several"),
        (["--size", 32, "--mean", "1,2"], "three numbers"),
        (["--size", 32, "--std", "1,1,0"], "std are above 0"),
        (["--preprocessor", tmp_path / "none"], "cannot be read"),
        (["--bicubic"], "--edge, --squash and --bicubic go with --size"),
        (["--size", 32, "--revision", "main"], "--revision is for encoders by name: leave it out"),
    ]
    for flag, reason in wrong:
        code, _, err = run(capsys, *command, tmp_path / "3", *flag)
        assert (code, reason in err, err.count("\n")) == (2, True, 1), flag


def test_what_can_be_imported_is_listed(capsys: Capture) -> None:
    code, out, _ = run(capsys, "model", "list")
    assert code == 0
    *lines, last = out.splitlines()
    assert len(lines) == len(encoders.ENCODERS)
    assert last == f"In {installed.folder()}: no models"
    assert "dinov2-small   DINOv2 ViT-S/14" in out
    record = json.loads(run(capsys, "model", "list", "--json")[1])
    assert record["encoders"][0]["urls"][0].endswith("onnx/model.onnx")
    assert run(capsys, "model", "import", "dino", "-o", "x")[0] == 2
    assert run(capsys, "model", "import", "-o", "x")[0] == 2


def test_a_model_is_installed_under_its_name(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINGBAR_MODELS", str(tmp_path / "models"))
    path = graph_of(tmp_path / "net.onnx", pooled(), ["B", 3, "H", "W"])
    command = ["model", "import", path, "--size", 32]
    code, out, _ = run(capsys, *command)
    assert code == 0
    assert out.startswith(f"{tmp_path / 'models' / 'net'}: net (label-free, not fitted yet, ")
    assert out.endswith("\nNext: wingbar index photos.wb photos/ --model net --bits 3\n")
    code, _, err = run(capsys, *command)
    assert (code, f"{tmp_path / 'models' / 'net'} holds a model already" in err) == (2, True)
    assert run(capsys, *command, "--name", "other")[0] == 0
    for name in ("a/b", "..", "general"):
        code, _, err = run(capsys, *command, "--name", name)
        assert (code, f"{name!r} cannot be the name of a directory" in err) == (2, True)
    record = json.loads(run(capsys, "model", "list", "--json")[1])
    assert (record["folder"], record["installed"]) == (str(tmp_path / "models"), ["net", "other"])
    assert run(capsys, "info", "net")[1].startswith("net: net (label-free, ")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("WINGBAR_MODELS", str(tmp_path / "file"))
    code, _, err = run(capsys, *command)
    assert (code, "not a folder: name a folder by -o, or a folder for" in err) == (2, True)
    assert "WINGBAR_MODELS names " in run(capsys, "model", "list")[1]


# -- this machine


def test_info_system(capsys: Capture, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "info", "--system")
    assert code == 0
    assert "onnxruntime" in out
    assert "Proof passed: this machine computes the features that the maker of general did" in out
    record = json.loads(run(capsys, "info", "general", "--system", "--json")[1])
    assert (record["proof"], record["wrong_bits"], record["model"]) == ("passed", 0, "general")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A model whose proof is of another machine."""
    kind = TensorProto.FLOAT
    path = graph_of(tmp_path / "net.onnx", pooled(), ["B", 3, 16, 16], kind)
    model = from_onnx(path, SQUARE, "odd")
    network = onnx.load_from_string(model.files["model.onnx"])
    shifted = onnx.numpy_helper.from_array(
        np.array([-1, -1, 0.5], np.float32), "wingbar.constant.1"
    )
    next(t for t in network.graph.initializer if t.name == shifted.name).CopyFrom(shifted)
    model.altered({"model.onnx": network.SerializeToString()}).save(tmp_path / "odd")
    return tmp_path / "odd"


def test_a_machine_that_computes_otherwise(capsys: Capture, other: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "info", other, "--system")
    assert code == 0
    assert "Proof not passed: this machine computes other features with odd" in out
    picture(1).save(tmp_path / "a.png")
    index = tmp_path / "a.wb"
    code, out, _ = run(capsys, "index", index, tmp_path / "a.png", "--model", other, "--bits", 3)
    assert code == 0
    assert "the index goes by what this machine computes" in out
    assert run(capsys, "verify", index)[0] == 0
    # and the same index, on a third machine
    store = Store.open(index)
    model = Model(store.model_files())
    stale = model.altered({PROOF: Model.load(other).files[PROOF]})
    with store.writing():
        store.set_model(stale.files)
    store.close()
    code, out, _ = run(capsys, "verify", index)
    assert code == 1
    assert f"{index} is intact, but this machine computes other features" in out
    picture(2).save(tmp_path / "b.png")
    code, _, err = run(capsys, "index", index, tmp_path / "b.png")
    assert code == 2
    assert "add from a machine that passes, or all the same with --unproven" in err
    assert run(capsys, "index", index, tmp_path / "b.png", "--unproven")[0] == 0
    assert run(capsys, "index", index, "--refit")[0] == 2


def test_the_built_in_model_is_what_it_was() -> None:
    record = json.loads((GENERAL / "model.json").read_text())
    assert record["format"] == 1  # version 0.1.0 reads it too
    assert set(record["files"]) == {"model.onnx", "proof.npz"}
