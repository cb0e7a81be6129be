from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.commands import interrupted, run
from tests.conftest import picture
from tests.model.test_model import trained_model
from tests.small_network import small_general
from wingbar.cli import index as index_verbs
from wingbar.errors import ModelError
from wingbar.index.index import Index
from wingbar.index.refit import sample_of
from wingbar.model import fitting
from wingbar.model.model import Model


@pytest.mark.slow
def test_the_whole_loop(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.wb"
    code, out, err = run(capsys, "index", path, photos, "--bits", 24)
    assert (code, err) == (0, "")
    assert f"{path}: 24 images (24 added)" in out
    assert "Codes learned from 24 images: ITQ." in out
    code, out, _ = run(capsys, "index", path, photos, "--json")
    record = json.loads(out)
    assert (record["items"], record["unchanged"]) == (24, 24)
    query = photos / "red" / "001.jpg"
    code, out, _ = run(capsys, "search", path, query, photos / "blue" / "002.jpg", "-k", 3)
    lines = [json.loads(line) for line in out.splitlines()]  # not a terminal: JSON lines
    assert [line["rank"] for line in lines] == [1, 2, 3, 1, 2, 3]
    assert lines[0]["query"] == str(query)
    keys = {"query", "rank", "id", "path", "label", "distance", "score", "p_chance", "columns"}
    assert set(lines[0]) == keys
    code, out, _ = run(
        capsys,
        "search",
        path,
        query,
        "--where",
        "label=blue",
        "--fine",
        "none",
        "--radius",
        24,
        "-k",
        50,
    )
    assert {json.loads(line)["label"] for line in out.splitlines()} == {"blue"}
    code, out, _ = run(capsys, "info", path, "--json")
    assert {"items", "labels", "bits", "dim", "unique_codes", "bytes", "fingerprint"} <= set(
        json.loads(out)
    )
    code, out, _ = run(capsys, "verify", path)
    assert (code, out) == (0, f"{path} is intact\n")
    code, out, _ = run(capsys, "index", path, "--refit", "--bits", 12)
    assert code == 0
    assert "12-bit codes (before: 24) learned again from 24 images; 24 of 24 codes changed" in out


@pytest.mark.slow
def test_bad_images_are_named_on_stderr(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(25):
        (photos / "red" / f"bad{i:02}.jpg").write_text("no")
    code, out, err = run(capsys, "index", tmp_path / "a.wb", photos, "--bits", 8)
    assert code == 0
    assert "24 added, 25 failed" in out
    assert err.count("wingbar: skipped") == 21
    assert "skipped 5 more; --json lists them all" in err
    code, out, _ = run(capsys, "index", tmp_path / "a.wb", photos, "--json")
    assert len(json.loads(out)["failed"]) == 25


def test_nothing_but_bad_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.jpg").write_text("no")
    path, command = tmp_path / "a.wb", ["index", tmp_path / "a.wb", tmp_path / "p"]
    for flags in ([], ["--for", "classes"], ["--for", "copies", "--model", "general"]):
        code, out, err = run(capsys, *command, *flags)
        assert (code, out, err.count("\n")) == (2, "", 2)
        assert err.startswith(f"wingbar: skipped {tmp_path / 'p' / 'a.jpg'}: not an image in")
        assert f"none of the images could be read, and {path} was not made: the reasons" in err
    code, out, _ = run(capsys, *command, "--json")
    record = json.loads(out)
    assert (code, record["items"], len(record["failed"]), record["chosen"]) == (2, 0, 1, None)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "p"]
    with Index.create(path, small_general("own", 1)):  # one that was there stays
        pass
    before = path.read_bytes()
    code, _, err = run(capsys, *command, "--for", "classes")
    assert (code, "none of the images could be used" in err) == (2, True)
    assert path.read_bytes() == before


def test_one_image_that_can_be_read_is_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p").mkdir()
    for i in range(30):
        (tmp_path / "p" / f"{i:02}.jpg").write_text("no")
    picture(1).save(tmp_path / "p" / "29.jpg")
    code, out, _ = run(capsys, "index", tmp_path / "a.wb", tmp_path / "p", "--bits", 8)
    assert (code, "1 added, 29 failed" in out) == (0, True)


def test_one_file_can_be_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(1).save(tmp_path / "one.png")
    picture(2).save(tmp_path / "two.png")
    code, out, _ = run(
        capsys,
        "index",
        tmp_path / "a.wb",
        tmp_path / "one.png",
        tmp_path / "two.png",
        "--bits",
        8,
        "--json",
    )
    assert code == 0
    assert json.loads(out)["items"] == 2


@pytest.mark.slow
def test_a_large_index_is_warmed_up(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wingbar.hamming.codes.COMPILED_FROM", 5)
    asked: list[int] = []

    def warm_up(bits: int) -> float:
        asked.append(bits)
        return 9.0

    monkeypatch.setattr("wingbar.hamming.codes.warm_up", warm_up)
    code, _, err = run(capsys, "index", tmp_path / "a.wb", photos, "--bits", 24)
    assert (code, asked) == (0, [24])
    assert "compiled the search of large indexes for this machine in 9 s" in err


@pytest.mark.slow
def test_a_fitted_model_can_be_named_again(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its rotation is compared as bytes, that of another fit is refused."""
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos / "red", bits=8)
        index.model.save(tmp_path / "fitted")
    assert run(capsys, "index", tmp_path / "a.wb", photos, "--model", tmp_path / "fitted")[0] == 0
    assert run(capsys, "index", tmp_path / "b.wb", photos, "--bits", 8)[0] == 0
    code, _, err = run(capsys, "index", tmp_path / "b.wb", photos, "--model", tmp_path / "fitted")
    assert code == 2
    assert "leave --model out" in err


@pytest.mark.usefixtures("built_in_network")
def test_info_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", "general", "--json")
    record = json.loads(out)
    assert (code, record["name"], record["bits"], record["dim"]) == (0, "general", None, 1280)
    _, out, _ = run(capsys, "info", "general")
    assert "features of 1,280 numbers" in out
    assert "None" not in out
    trained_model().save(tmp_path / "m")
    _, out, _ = run(capsys, "info", tmp_path / "m")
    assert "Gives codes of 20 bits" in out
    assert "fingerprint" not in out
    assert "fingerprint" in run(capsys, "info", tmp_path / "m", "--all")[1]


def test_info_of_an_index_says_how_good_its_codes_are(
    shared_index_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = run(capsys, "info", shared_index_path)
    first, codes, fitted, model = out.splitlines()
    unique = json.loads(run(capsys, "info", shared_index_path, "--json")[1])["unique_codes"]
    assert first.startswith(f"{shared_index_path}: 60 images with 3 labels, ")
    assert first.endswith("B")
    assert codes == f"Codes of 24 bits: {unique} of 60 are unique; no bit is constant."
    assert fitted == "Codes learned from 60 images: ITQ."
    assert model.startswith("Model: general (label-free, 24 bits, ")
    assert "search_bytes" in run(capsys, "info", shared_index_path, "--all")[1]
    monkeypatch.setattr(Index, "codes", lambda self: np.array([[0b101], [0b001]], np.uint64))
    with Index.open(shared_index_path) as index:
        assert index_verbs._constant_bits(index) == [0, 1, *range(3, 24)]
    _, out, _ = run(capsys, "info", shared_index_path)
    assert "Warning: these codes tell the pictures badly apart" in out
    shared = np.full((60, 1), 0b101, np.uint64)
    shared[:24] = (1 << np.arange(24, dtype=np.uint64))[:, None]
    monkeypatch.setattr(Index, "codes", lambda self: shared)
    info_of = Index.info
    monkeypatch.setattr(Index, "info", lambda self: replace(info_of(self), unique_codes=25))
    monkeypatch.setattr(Model, "averages", True)
    _, out, _ = run(capsys, "info", shared_index_path)
    assert "Images of one kind share codes, as they should in an index for classes" in out
    assert "Warning" not in out


def test_a_file_that_is_no_index_is_one_line(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = photos / "red" / "000.jpg"
    code, out, err = run(capsys, "verify", photo)
    said = f"{photo} is not a wingbar index, but a picture: name another file, or make one"
    assert (code, out.startswith(said), out.count("\n"), err) == (1, True, 1, "")


def test_a_damaged_index_is_exit_code_1(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sqlite3

    path = tmp_path / "a.wb"
    run(capsys, "index", path, photos, "--bits", 8)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE items SET label = 'x' WHERE id = 3")
    connection.commit()
    connection.close()
    code, out, _ = run(capsys, "verify", path)
    assert code == 1
    assert "item 3" in out
    assert f"{path}: 1 problem; wingbar verify --repair" in out
    code, out, _ = run(capsys, "verify", path, "--json")
    assert (code, len(json.loads(out)["problems"])) == (1, 1)


@pytest.mark.slow
def test_what_is_left_out_and_kept_is_said(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "@eaDir").mkdir()
    picture(77).save(photos / "@eaDir" / "thumb.jpg")
    index = tmp_path / "a.wb"
    code, out, _ = run(capsys, "index", index, photos, "--bits", 8, "--exclude", "red")
    assert (code, "16 added" in out) == (0, True)
    assert "Left out 2 folders or files by name: @eaDir, red." in out
    (photos / "blue").rename(tmp_path / "away")
    (photos / "blue").mkdir()
    code, out, _ = run(capsys, "index", index, photos, "--exclude", "red")
    assert code == 0
    assert "is a disk not mounted? They were kept" in out
    code, out, _ = run(capsys, "index", index, photos, "--exclude", "red", "--json")
    record = json.loads(out)
    assert (record["kept"], record["removed"], record["items"]) == (8, 0, 16)


def test_a_refit_does_not_run_on_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "index", tmp_path / "a.wb", "--refit", "--ray", "local")
    assert code == 2
    assert "--ray encodes images, and --refit learns from what is encoded: leave it out" in err


def test_info_says_which_encoder_sees_mirror_images(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = small_general("one", 1), small_general("two", 2)
    one.save(tmp_path / "one")
    two.with_preprocessing(replace(two.preprocessing, mirrored=True)).save(tmp_path / "two")
    path = tmp_path / "a.wb"
    run(capsys, "index", path, photos, "--model", tmp_path / "one", "--bits", 8)
    assert "its mirror image are encoded" not in run(capsys, "info", path)[1]
    run(capsys, "index", path, photos, "--also", tmp_path / "two", "--bits", 8)
    out = run(capsys, "info", path)[1]
    assert "with fine=pool; it encodes mirror images too." in out
    assert "its mirror image are encoded" not in out


def test_a_second_model_beside_the_first(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(tmp_path / name) for name in ("one", "two")]
    for i, folder in enumerate(models):
        small_general(Path(folder).name, i).save(folder)
    path, query = tmp_path / "a.wb", photos / "red" / "001.jpg"
    run(capsys, "index", path, photos / "red", "--model", models[0], "--bits", 8)
    code, out, err = run(capsys, "index", path, photos, "--also", models[1], "--bits", 12)
    assert (code, err) == (0, "")
    assert "Codes of two learned from 24 images: ITQ.\ntwo encoded 24 images of before." in out
    code, out, _ = run(capsys, "info", path)
    assert "Second encoder: two (label-free, 12 bits, " in out
    assert "search --with two asks it" in out
    assert json.loads(run(capsys, "info", path, "--json")[1])["also"]["items"] == 24
    for name, bits in (("one", 8), ("two", 12)):
        code, out, _ = run(capsys, "search", path, query, "-k", 1, "--with", name)
        assert json.loads(out)["path"] == str(query)
        out = run(capsys, "explain", path, query, "-k", 1, "--with", name, "--json")[1]
        assert len(json.loads(out)["code"]) == bits
        scored = run(
            capsys, "evaluate", path, photos, "--split", "all", "--with", name, "--json",
            "--keep-constant-bits",
        )  # fmt: skip
        assert json.loads(scored[1])["bits"] == bits
    run(capsys, "export-codes", path, "-o", tmp_path / "two.npz", "--with", "two")
    with np.load(tmp_path / "two.npz") as arrays:
        assert json.loads(str(arrays["wingbar"]))["model"] == "two"
    code, _, err = run(capsys, "search", path, query, "--with", "three")
    assert (code, err) == (2, f"wingbar: {path} has no encoder 'three': it has one and two\n")
    code, out, _ = run(capsys, "index", path, "--refit", "--with", "two", "--bits", 16)
    assert "16-bit codes (before: 12) learned again" in out
    assert "embeddings made before no longer match it." in out
    code, out, _ = run(capsys, "index", path, "--refit", "--with", "two")
    assert out.splitlines()[-1].startswith("The model is the same as before, ")
    assert run(capsys, "verify", path)[:2] == (0, f"{path} is intact\n")
    assert run(capsys, "copy", path, tmp_path / "two.wb", "--with", "two")[0] == 0
    assert "Second encoder" not in run(capsys, "info", tmp_path / "two.wb")[1]
    for arguments, reason in [
        ([path, "--refit", "--also", models[1]], "--also is of no use with --refit"),
        ([path, photos, "--with", "two"], "--with goes with --refit"),
        ([path, photos, "--also", "general"], "two encoders, one and two"),
        ([path, photos, "--also", models[1], "--also", "general"], "two encoders at most"),
    ]:
        code, _, err = run(capsys, "index", *arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert reason in err


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ("--also SHORT", "from 1 to 48 for short, which gives features of 48 numbers, not 64, the"),
        ("--also SHORT --bits 49", "not 49: give --bits N, or leave short out"),
        ("--model SHORT", "not 64, the default: give --bits N, or leave short out"),
        ("--model SHORT --model general --for copies", "give --bits N, or leave short out"),
        ("--for copies --also SHORT", "give --bits N, or leave short out"),
        ("--model general --for copies --also VECTORS", "leave --also out"),
        ("--model VECTORS", "has no network"),
        (
            "--model TRAINED --bits 8",
            "would have codes of 20 bits, not 8: leave --bits out, or take",
        ),
        ("--model TRAINED --codes itq", "which was trained: leave --codes out, or take another"),
        ("--model TRAINED --also TRAINED --bits 8", "leave --bits out, or take another model"),
    ],
)
def test_what_no_model_can_have_is_refused_before_anything_is_made(
    flags: str, why: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_general("short", 1, dim=48).save(tmp_path / "SHORT")
    trained_model().save(tmp_path / "TRAINED")
    Model.of_vectors(4).save(tmp_path / "VECTORS")
    given = [tmp_path / word if word.isupper() else word for word in flags.split()]
    before = sorted(tmp_path.iterdir())
    code, out, err = run(capsys, "index", tmp_path / "a.wb", photos, *given)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert why in err
    assert sorted(tmp_path.iterdir()) == before


def test_labels_to_learn_from_are_missed_before_anything_is_encoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        picture(i).save(tmp_path / "photos" / f"{i}.jpg")
    path, photos = tmp_path / "a.wb", tmp_path / "photos"
    Index.create(tmp_path / "empty.wb").close()
    with Index.create(tmp_path / "full.wb") as index:
        index.add(photos, bits=8)
    small_general("other", 1).save(tmp_path / "other")
    monkeypatch.delattr(Model, "run")  # the network
    for command in (
        ["index", path, photos, "--adapt", "labels"],
        ["index", path, photos, "--adapt", "labels", "--for", "classes"],
        ["index", tmp_path / "empty.wb", photos, "--adapt", "labels"],
        ["index", tmp_path / "full.wb", "--refit", "--adapt", "labels"],
    ):
        code, out, err = run(capsys, *command)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "no two of the images that codes are learned from have one label" in err
    assert not path.exists()
    command = ["index", tmp_path / "full.wb", photos, "--also", tmp_path / "other"]
    code, _, err = run(capsys, *command, "--adapt", "labels")
    assert (code, "no two of the images" in err) == (2, True)
    with Index.open(tmp_path / "full.wb") as index:
        assert len(index.encoders) == 1


def test_labels_to_learn_from_are_those_of_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingbar.index.refit.SAMPLE", 2)
    pictures = [np.asarray(picture(i)) for i in range(6)]
    labels = [None, None, None, None, "cat", "cat"]
    sampled = sample_of(6, 0).tolist()
    assert sampled != [4, 5]
    monkeypatch.delattr(Model, "run")
    with (
        Index.create(tmp_path / "a.wb") as index,
        pytest.raises(ModelError, match="no two of the images"),
    ):
        index.add(pictures, keys=list("abcdef"), labels=labels, adapt="labels")


def test_a_refused_second_model_is_not_in_the_index(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.wb"
    small_general("short", 1, dim=48).save(tmp_path / "short")
    run(capsys, "index", path, photos, "--bits", 8)
    before = path.read_bytes()
    code, _, err = run(capsys, "index", path, photos, "--also", tmp_path / "short")
    assert (code, err.count("\n"), "leave short out" in err) == (2, 1, True)
    (tmp_path / "none").mkdir()
    code, _, err = run(
        capsys, "index", path, tmp_path / "none", "--also", tmp_path / "short", "--bits", 8
    )
    assert (code, "has no images" in err) == (2, True)
    assert path.read_bytes() == before


def test_a_run_again_is_as_the_index_is(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, one, two = tmp_path / "a.wb", tmp_path / "one", tmp_path / "two"
    small_general("one", 1).save(one)
    small_general("two", 2).save(two)
    small_general("one", 1, edge=40).save(tmp_path / "cut")  # the same network sees other pixels
    run(capsys, "index", path, photos, "--model", one, "--bits", 8, "--codes", "itq")

    def accepted(*flags: object) -> None:
        code, out, err = run(capsys, "index", path, photos, *flags)
        assert (code, err, "24 unchanged" in out) == (0, "", True)

    def refused(why: str, *flags: object) -> None:
        before = path.read_bytes()
        code, out, err = run(capsys, "index", path, photos, *flags)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert why in err
        assert path.read_bytes() == before

    accepted()
    for flags in (["--model", one], ["--bits", 8], ["--codes", "itq"], ["--for", "instances"],
                  ["--adapt", "none"], ["--features", "float16"]):  # fmt: skip
        accepted(*flags)
    for flag, value, has in [
        ("--bits", 64, "codes of 8 bits, not 64"),
        ("--codes", "pca", "codes=itq, not pca"),
        ("--for", "classes", "for=instances, not classes"),
        ("--adapt", "labels", "adapt=none, not labels"),
    ]:
        refused(f"has {has}: leave {flag} out, or use --refit to change it", flag, value)
    refused("has bits=8, for=instances, not bits=9, for=copies", "--bits", 9, "--for", "copies")
    refused("keeps features as float16: leave --features out", "--features", "int8")
    for other in (two, tmp_path / "cut"):
        refused("was made with one (label-free, 8 bits, ", "--model", other)
    refused("and keeps it: leave", "--model", two, "--model", one, "--for", "instances")

    also = ["--also", two, "--bits", 12, "--for", "classes"]
    accepted(*also)
    accepted(*also)  # again, and nothing happens
    accepted("--bits", 8, "--for", "instances")
    refused(
        "has one with codes of 8 bits and two with codes of 12 bits, not 64: leave --bits out, or "
        "use --refit --with NAME to change one",
        "--bits",
        64,
    )
    refused("one with for=instances and two with codes of 12", "--bits", 8, "--for", "classes")
    refused("two encoders, one and two", "--also", "general")
    refused("not with two (label-free, not fitted yet", "--model", two, "--also", one)
    refused("has two encoders, and a Ray cluster encodes for one: leave --ray", "--ray", "local")


def test_a_trained_first_model_beside_a_label_free_one_can_be_run_again(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained_model().save(tmp_path / "trained")
    command = ["index", tmp_path / "a.wb", photos, "--model", tmp_path / "trained"]
    both = [*command, "--also", "general", "--bits", 12]
    assert run(capsys, *both)[0] == 0
    assert "24 unchanged" in run(capsys, *both)[1]
    run(capsys, "index", tmp_path / "b.wb", *command[2:])
    code, _, err = run(capsys, "index", tmp_path / "b.wb", photos, "--bits", 12)
    assert (code, "20 bits, not 12: leave --bits out, or name a new index" in err) == (2, True)


def test_what_waits_for_a_second_model_is_counted(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.wb"
    with Index.create(path) as index:
        index.add(photos, bits=8)
        index.add_encoder(small_general("two", 2))
    waiting = "0 of 24 images encoded by two: run wingbar index again."
    assert waiting in run(capsys, "info", path)[1]
    (photos / "red" / "000.jpg").write_bytes((photos / "red" / "001.jpg").read_bytes())
    _, out, err = run(capsys, "index", path, photos / "blue")
    assert "23 of 24 images encoded by two: run wingbar index again." in out
    assert "not encoded by two: its file has changed: index its folder again" in err
    assert run(capsys, "verify", path)[0] == 0


def test_verify_of_a_file_that_was_cut_off_names_the_real_next_step(
    shared_index_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.wb"
    short.write_bytes(shared_index_path.read_bytes()[:5000])
    code, out, _ = run(capsys, "verify", short)
    assert (code, out.count("\n")) == (1, 1)
    lost = "its model is lost, so that it cannot be repaired: make a new index with wingbar index"
    assert f"): {lost}, or restore a backup" in out
    code, _, err = run(capsys, "verify", short, "--repair")
    assert (code, "its model is lost" in err) == (2, True)


def test_verify_of_a_file_that_lost_its_end_says_what_repair_does(
    shared_index_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.wb"
    short.write_bytes(shared_index_path.read_bytes()[:-11_680])
    for verb in ("verify", "info"):
        code, out, err = run(capsys, verb, short)
        assert code
        assert f"wingbar verify --repair {short} keeps what can be read" in out + err
    code, out, _ = run(capsys, "verify", short, "--repair")
    assert (code, f"{short} is whole again: " in out) == (0, True)


@pytest.mark.parametrize("verb", ["info", "verify", "search"])
def test_a_folder_is_told_from_an_index(
    verb: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = [photos / "red" / "000.jpg"] if verb == "search" else []
    code, out, err = run(capsys, verb, photos, *query)
    assert (code, out) == (2, "")
    assert f"{photos} is a folder, not an index: if it holds images, make an index of" in err
    assert f"wingbar index photos.wb {photos}" in err
    (photos / "model.json").touch()
    if verb != "info":
        assert "is a model, not an index" in run(capsys, verb, photos, *query)[2]


def test_what_an_interrupted_first_run_has_encoded_is_told(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "a.wb"
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "fit", interrupted)
        code, _, err = run(capsys, "index", path, photos, "--bits", 8)
        assert (code, err.count("\n")) == (130, 1)
        assert "stopped; 24 of 24 images are encoded, which is kept; the same command" in err
    monkeypatch.setattr(Model, "run", interrupted)  # no picture is encoded again
    code, out, err = run(capsys, "index", path, photos, "--bits", 8)
    assert (code, "24 added" in out) == (0, True)
    assert "Continued with 24 images of an interrupted run." in out
    assert err == ("wingbar: continuing an interrupted run: 24 of 24 images are encoded already\n")
    assert run(capsys, "index", path, photos)[2] == ""
