from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wingbar.cli import main
from wingbar.data.protocols import Protocol, apply_protocol
from wingbar.data.readers import read_dataset, read_images, read_parts
from wingbar.data.records import Images, Parts
from wingbar.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def csv_of(folder: Path, *rows: tuple[str, int, str]) -> Path:
    """A CSV of images: each row is a label, the number of its images, and their split."""
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
def read_once(path: Path) -> Parts:
    return read_parts(path)


def counts(images: Images) -> dict[str | None, int]:
    return dict(sorted(Counter(images.labels).items(), key=str))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32), without=st.booleans())
def test_draws_of_each_class(like_cifar: Path, seed: int, without: bool) -> None:
    name: Protocol = "1k-5k-54k" if without else "1k-5k-59k"
    parts = read_once(like_cifar)
    data = apply_protocol(parts, like_cifar, name, seed)
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
    assert apply_protocol(parts, like_cifar, name, seed) == data
    assert set(apply_protocol(parts, like_cifar, name, seed + 1).query.paths) != query
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
def test_unseen_classes(
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
    with pytest.raises(DataError, match="has no labels: protocol unseen splits by class"):
        read_dataset(tmp_path / "plain", protocol="unseen")
    with pytest.raises(DataError, match="has one class"):
        read_dataset(tmp_path / "one", protocol="unseen")
    with pytest.raises(DataError, match="is one image and has no part"):
        read_images(tmp_path / "plain" / "a.jpg", protocol="unseen")


@pytest.mark.slow
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
        "unseen (seed 1): queries and gallery of 1 of 3 classes, the 2 others for training"
        in record["protocol"]
    )
    assert main.main(["evaluate", index, str(photos), "--split", "query", "--json", *unseen]) == 0
    assert json.loads(capsys.readouterr().out)["queries"] == 2
    assert main.main(["index", index, str(photos), "--protocol", "unseen"]) == 2
    assert "choose one of them, not 'all'" in capsys.readouterr().err
