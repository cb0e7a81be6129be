from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from wingbar import images
from wingbar.data.readers import read_dataset, read_images
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


def test_csv_that_is_not_text(tmp_path: Path) -> None:
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


def test_images_can_have_several_labels(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a.jpg 1 0 1\nb.jpg 0 1 0\n")
    (tmp_path / "test.txt").write_text("q.jpg 0 1 1\n")
    lists = read_dataset(tmp_path)
    assert names(lists.train) == ["a.jpg:0|2", "b.jpg:1"]
    assert lists.train.multi_label
    assert lists.query.multi_label
    table = tmp_path / "list.csv"
    table.write_text("path,label,split\na.jpg,dog | cat|dog,train\nb.jpg,,train\nq.jpg,cat,test\n")
    several = read_dataset(table, multi_label=True)
    assert names(several.train) == ["a.jpg:cat|dog", "b.jpg:None"]
    assert names(several.query) == ["q.jpg:cat"]
    assert several.gallery.multi_label
    assert read_images(table, "train", multi_label=True) == several.train
    one = read_images(table)
    assert names(one)[0] == "a.jpg:dog | cat|dog"
    assert not one.multi_label
    for protocol in ("unseen", "1k-5k-54k"):
        with pytest.raises(DataError, match="have several labels: choose own or 10k-50k"):
            read_dataset(table, protocol=protocol, multi_label=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("b.jpg 0 1\nimages/a.jpg\n", "line 2: expected a path and 0 or 1 for every class"),
        ("a.jpg 1 0\nb.jpg 1 0 0\n", "line 2: 3 classes, the first line has 2"),
        ("a.jpg 0 0 0\n", "line 1: no class is marked"),
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


def test_text_files_beside_class_folders_are_not_lists(tmp_path: Path) -> None:
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


def test_missing_sources_and_parts(tmp_path: Path) -> None:
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


def test_a_box_column_crops_queries(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('path,label,box,price\none.png,x,"1,2,30,40",5\ntwo.png,y,,6\n')
    found = read_images(tmp_path / "a.csv")
    assert [entry.box for entry in found] == [(1, 2, 30, 40), None]
    assert [dict(entry.columns) for entry in found] == [{"price": "5"}, {"price": "6"}]
    (tmp_path / "b.csv").write_text('path,box\none.png,"1,2"\n')
    with pytest.raises(DataError, match=r"line 2: a box is x,y,width,height"):
        read_images(tmp_path / "b.csv")


def test_folders_of_other_software_are_left_out(tmp_path: Path) -> None:
    kept = ["cat/a.jpg", "dog/b.jpg", "dog/@home/c.jpg"]
    left = ["cat/@eaDir/a.jpg/THUMB.jpg", "#recycle/x.jpg", "$RECYCLE.BIN/y.jpg"]
    left += ["System Volume Information/z.jpg", "__MACOSX/q.jpg", "lost+found/r.jpg"]
    left += ["list.wb.uploads/up.jpg"]
    touch(tmp_path, *kept, *left, ".Trashes/501/s.jpg", "list.wb")
    found = read_images(tmp_path)
    assert names(found) == ["a.jpg:cat", "c.jpg:dog", "b.jpg:dog"]
    assert {str(path.relative_to(tmp_path)) for path in found.skipped} == {
        "cat/@eaDir",
        *(name.split("/")[0] for name in left[1:]),
    }
    assert len(read_images(tmp_path / "lost+found")) == 1  # asked for by name


def test_patterns_leave_files_and_folders_out(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "cat/a.thumb.jpg", "cat/raw/b.jpg", "dog/raw/c.jpg", "dog/d.jpg")
    assert names(read_images(tmp_path, exclude=["*.thumb.jpg", "cat/raw/"])) == [
        "a.jpg:cat",
        "d.jpg:dog",
        "c.jpg:dog",
    ]
    (tmp_path / "l.csv").write_text("path,label\ncat/a.jpg,1\ncat/raw/b.jpg,2\ndog/d.jpg,3\n")
    listed = read_images(tmp_path / "l.csv", exclude=["raw", "d.jpg"])
    assert names(listed) == ["a.jpg:1"]
    assert len(listed.skipped) == 2
    with pytest.raises(DataError, match="a pattern to exclude is not empty"):
        read_images(tmp_path, exclude=[""])


def test_class_names_in_both_unicode_forms_are_one_class(tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "K\u00e4fer") for form in ("NFC", "NFD"))
    touch(tmp_path, f"{nfc}/a.jpg", f"{nfd}/b.jpg")
    assert set(read_images(tmp_path).labels) == {nfc}
    (tmp_path / "l.csv").write_text(f"path,label\na.jpg,{nfd}\n", encoding="utf-8")
    assert read_images(tmp_path / "l.csv").labels == [nfc]


def test_labels_that_are_dropped_are_said(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg")
    assert read_images(tmp_path).notes == []
    touch(tmp_path, "stray.jpg")
    [note] = read_images(tmp_path).notes
    assert "has images beside its folders (the first is stray.jpg)" in note


def test_each_real_folder_is_visited_once(tmp_path: Path) -> None:
    touch(tmp_path / "pool", *(f"d{i}/{i}.jpg" for i in range(8)))
    root = tmp_path / "root"
    root.mkdir()
    for i in range(64):
        (root / f"link{i:02}").symlink_to(tmp_path / "pool")
        (tmp_path / "pool" / f"back{i}").symlink_to(tmp_path / "pool")  # each would multiply
    (root / "up").symlink_to(tmp_path)
    found = images.find(root)
    assert found.images == [root / "link00" / f"d{i}" / f"{i}.jpg" for i in range(8)]
    assert found.unreadable == []


def test_a_path_that_is_too_long_is_one_failure(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg")
    here = os.getcwd()
    try:
        os.chdir(tmp_path / "cat")
        for _ in range(20):
            os.mkdir("x" * 250)
            os.chdir("x" * 250)
        Path("deep.jpg").touch()
    finally:
        os.chdir(here)
    found = read_images(tmp_path)
    assert names(found) == ["a.jpg:cat"]
    assert len(found.unreadable) == 1


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b",path,label\n0,a.jpg,cat\n1,b.jpg,dog\n", ["a.jpg:cat", "b.jpg:dog"]),
        ("sep=;\r\nPath;Label\r\na.jpg;K\u00e4fer\r\n".encode("cp1252"), ["a.jpg:K\u00e4fer"]),
        ("path;label\na.jpg;K\u00e4fer\n".encode("utf-16"), ["a.jpg:K\u00e4fer"]),
        (b"path\tlabel\nimages\\a.jpg\tcat\n", ["a.jpg:cat"]),
        (b"path,label\na.jpg,cat,,\n\nb.jpg\n", ["a.jpg:cat", "b.jpg:None"]),
        (b'path,label\n"a, b.jpg","two\nlines"\n', ["a, b.jpg:two\nlines"]),
    ],
)
def test_csv_as_other_programs_write_it(tmp_path: Path, data: bytes, expected: list[str]) -> None:
    (tmp_path / "list.csv").write_bytes(data)
    found = read_images(tmp_path / "list.csv")
    assert names(found) == expected
    assert {path.parent.name for path in found.paths} <= {tmp_path.name, "images"}
    assert not any(entry.columns for entry in found)


def test_rows_without_a_file_are_failures(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("path,Price,price\n,1,2\na.jpg,3,4\nhttps://shop.example/b.jpg,5,6\n")
    found = read_images(path)
    assert [dict(entry.columns) for entry in found] == [{"Price": "3", "price": "4"}]
    assert [failure.path for failure in found.failed] == [f"{path}, line 2", f"{path}, line 4"]
    reasons = [failure.reason for failure in found.failed]
    assert reasons[0] == "the path is empty"
    assert reasons[1].startswith("https://shop.example/b.jpg: URLs are not fetched; download")
    [note] = found.notes
    assert note == f"{path} has columns Price and price: filters tell them apart by their case"
    path.write_text("path,price,price\na.jpg,3,4\n")
    with pytest.raises(DataError, match="two columns are named price; rename or remove one"):
        read_images(path)
