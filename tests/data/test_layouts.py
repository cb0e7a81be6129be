from __future__ import annotations

import gzip
import os
import pickle
import shutil
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.miniatures import (
    CIFAR_NAMES,
    MINIATURES,
    Files,
    aircraft,
    cifar,
    cub,
    dogs,
    fashion,
    food,
    idx,
    landmarks,
    mat,
    mnist,
    nabirds,
    oxford,
    paris,
    put,
    python2,
    text,
    truth_of,
    vegfru,
)
from wingbar.data import layouts
from wingbar.data.catalogue import DATA_SETS
from wingbar.data.readers import read_dataset, read_images
from wingbar.data.records import Truth
from wingbar.errors import DataError


def named(images: Any) -> list[str]:
    return sorted(f"{entry.label}/{entry.path.name}" for entry in images)


def test_every_data_set_is_recognised(tmp_path: Path) -> None:
    assert {*layouts.LAYOUTS, "Fashion-MNIST"} == set(MINIATURES) == set(layouts.IMAGES)
    assert {data.title: data.images for data in DATA_SETS.values()} == layouts.IMAGES
    for name, make in MINIATURES.items():
        found = layouts.find(put(tmp_path / name, make()))
        assert found is not None
        assert found.name == ("MNIST" if name == "Fashion-MNIST" else name)
    assert layouts.find(tmp_path) is None  # several in one folder
    assert layouts.find(tmp_path / "nowhere") is None


def test_cub(tmp_path: Path) -> None:
    data = read_dataset(put(tmp_path, cub()))
    assert data.protocol == "CUB-200-2011 (4 of 11,788 images): query=test, gallery=train"
    assert named(data.query) == ["001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"]
    assert data.train.labels == [
        "001.Black_footed_Albatross",
        "200.Common_Yellowthroat",
        "200.Common_Yellowthroat",
    ]
    first = data.query[0]
    assert (
        first.path
        == tmp_path
        / "CUB_200_2011/images/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"
    )
    assert first.box is None  # the whole picture is the query
    assert first.columns == {"bounding_box": "60.0,27.0,325.0,304.0"}
    assert data == read_dataset(tmp_path / "CUB_200_2011")


def test_with_all_official_images_it_has_its_plain_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(layouts.IMAGES, "CUB-200-2011", 4)
    assert read_dataset(put(tmp_path, cub())).protocol == "CUB-200-2011: query=test, gallery=train"
    assert read_images(tmp_path, "train").protocol == "CUB-200-2011: train"


def test_nabirds_tells_classes_of_one_name_apart(tmp_path: Path) -> None:
    data = read_dataset(put(tmp_path, nabirds()))
    assert data.protocol.startswith("NABirds (3 of 48,562 images): query=test")
    assert data.train.labels == ["Oak Titmouse", "House Sparrow (900)"]
    assert data.query.labels == ["House Sparrow (860)"]


def test_aircraft(tmp_path: Path) -> None:
    data = read_dataset(put(tmp_path, aircraft()))
    assert named(data.train) == ["A300B4/0034309.jpg", "Boeing 737-700/0034958.jpg"]
    assert named(data.query) == ["A300B4/0037511.jpg", "DC-9-30/0037512.jpg"]
    assert data.val is None
    assert data == read_dataset(tmp_path / "fgvc-aircraft-2013b" / "data")


@pytest.mark.parametrize("removed", ["none", "json"])
def test_food(tmp_path: Path, removed: str) -> None:
    data = read_dataset(
        put(tmp_path, {name: value for name, value in food().items() if not name.endswith(removed)})
    )
    assert named(data.train) == [
        "apple_pie/1005649.jpg",
        "apple_pie/1014775.jpg",
        "churros/1004234.jpg",
    ]
    assert named(data.query) == ["apple_pie/1011328.jpg", "churros/1061830.jpg"]


def test_vegfru(tmp_path: Path) -> None:
    data = read_dataset(put(tmp_path, vegfru()))
    assert named(data.train) == ["cardoon/v_14_03_0001.jpg"]
    assert data.val is not None
    assert named(data.val) == ["cardoon/v_14_03_0002.jpg"]
    assert named(data.query) == ["lemon/f_01_0001.jpg", "lemon/f_01_0002.jpg"]
    for top in ("veg200_images", "fru92_images"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / top).rename(tmp_path / "images" / top)
    assert read_dataset(tmp_path).query.labels == data.query.labels


def test_dogs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = read_dataset(put(tmp_path, dogs()))
    assert named(data.train) == [
        "n02085620-Chihuahua/n02085620_5927.jpg",
        "n02116738-African_hunting_dog/n02116738_1105.jpg",
    ]
    assert named(data.query) == ["n02085620-Chihuahua/n02085620_2650.jpg"]
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(
        DataError, match=r"needs SciPy to be read: run pip install 'wingbar\[train\]'"
    ):
        read_dataset(tmp_path)


def test_landmarks(tmp_path: Path) -> None:
    images = read_images(put(tmp_path, landmarks()), "train")
    assert named(images) == [
        "1/17660ef415d37059.jpg",
        "1/92b6290d571448f6.jpg",
        "7/cd41bf948edc0340.jpg",
    ]
    shutil.move(tmp_path / "train", tmp_path / "moved")
    for letter in (tmp_path / "moved").iterdir():
        letter.rename(tmp_path / letter.name)
    (tmp_path / "moved").rmdir()
    assert read_images(tmp_path).labels == images.labels


# -- CIFAR-10 and MNIST


def test_cifar(tmp_path: Path) -> None:
    files = cifar()
    data = read_dataset(put(tmp_path, files))
    assert data.protocol == "CIFAR-10 (36 of 60,000 images): query=test, gallery=train"
    assert (len(data.train), len(data.query)) == (30, 6)
    folder = tmp_path / "cifar-10-batches-py" / "wingbar-images"
    batch = pickle.loads(files["cifar-10-batches-py/data_batch_2"], encoding="latin1")
    picture = np.asarray(
        Image.open(folder / "train" / "automobile" / "00007.png")
    )  # the second of the second batch
    np.testing.assert_array_equal(picture, batch["data"][1].reshape(3, 32, 32).transpose(1, 2, 0))
    assert {entry.label for entry in data.query} == set(CIFAR_NAMES)
    assert data.query[0].path == folder / "test" / "airplane" / "00000.png"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_batches_pickled_by_python_3(tmp_path: Path, protocol: int) -> None:
    files = cifar()
    again = {
        name: pickle.dumps(pickle.loads(data, encoding="latin1"), protocol=protocol)
        if "batch" in Path(name).name
        else data
        for name, data in files.items()
    }
    first, second = (
        read_dataset(put(tmp_path / "a", files)),
        read_dataset(put(tmp_path / "b", again)),
    )
    assert [p.read_bytes() for p in first.train.paths] == [
        p.read_bytes() for p in second.train.paths
    ]


def test_pictures_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_dataset(put(tmp_path, cifar()))
    before = [path.stat().st_mtime_ns for path in first.train.paths]
    for path in (tmp_path / "cifar-10-batches-py").glob("*batch*"):
        path.write_bytes(b"")  # is not read again
    monkeypatch.setattr(layouts, "_unpack_pictures", lambda *_: pytest.fail("unpacked twice"))
    assert read_dataset(tmp_path) == first
    assert [path.stat().st_mtime_ns for path in first.train.paths] == before


def test_killed_unpacking_leaves_nothing_that_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, cifar())
    folder = tmp_path / "cifar-10-batches-py"
    with monkeypatch.context() as patched:
        patched.setattr(os, "utime", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            read_dataset(tmp_path)
    assert not list(folder.glob("*wingbar*")) + list(folder.glob(".wingbar*"))
    for name, age in (
        (".wingbar-images-old", 7200),
        (".wingbar-images-new", 60),
    ):  # of killed and of running processes
        (folder / name / "train").mkdir(parents=True)
        os.utime(folder / name, (time.time() - age, time.time() - age))
    assert len(read_images(tmp_path)) == 36
    assert sorted(path.name for path in folder.glob(".wingbar*")) == [".wingbar-images-new"]
    assert stat.S_IMODE((folder / "wingbar-images").stat().st_mode) == 0o755


def test_another_process_may_unpack_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a", cifar())
    put(tmp_path / "b", cifar())
    read_images(tmp_path / "a")
    real = os.rename

    def late(source: Any, target: Any) -> None:
        shutil.copytree(tmp_path / "a" / "cifar-10-batches-py" / "wingbar-images", target)
        real(source, target)

    monkeypatch.setattr(os, "rename", late)
    assert len(read_images(tmp_path / "b")) == 36
    assert not list((tmp_path / "b" / "cifar-10-batches-py").glob(".wingbar*"))


def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(layouts.tempfile, "mkdtemp", refused)  # type: ignore[attr-defined]
    with pytest.raises(
        DataError,
        match=(
            r"cannot be written to \(Permission denied\).*copy the data set to a folder that "
            r"you can"
        ),
    ):
        read_dataset(put(tmp_path, cifar()))


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist(tmp_path: Path, zipped: bool) -> None:
    files = mnist(zipped=zipped)
    reported: list[tuple[str, int, int]] = []
    found = layouts.find(put(tmp_path / "MNIST" / "raw", files).parent)
    assert found is not None
    layouts.prepare(found, lambda *what: reported.append(what))
    assert reported == [("writing pictures", 13, 13)]
    data = read_dataset(tmp_path / "MNIST")
    assert data.protocol == "MNIST (13 of 70,000 images): query=test, gallery=train"
    assert named(data.train) == ["3/00000.png", "3/00001.png", "8/00002.png"]
    assert sorted(str(label) for label in data.query.labels) == list("0112445799")
    raw = files["train-images-idx3-ubyte" + ".gz" * zipped]
    pixels = np.frombuffer((gzip.decompress(raw) if zipped else raw)[16:], np.uint8).reshape(
        3, 28, 28
    )
    np.testing.assert_array_equal(np.asarray(Image.open(data.train[2].path)), pixels[2])


def test_other_data_sets_in_files_of_the_same_names(tmp_path: Path) -> None:
    assert read_dataset(put(tmp_path / "a", fashion())).protocol.startswith(
        "Fashion-MNIST (13 of 70,000 images): query=test"
    )
    assert (
        read_dataset(put(tmp_path / "b", mnist((1, 2)))).protocol
        == "idx: query=test, gallery=train"
    )
    renamed = {name.replace("-idx", ".idx"): data for name, data in mnist(zipped=False).items()}
    assert read_dataset(put(tmp_path / "c", renamed)).protocol.startswith("MNIST")


# -- revisited Oxford and Paris


@pytest.mark.parametrize(("name", "make"), [("ROxford5k", oxford), ("RParis6k", paris)])
def test_revisited(tmp_path: Path, name: str, make: Callable[[], Files]) -> None:
    data = read_dataset(put(tmp_path, make()))
    official = layouts.IMAGES[name]
    assert data.protocol == f"{name} (5 of {official:,} images): query=query, gallery=gallery"
    assert [entry.path.stem for entry in data.query] == ["all_souls_000013", "worcester_000065"]
    assert [entry.box for entry in data.query] == [(136, 34, 512, 922), (0, 0, 10, 20)]
    assert [entry.box for entry in data.gallery] == [None] * 3
    assert data.gallery[0].path.stem in (
        "all_souls_000051",
        "paris_defense_000605",
    )  # the order of the list is kept
    assert data.truth == [Truth([0, 2], [1], []), Truth([], [2], [0])]
    assert not data.query.labelled
    with pytest.raises(DataError, match="has no labels: protocol unseen"):
        read_dataset(tmp_path, protocol="unseen")


def test_revisited_with_a_wrong_ground_truth(tmp_path: Path) -> None:
    files = oxford()
    (put(tmp_path, files) / "jpg" / "oxford_002734.jpg").unlink()
    with pytest.raises(
        DataError,
        match=(
            r"1 of 5 images are missing, the first is oxford_002734.jpg: unpack the images "
            r"into"
        ),
    ):
        read_dataset(tmp_path)
    good = truth_of(["all_souls_000051", "all_souls_000206", "oxford_002734"])
    put(tmp_path, files)
    wrong: list[tuple[Any, str]] = [
        ({**good, "qimlist": ["all_souls_000013"]}, "1 queries and 2 ground truths"),
        ({**good, "imlist": ["all_souls_000051"]}, "names image 2, its gallery has 1"),
        ({"imlist": []}, "is not the ground truth"),
        ({**good, "gnd": [{"bbx": [1.0]}]}, "is not the ground truth"),
        (
            {**good, "gnd": [{**good["gnd"][0], "bbx": [float("nan")] * 4}]},
            "is not the ground truth",
        ),
        ([1, 2], "cannot be read"),
    ]
    for content, reason in wrong:
        (tmp_path / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=reason):
            read_dataset(tmp_path)


# -- what does not fit


def test_images_that_are_missing(tmp_path: Path) -> None:
    skip = {"CIFAR-10", "MNIST", "Fashion-MNIST", "ROxford5k", "RParis6k"}
    for name, make in MINIATURES.items():
        if name not in skip:
            files = make()
            lost = next(path for path in files if path.endswith(".jpg"))
            put(tmp_path / name, {path: data for path, data in files.items() if path != lost})
            with pytest.raises(
                DataError,
                match=(
                    rf"1 of \d listed images are missing, the first is .*{Path(lost).name}: "
                    r"unpack"
                ),
            ):
                read_dataset(tmp_path / name)


CUB = "CUB_200_2011/"
AIRCRAFT = "fgvc-aircraft-2013b/data/"
CIFAR = "cifar-10-batches-py/"


@pytest.mark.parametrize(
    ("make", "file", "content", "reason"),
    [
        (
            cub,
            CUB + "images.txt",
            text("1 a/b.jpg"),
            r"images.txt has 1 images and image_class_labels.txt 4",
        ),
        (
            cub,
            CUB + "image_class_labels.txt",
            text("1 1", "2 1", "3 200", "4 7"),
            "image 4 is of class 7, which classes.txt",
        ),
        (
            cub,
            CUB + "train_test_split.txt",
            text("1 0", "2 1", "3 1", "4 2"),
            "image 4 has '2', not 0 or 1",
        ),
        (
            cub,
            CUB + "train_test_split.txt",
            text("1 0", "1 1"),
            "line 2: 1 appears a second time",
        ),
        (cub, CUB + "classes.txt", text("1"), "line 1: expected a name and a value"),
        (cub, CUB + "classes.txt", None, r"classes.txt cannot be read \(No such file"),
        (cub, CUB + "classes.txt", b"\xff\xfe\x00", "is not text in UTF-8"),
        (
            nabirds,
            "nabirds/train_test_split.txt",
            text("x 1"),
            "images.txt has 3 images and train_test_split.txt 1",
        ),
        (aircraft, AIRCRAFT + "images_variant_trainval.txt", None, "cannot be read"),
        (aircraft, AIRCRAFT + "images_variant_test.txt", b"", "list of its test images is empty"),
        (food, "food-101/meta/train.json", b"{", "train.json cannot be read"),
        (food, "food-101/meta/train.json", b'["apple"]', "train.json cannot be read"),
        (food, "food-101/meta/test.json", b'{"a": ["apple"]}', "expected class/image, not 'apple'"),
        (
            vegfru,
            "vegfru_list/vegfru_test.txt",
            text("lemon.jpg"),
            "line 1: expected veg200_images/class/image.jpg",
        ),
        (vegfru, "vegfru_list/vegfru_test.txt", None, "cannot be read"),
        (dogs, "test_list.mat", None, "test_list.mat cannot be read"),
        (dogs, "test_list.mat", b"noise" * 100, "test_list.mat cannot be read"),
        (
            dogs,
            "test_list.mat",
            mat(file_list=np.array(["a/b.jpg"], object)),
            "test_list.mat cannot be read",
        ),
        (
            dogs,
            "test_list.mat",
            mat(file_list=np.array(["a/b.jpg"], object), labels=[1, 2]),
            "1 files and 2 labels",
        ),
        (
            landmarks,
            "train_clean.csv",
            text("id,url", "1,x"),
            "needs the columns landmark_id and images",
        ),
        (
            landmarks,
            "train_clean.csv",
            text("landmark_id,images", "1"),
            "needs the columns landmark_id and images",
        ),
        (
            cifar,
            CIFAR + "data_batch_3",
            None,
            "data_batch_3 is not there: unpack the archive again",
        ),
        (
            cifar,
            CIFAR + "data_batch_3",
            python2({"data": np.zeros((2, 3), np.uint8)}),
            "is not a batch of CIFAR-10",
        ),
        (
            cifar,
            CIFAR + "test_batch",
            python2({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}),
            "1 labels and data",
        ),
        (
            cifar,
            CIFAR + "test_batch",
            python2({"data": np.zeros((1, 3072)), "labels": [1]}),
            "float64",
        ),
        (
            cifar,
            CIFAR + "test_batch",
            python2({"data": np.zeros((1, 3072), np.uint8), "labels": [7]}),
            "name of class 7",
        ),
        (cifar, CIFAR + "batches.meta", python2({"num_vis": 3072}), "has no label_names"),
        (
            cifar,
            CIFAR + "batches.meta",
            python2({"label_names": ["../evil", "b", "c"]}),
            "cannot be a folder's",
        ),
        (
            mnist,
            "t10k-labels-idx1-ubyte.gz",
            None,
            "has no t10k-labels-idx1-ubyte: put all four files",
        ),
        (
            mnist,
            "t10k-labels-idx1-ubyte.gz",
            gzip.compress(idx(np.arange(9)), mtime=0),
            "10 images and 9 labels of part test",
        ),
        (mnist, "t10k-labels-idx1-ubyte.gz", b"noise", "cannot be read"),
        (
            mnist,
            "t10k-labels-idx1-ubyte.gz",
            gzip.compress(b"noise", mtime=0),
            "after its header and does not: fetch it again",
        ),
        (
            mnist,
            "t10k-labels-idx1-ubyte.gz",
            gzip.compress(idx(np.arange(9))[:-1], mtime=0),
            "should have 9 bytes after its header",
        ),
        (
            mnist,
            "train-images-idx3-ubyte.gz",
            gzip.compress(idx(np.arange(9))[:-1], mtime=0),
            "after its header and does not",
        ),
        (
            mnist,
            "train-images-idx3-ubyte.gz",
            gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12, mtime=0),
            "after its header and does not",
        ),
    ],
)
def test_lists_that_contradict_each_other(
    tmp_path: Path, make: Callable[[], Files], file: str, content: bytes | None, reason: str
) -> None:
    files = make()
    assert file in files
    put(tmp_path, {name: data for name, data in files.items() if name != file})
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_dataset(tmp_path)


def test_unpacked_pictures_that_were_tampered_with(tmp_path: Path) -> None:
    before = read_dataset(put(tmp_path, mnist()))
    put(tmp_path, {"wingbar-images/mine.png": b"x", "wingbar-images/train/3/Thumbs.db": b"x"})
    assert read_dataset(tmp_path) == before
    put(tmp_path, {"wingbar-images/train/mine.png": b"x"})
    with pytest.raises(
        DataError,
        match=(
            r"mine\.png cannot be listed \(Not a directory\): remove .*wingbar-images to have it "
            r"rebuilt"
        ),
    ):
        read_dataset(tmp_path)


def test_ordinary_folders_are_not_mistaken_for_known_data_sets(tmp_path: Path) -> None:
    put(tmp_path / "a", {"images.txt": b"x", "cat/a.jpg": b"", "dog/b.jpg": b""})
    put(tmp_path / "b", {"photos/cub/CUB_200_2011/notes.txt": b"x", "photos/cat/a.jpg": b""})
    put(tmp_path / "c" / "birds", cub())
    put(tmp_path / "c", {"cat/a.jpg": b""})
    for name in "abc":
        assert layouts.find(tmp_path / name) is None
        assert read_images(tmp_path / name).protocol == "folder: all"
