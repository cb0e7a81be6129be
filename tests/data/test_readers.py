from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wingbar.cli import main
from wingbar.data import protocols, readers, records
from wingbar.data.protocols import Protocol
from wingbar.data.readers import read_dataset, read_images
from wingbar.data.records import Images
from wingbar.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def names(images: object) -> list[str]:
    return [f"{entry.path.name}:{entry.label}" for entry in images]  # type: ignore[attr-defined]


def test_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "cat/deep/b.png", "dog/c.jpg", "notes.txt")
    everything = read_images(tmp_path)
    assert names(everything) == ["a.jpg:cat", "b.png:cat", "c.jpg:dog"]
    assert everything.root == tmp_path
    assert [path.name for path in everything.others] == ["notes.txt"]


def test_a_plain_folder_has_no_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "trips/b.jpg", "test/c.jpg")
    assert names(read_images(tmp_path)) == ["a.jpg:None", "c.jpg:None", "b.jpg:None"]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["train", "val"], ("train", "val", "train", None)),
        (["train", "test"], ("train", "test", "train", None)),
        (["train", "val", "test"], ("train", "test", "train", "val")),
        (["query", "gallery"], ("gallery", "query", "gallery", None)),
        (["train", "query", "gallery"], ("train", "query", "gallery", None)),
        (["train", "test", "database"], ("train", "test", "gallery", None)),
        (["Train", "Valid"], ("train", "val", "train", None)),
        (["test", "query"], ("test", "query", "test", None)),
    ],
)
def test_folders_of_parts(
    tmp_path: Path, parts: list[str], expected: tuple[str | None, ...]
) -> None:
    for part in parts:
        touch(tmp_path, f"{part}/cat/{part.lower()}.jpg")
    data = read_dataset(tmp_path)
    own_name = {"database": "gallery", "valid": "val"}
    found = {own_name.get(p.lower(), p.lower()): p.lower() for p in parts}
    train, query, gallery, val = expected
    assert names(data.train) == [f"{found[str(train)]}.jpg:cat"]
    assert names(data.query) == [f"{found[str(query)]}.jpg:cat"]
    assert names(data.gallery) == [f"{found[str(gallery)]}.jpg:cat"]
    assert (data.val is None) == (val is None)
    assert data.protocol == f"folder: query={query}, gallery={gallery}"
    assert len(read_images(tmp_path)) == len(parts)
    assert names(read_images(tmp_path, str(query))) == names(data.query)


def test_the_drawn_split_is_seeded_and_by_class(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *[f"cat/{i:02}.jpg" for i in range(20)],
        *[f"dog/{i}.jpg" for i in range(3)],
        "owl/only.jpg",
    )
    data = read_dataset(tmp_path, seed=3)
    labels = data.query.labels
    assert (labels.count("cat"), labels.count("dog"), labels.count("owl")) == (4, 1, 0)
    assert data.train == data.gallery
    assert not set(data.query.paths) & set(data.gallery.paths)
    assert len(data.query) + len(data.gallery) == 24
    assert data.protocol == "folder: no split, 20% of each class drawn as queries (seed 3)"
    assert read_dataset(tmp_path, seed=3).query == data.query
    assert read_dataset(tmp_path, seed=4).query != data.query


def test_csv(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg")
    (tmp_path / "list.csv").write_text(
        "\ufeffPath,label,split,Price,colour\nimages/a.jpg,cat,train,12.5,red\nimages/b.jpg,,test,,\n",
        encoding="utf-8",
    )
    data = read_dataset(tmp_path / "list.csv")
    first, second = data.gallery[0], data.query[0]
    assert first.path == tmp_path / "images" / "a.jpg"
    assert (first.label, dict(first.columns)) == ("cat", {"Price": "12.5", "colour": "red"})
    assert second.label is None
    assert data.protocol == "csv: query=test, gallery=train"
    assert read_images(tmp_path / "list.csv").root is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,label\na.jpg,cat\n", "needs a column named path"),
        ("", "needs a column named path"),
        ("path,split\na.jpg,holdout\n", "line 2: no part is named 'holdout'"),
        ("path,label\na.jpg,cat,dog\n", "line 2: more values"),
        ("path,label\n,cat\n", "line 2: the path is empty"),
        ("path,split\na.jpg,train\nb.jpg,\n", "some rows have a split"),
        ('path,"a""b"\nx.jpg,1\n', "quotes"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_images(tmp_path / "list.csv")


def test_csv_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"path\n\xff\xfe\x00")
    with pytest.raises(DataError, match="not a CSV file in UTF-8"):
        read_images(tmp_path / "list.csv")


def test_hashing_lists(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(
        "\ufeffimages/a.jpg 1 0 0\nimages/with  space.jpg 0 0 1\n", encoding="utf-8"
    )
    (tmp_path / "test.txt").write_text("images/q.jpg 0 1 0\n\n")
    (tmp_path / "database.txt").write_text("images/a.jpg 1 0 0\nimages/d.jpg 0 1 0\n")
    data = read_dataset(tmp_path)
    assert names(data.train) == ["a.jpg:0", "with  space.jpg:2"]
    assert names(data.query) == ["q.jpg:1"]
    assert names(data.gallery) == ["a.jpg:0", "d.jpg:1"]
    assert data.gallery[0].path == tmp_path / "images" / "a.jpg"
    assert data.protocol == "lists: query=test, gallery=gallery"
    assert len(read_images(tmp_path)) == 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("b.jpg 0 1\nimages/a.jpg\n", "line 2: expected a path and a one-hot label"),
        ("a.jpg 1 0\nb.jpg 1 0 0\n", "line 2: 3 classes, the first line has 2"),
        ("a.jpg 1 1 0\n", "line 1: 2 classes are marked"),
        ("a.jpg 0 0 0\n", "line 1: 0 classes are marked"),
    ],
)
def test_bad_lists(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "test.txt").write_text("q.jpg 1 0\n")
    with pytest.raises(DataError, match=reason):
        read_dataset(tmp_path)


def test_parts_beside_something_else_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/red/a.jpg", "val/red/b.jpg", "images to predict/c.jpg")
    with pytest.raises(
        DataError,
        match="has train and val, which are parts of a data set, beside images to predict: move",
    ):
        read_images(tmp_path)


def test_a_class_may_be_called_like_a_part(tmp_path: Path) -> None:
    touch(tmp_path, "test/a.jpg", "holiday/b.jpg")
    assert names(read_images(tmp_path)) == ["b.jpg:holiday", "a.jpg:test"]


def test_texts_beside_class_folders_are_no_lists(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg")
    (tmp_path / "train.txt").write_text("cat/a\n")
    (tmp_path / "test.txt").write_text("dog/b\n")
    assert names(read_images(tmp_path)) == ["a.jpg:cat", "b.jpg:dog"]


def test_a_part_of_a_part(tmp_path: Path) -> None:
    touch(tmp_path, *[f"cat/{i}.jpg" for i in range(5)])
    everything = read_images(tmp_path)
    assert names(everything[1:3]) == ["1.jpg:cat", "2.jpg:cat"]
    assert everything[1:3].root is None
    with pytest.raises(DataError, match="is one image and has no part 'gallery'"):
        read_images(tmp_path / "cat" / "0.jpg", "gallery")


def test_links_do_not_give_a_file_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "real/cat/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    by_link = read_images(tmp_path / "link").paths
    monkeypatch.chdir(tmp_path / "link")
    assert read_images(".").paths == by_link == [tmp_path / "real" / "cat" / "a.jpg"]
    assert read_images("cat/a.jpg").paths == by_link


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no images"):
        read_dataset(tmp_path)
    touch(tmp_path, "cat/a.jpg")
    with pytest.raises(DataError, match="holds one image"):
        read_dataset(tmp_path)
    touch(tmp_path, "cat/b.jpg")
    with pytest.raises(DataError, match="no part 'val'"):
        read_images(tmp_path, "val")
    with pytest.raises(DataError, match="not a data set"):
        read_dataset(tmp_path / "cat" / "a.jpg")
    assert names(read_images(tmp_path / "cat" / "a.jpg")) == ["a.jpg:None"]


def test_a_box_column_is_the_part_of_a_query(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('path,label,box,price\none.png,x,"1,2,30,40",5\ntwo.png,y,,6\n')
    found = read_images(tmp_path / "a.csv")
    assert [entry.box for entry in found] == [(1, 2, 30, 40), None]
    assert [dict(entry.columns) for entry in found] == [{"price": "5"}, {"price": "6"}]
    (tmp_path / "b.csv").write_text('path,box\none.png,"1,2"\n')
    with pytest.raises(DataError, match=r"line 2: a box is x,y,width,height"):
        read_images(tmp_path / "b.csv")


# -- protocols by name


def csv_of(folder: Path, *rows: tuple[str, int, str]) -> Path:
    """A CSV with so many images of a label and a split for each row."""
    lines = [
        f"{label}/{split}{i}.png,{label},{split}"
        for label, count, split in rows
        for i in range(count)
    ]
    (folder / "list.csv").write_text("path,label,split\n" + "\n".join(lines) + "\n")
    return folder / "list.csv"


@pytest.fixture(scope="module")
def like_cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of a data set in which each has 700 images for training and 100 for testing."""
    rows = [
        (label, count, split)
        for label in ("cat", "dog", "owl")
        for count, split in ((700, "train"), (100, "test"))
    ]
    return csv_of(tmp_path_factory.mktemp("cifar"), *rows)


@cache
def read_once(path: Path) -> records.Parts:
    return readers._read_parts(path)


def counts(images: Images) -> dict[str | None, int]:
    return dict(sorted(Counter(images.labels).items(), key=str))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32), without=st.booleans())
def test_draws_of_each_class(like_cifar: Path, seed: int, without: bool) -> None:
    name: Protocol = "1k-5k-54k" if without else "1k-5k-59k"
    parts = read_once(like_cifar)
    data = protocols._by_protocol(parts, like_cifar, name, seed)
    everything = set(parts.all.paths)
    query, train, gallery = (set(part.paths) for part in (data.query, data.train, data.gallery))
    assert counts(data.query) == {"cat": 100, "dog": 100, "owl": 100}
    assert counts(data.train) == {"cat": 500, "dog": 500, "owl": 500}
    assert not query & (train | gallery)
    assert gallery == (everything - query - train if without else everything - query)
    assert len(gallery) == len(data.gallery)  # none twice
    assert {
        split for path in query for split in ("train", "test") if path.name.startswith(split)
    } == {"train", "test"}
    assert protocols._by_protocol(parts, like_cifar, name, seed) == data
    assert set(protocols._by_protocol(parts, like_cifar, name, seed + 1).query.paths) != query
    assert (
        f"{name} (seed {seed}), 100 queries and 500 training images of each of 3 classes"
        in data.protocol
    )
    assert f"gallery the {len(gallery):,}" in data.protocol


def test_both_draws_take_the_same_queries(like_cifar: Path) -> None:
    first, second = (read_dataset(like_cifar, protocol=name) for name in ("1k-5k-54k", "1k-5k-59k"))
    assert first.query.entries == second.query.entries
    assert first.train.entries == second.train.entries
    assert len(second.gallery) - len(first.gallery) == 1500


def test_draws_need_enough_of_each_class(tmp_path: Path) -> None:
    path = csv_of(tmp_path, ("cat", 700, "train"), ("dog", 600, "train"))
    with pytest.raises(
        DataError,
        match=(
            r"takes 100 queries and 500 training images of each class and searches the rest: .* "
            r"600 of"
        ),
    ):
        read_dataset(path, protocol="1k-5k-54k")


def test_all_test_images_against_all_training_images(tmp_path: Path) -> None:
    path = csv_of(
        tmp_path, ("cat", 5, "train"), ("dog", 4, "train"), ("cat", 2, "test"), ("dog", 3, "val")
    )
    data = read_dataset(path, protocol="10k-50k")
    assert (
        data.protocol
        == "csv: 10k-50k, its 2 test images as queries, its 9 training images as gallery"
    )
    assert (counts(data.query), counts(data.gallery)) == ({"cat": 2}, {"cat": 5, "dog": 4})
    assert data.train.entries == data.gallery.entries
    assert data.train.protocol == data.protocol + ": train"
    (tmp_path / "other").mkdir()
    with pytest.raises(
        DataError, match="needs a train and a test part for protocol 10k-50k: it has train"
    ):
        read_dataset(csv_of(tmp_path / "other", ("cat", 5, "train")), protocol="10k-50k")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32), classes=st.integers(2, 12), split=st.booleans())
def test_classes_that_are_not_trained_on(
    tmp_path_factory: pytest.TempPathFactory, seed: int, classes: int, split: bool
) -> None:
    folder = tmp_path_factory.mktemp("unseen")
    path = csv_of(
        folder,
        *[
            (f"class{i}", count, name)
            for i in range(classes)
            for count, name in ((3, "train"), (2, "test"))
        ],
    )
    if not split:
        path.write_text(
            path.read_text()
            .replace(",split", "")
            .replace(",train\n", "\n")
            .replace(",test\n", "\n")
        )
    data = read_dataset(path, protocol="unseen", seed=seed)
    seen, unseen = set(data.train.labels), set(data.gallery.labels)
    assert len(unseen) == max(1, round(classes / 4))
    assert not seen & unseen
    assert seen | unseen == {f"class{i}" for i in range(classes)}
    assert set(data.query.labels) == unseen
    assert not set(data.query.paths) & (set(data.gallery.paths) | set(data.train.paths))
    if split:
        assert (len(data.train), len(data.gallery), len(data.query)) == (
            3 * len(seen),
            3 * len(unseen),
            2 * len(unseen),
        )
    assert read_dataset(path, protocol="unseen", seed=seed) == data
    assert (
        f"unseen (seed {seed}): queries and gallery of {len(unseen)} of {classes} classes"
        in data.protocol
    )


def test_parts_of_a_protocol(like_cifar: Path, tmp_path: Path) -> None:
    data = read_dataset(like_cifar, protocol="unseen", seed=5)
    for part in ("train", "query", "gallery"):
        assert read_images(like_cifar, part, protocol="unseen", seed=5) == getattr(data, part)
    for part in ("all", "val", "test"):
        with pytest.raises(
            DataError,
            match=f"makes the parts train, query and gallery: choose one of them, not '{part}'",
        ):
            read_images(like_cifar, part, protocol="unseen")
    with pytest.raises(
        DataError,
        match="no protocol is named 'seen': have own, 10k-50k, 1k-5k-54k, 1k-5k-59k, unseen",
    ):
        read_dataset(like_cifar, protocol="seen")  # type: ignore[arg-type]
    touch(tmp_path, "plain/a.jpg", "plain/b.jpg", "one/cat/a.jpg", "one/cat/b.jpg")
    with pytest.raises(DataError, match="has no labels: protocol unseen is made of classes"):
        read_dataset(tmp_path / "plain", protocol="unseen")
    with pytest.raises(DataError, match="has one class"):
        read_dataset(tmp_path / "one", protocol="unseen")
    with pytest.raises(DataError, match="is one image and has no part"):
        read_images(tmp_path / "plain" / "a.jpg", protocol="unseen")


def test_the_command_line_takes_protocols(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, unseen = str(tmp_path / "a.wb"), ["--protocol", "unseen", "--seed", "1"]
    assert (
        main.main(["index", index, str(photos), "--bits", "12", "--split", "gallery", *unseen]) == 0
    )
    assert "6 images (6 added)" in capsys.readouterr().out
    assert main.main(["evaluate", index, str(photos), "--json", *unseen]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["queries"], record["queries_in_gallery"]) == (2, 0)
    assert (
        "unseen (seed 1): queries and gallery of 1 of 3 classes, training on the 2 others only"
        in record["protocol"]
    )
    assert main.main(["evaluate", index, str(photos), "--split", "query", "--json", *unseen]) == 0
    assert json.loads(capsys.readouterr().out)["queries"] == 2
    assert main.main(["index", index, str(photos), "--protocol", "unseen"]) == 2
    assert "choose one of them, not 'all'" in capsys.readouterr().err
