"""Each known data set in miniature, with the files, lists and names of its official archive."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import stat
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wingbar.data import layouts, unpickle
from wingbar.data.catalogue import DATA_SETS
from wingbar.data.readers import read_dataset, read_images
from wingbar.data.records import Truth
from wingbar.errors import DataError

Files = dict[str, bytes]


def text(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


# -- miniatures


def cub() -> Files:
    names = [
        "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
        "001.Black_footed_Albatross/x_0002.jpg",
    ]
    names += [
        "200.Common_Yellowthroat/Common_Yellowthroat_0003.jpg",
        "200.Common_Yellowthroat/y_0004.jpg",
    ]
    top = "CUB_200_2011"
    return {
        "attributes.txt": text("1 has_bill_shape::curved_(up_or_down)"),
        **{f"{top}/images/{name}": b"jpeg" for name in names},
        f"{top}/README": b"",
        f"{top}/images.txt": text(*[f"{i} {name}" for i, name in enumerate(names, 1)]),
        f"{top}/classes.txt": text("1 001.Black_footed_Albatross", "200 200.Common_Yellowthroat"),
        f"{top}/image_class_labels.txt": text("1 1", "2 1", "3 200", "4 200"),
        f"{top}/train_test_split.txt": text("1 0", "2 1", "3 1", "4 1"),
        f"{top}/bounding_boxes.txt": text(*[f"{i} 60.0 27.0 325.0 304.0" for i in range(1, 5)]),
        f"{top}/attributes/certainties.txt": text("1 not visible"),
        f"{top}/parts/parts.txt": text("1 back"),
    }


def nabirds() -> Files:
    ids = [
        "0000139e-21dc-4d0c-bfe1-4cae3c85c829",
        "0000d9fc-4e02-4c06-a0af-a55cfb16b12b",
        "00019306-9d83-4334-b255-a447742edce3",
    ]
    names = [
        "0817/0000139e21dc4d0cbfe14cae3c85c829.jpg",
        "0860/0000d9fc4e024c06a0afa55cfb16b12b.jpg",
        "0900/x.jpg",
    ]
    return {
        **{f"nabirds/images/{name}": b"jpeg" for name in names},
        "nabirds/images.txt": text(*[f"{i} {name}" for i, name in zip(ids, names, strict=True)]),
        "nabirds/classes.txt": text(
            "0 Birds",
            "817 Oak Titmouse",
            "860 House Sparrow",
            "900 House Sparrow",
            "901 House Sparrow",
        ),
        "nabirds/hierarchy.txt": text("817 0", "860 0", "900 0", "901 0"),
        "nabirds/image_class_labels.txt": text(f"{ids[0]} 817", f"{ids[1]} 860", f"{ids[2]} 900"),
        "nabirds/train_test_split.txt": text(f"{ids[0]} 1", f"{ids[1]} 0", f"{ids[2]} 1"),
        "nabirds/bounding_boxes.txt": text(*[f"{i} 83 59 128 228" for i in ids]),
    }


def aircraft() -> Files:
    top = "fgvc-aircraft-2013b/data"
    parts = {
        "train": ["0034309 A300B4"],
        "val": ["0034958 Boeing 737-700"],
        "test": ["0037511 A300B4", "0037512 DC-9-30"],
    }
    parts["trainval"] = parts["train"] + parts["val"]
    return {
        **{
            f"{top}/images/{line.split()[0]}.jpg": b"jpeg"
            for lines in parts.values()
            for line in lines
        },
        **{f"{top}/images_variant_{part}.txt": text(*lines) for part, lines in parts.items()},
        f"{top}/images_test.txt": text("0037511", "0037512"),
        f"{top}/variants.txt": text("A300B4", "Boeing 737-700", "DC-9-30"),
        f"{top}/images_box.txt": text("0034309 3 144 998 431"),
    }


def food() -> Files:
    parts = {
        "train": {
            "apple_pie": ["apple_pie/1005649", "apple_pie/1014775"],
            "churros": ["churros/1004234"],
        }
    }
    parts["test"] = {"apple_pie": ["apple_pie/1011328"], "churros": ["churros/1061830"]}
    names = {
        part: [name for of_class in classes.values() for name in of_class]
        for part, classes in parts.items()
    }
    return {
        **{
            f"food-101/images/{name}.jpg": b"jpeg" for of_part in names.values() for name in of_part
        },
        **{
            f"food-101/meta/{part}.json": json.dumps(classes).encode()
            for part, classes in parts.items()
        },
        **{f"food-101/meta/{part}.txt": text(*of_part) for part, of_part in names.items()},
        "food-101/meta/classes.txt": text("apple_pie", "churros"),
        "food-101/meta/labels.txt": text("Apple pie", "Churros"),
        "food-101/README.txt": b"",
        "food-101/license_agreement.txt": b"",
    }


def vegfru() -> Files:
    parts = {
        "train": ["veg200_images/cardoon/v_14_03_0001.jpg 0"],
        "val": ["veg200_images/cardoon/v_14_03_0002.jpg 0"],
    }
    parts["test"] = ["fru92_images/lemon/f_01_0001.jpg 200", "fru92_images/lemon/f_01_0002.jpg 200"]
    return {
        **{line.split()[0]: b"jpeg" for lines in parts.values() for line in lines},
        **{f"vegfru_list/vegfru_{part}.txt": text(*lines) for part, lines in parts.items()},
        **{f"vegfru_list/supvegfru_{part}.txt": text(*lines) for part, lines in parts.items()},
    }


def mat(**values: Any) -> bytes:
    import io

    from scipy.io import savemat

    out = io.BytesIO()
    savemat(out, values)
    return out.getvalue()


def dogs() -> Files:
    parts = {
        "train": [
            "n02085620-Chihuahua/n02085620_5927.jpg",
            "n02116738-African_hunting_dog/n02116738_1105.jpg",
        ]
    }
    parts["test"] = ["n02085620-Chihuahua/n02085620_2650.jpg"]
    files = {f"Images/{name}": b"jpeg" for names in parts.values() for name in names}
    for part, names in [*parts.items(), ("file", parts["train"] + parts["test"])]:
        cells = np.array(names, object)[:, None]
        files[f"{part}_list.mat"] = mat(
            file_list=cells, annotation_list=cells, labels=np.ones((len(names), 1))
        )
    return files


def python2(value: Any) -> bytes:
    """A value as Python 2 pickles it (protocol 2): strings are of bytes, arrays name numpy.core."""

    def write(value: Any) -> bytes:
        if value is None:
            return b"N"
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, (str, bytes)):
            data = value.encode("latin-1") if isinstance(value, str) else value
            return b"T" + struct.pack("<I", len(data)) + data
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, dict):
            return (
                b"}(" + b"".join(write(key) + write(inner) for key, inner in value.items()) + b"u"
            )
        if isinstance(value, list):
            return b"](" + b"".join(map(write, value)) + b"e"
        if isinstance(value, tuple):
            return b"(" + b"".join(map(write, value)) + b"t"
        assert isinstance(value, np.ndarray)
        kind = b"cnumpy\ndtype\n" + write((value.dtype.str[1:], 0, 1)) + b"R"
        kind += write((3, value.dtype.str[0], None, None, None, -1, -1, 0)) + b"b"
        made = (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
            + write((0,))
            + write("b")
            + b"tR"
        )
        return (
            made
            + b"("
            + write(1)
            + write(value.shape)
            + kind
            + b"\x89"
            + write(value.tobytes())
            + b"tb"
        )

    return b"\x80\x02" + write(value) + b"."


CIFAR_NAMES = ["airplane", "automobile", "bird"]


def cifar(each: int = 2) -> Files:
    rng = np.random.default_rng(0)
    top, files = "cifar-10-batches-py", {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data, labels = rng.integers(0, 256, (3 * each, 3072), np.uint8), [0, 1, 2] * each
        batch = {
            "batch_label": name,
            "labels": labels,
            "data": data,
            "filenames": [f"{i}.png" for i in range(3 * each)],
        }
        files[f"{top}/{name}"] = python2(batch)
    meta = {"num_cases_per_batch": 3 * each, "label_names": CIFAR_NAMES, "num_vis": 3072}
    return {**files, f"{top}/batches.meta": python2(meta), f"{top}/readme.html": b"<html>"}


def idx(values: np.ndarray[Any, Any]) -> bytes:
    return (
        struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
        + values.astype(np.uint8).tobytes()
    )


def mnist(labels: tuple[int, ...] = (7, 2, 1, 0, 4, 1, 4, 9, 5, 9), zipped: bool = True) -> Files:
    rng = np.random.default_rng(0)
    parts = {"train": np.array([3, 3, 8]), "t10k": np.array(labels)}
    plain = {
        **{
            f"{part}-images-idx3-ubyte": idx(rng.integers(0, 256, (len(values), 28, 28)))
            for part, values in parts.items()
        },
        **{f"{part}-labels-idx1-ubyte": idx(values) for part, values in parts.items()},
    }
    return (
        {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in plain.items()}
        if zipped
        else plain
    )


def fashion() -> Files:
    return mnist((9, 2, 1, 1, 6, 1, 4, 6, 5, 7))


def truth_of(gallery: list[str], arrays: bool = False) -> dict[str, Any]:
    def numbers(values: list[int]) -> Any:
        return np.array(values, np.int64) if arrays else values

    gnd = [
        {
            "bbx": [136.5, 34.1, 648.5, 955.7],
            "easy": numbers([0, 2]),
            "hard": numbers([1]),
            "junk": numbers([]),
        },
        {
            "bbx": np.array([-3.0, 0.4, 10.0, 20.0]),
            "easy": numbers([]),
            "hard": numbers([2]),
            "junk": numbers([0]),
        },
    ]
    return {"gnd": gnd, "imlist": gallery, "qimlist": ["all_souls_000013", "worcester_000065"]}


def oxford() -> Files:
    gallery = ["all_souls_000051", "all_souls_000206", "oxford_002734"]
    names = [*gallery, "all_souls_000013", "worcester_000065", "not_listed_000001"]
    return {
        **{f"jpg/{name}.jpg": b"jpeg" for name in names},
        "gnd_roxford5k.pkl": python2(truth_of(gallery)),
    }


def paris() -> Files:
    """As the archives lie: a folder for each building."""
    gallery = ["paris_defense_000605", "paris_louvre_000001", "paris_eiffel_000002"]
    queries = [f"jpg/paris/all/{name}.jpg" for name in ("all_souls_000013", "worcester_000065")]
    names = [f"jpg/paris/{name.split('_')[1]}/{name}.jpg" for name in gallery]
    return {
        **dict.fromkeys(names + queries, b"jpeg"),
        "gnd_rparis6k.pkl": pickle.dumps(truth_of(gallery, arrays=True), protocol=4),
    }


def landmarks() -> Files:
    ids = ["17660ef415d37059", "92b6290d571448f6", "cd41bf948edc0340"]
    return {
        **{f"train/{i[0]}/{i[1]}/{i[2]}/{i}.jpg": b"jpeg" for i in ids},
        "train_clean.csv": text("landmark_id,images", f"1,{ids[0]} {ids[1]}", f"7,{ids[2]}"),
    }


MINIATURES: dict[str, Callable[[], Files]] = {
    "CUB-200-2011": cub,
    "NABirds": nabirds,
    "FGVC-Aircraft": aircraft,
    "Food-101": food,
    "VegFru": vegfru,
    "Stanford Dogs": dogs,
    "CIFAR-10": cifar,
    "MNIST": mnist,
    "Fashion-MNIST": fashion,
    "ROxford5k": oxford,
    "RParis6k": paris,
    "GLDv2-clean": landmarks,
}


def put(folder: Path, files: Files) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def named(images: Any) -> list[str]:
    return sorted(f"{entry.label}/{entry.path.name}" for entry in images)


# -- what is read


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
    assert first.box is None  # whole birds are searched for
    assert first.columns == {"bounding_box": "60.0,27.0,325.0,304.0"}
    assert data == read_dataset(tmp_path / "CUB_200_2011")


def test_the_official_number_of_images_is_the_plain_name(
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


def test_a_killed_unpacking_leaves_nothing_that_looks_whole(
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
    told: list[tuple[str, int, int]] = []
    found = layouts.find(put(tmp_path / "MNIST" / "raw", files).parent)
    assert found is not None
    layouts.prepare(found, lambda *what: told.append(what))
    assert told == [("writing pictures", 13, 13)]
    data = read_dataset(tmp_path / "MNIST")
    assert data.protocol == "MNIST (13 of 70,000 images): query=test, gallery=train"
    assert named(data.train) == ["3/00000.png", "3/00001.png", "8/00002.png"]
    assert sorted(str(label) for label in data.query.labels) == list("0112445799")
    raw = files["train-images-idx3-ubyte" + ".gz" * zipped]
    pixels = np.frombuffer((gzip.decompress(raw) if zipped else raw)[16:], np.uint8).reshape(
        3, 28, 28
    )
    np.testing.assert_array_equal(np.asarray(Image.open(data.train[2].path)), pixels[2])


def test_the_others_in_files_of_the_same_names(tmp_path: Path) -> None:
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


def test_revisited_with_what_does_not_fit(tmp_path: Path) -> None:
    files = oxford()
    (put(tmp_path, files) / "jpg" / "oxford_002734.jpg").unlink()
    with pytest.raises(
        DataError,
        match=(
            r"1 of 5 images are not there, the first is oxford_002734.jpg: unpack the images "
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


# -- pickles


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("broken-in",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"imlist": Evil()}),
        pickle.dumps({"imlist": np.array([Evil()], object)}),
        b"cposix\nsystem\n(S'touch broken-in'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cposix\nsystem\nI0\ntR.",
        python2({"a": np.zeros(3)})[:-30],
        b"",
        b"\x80\x04noise",
    ],
)
def test_hostile_pickles_run_nothing(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (put(tmp_path, oxford()) / "gnd_roxford5k.pkl").write_bytes(content)
    with pytest.raises(DataError, match=r"gnd_roxford5k.pkl cannot be read \(.*\): fetch it again"):
        read_dataset(tmp_path)
    assert not (tmp_path / "broken-in").exists()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.array([1, 2], ">i4"),
        np.asfortranarray(np.eye(3)),
        np.empty(0),
    ],
)
def test_arrays_come_back_from_pickles(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    contents = [
        pickle.dumps({"x": array, "y": array.dtype.type(3)}, protocol=protocol)
        for protocol in range(2, 6)
    ]
    for content in [
        *contents,
        *([python2({"x": array, "y": 3.0})] if array.flags.c_contiguous else []),
    ]:
        (tmp_path / "a.pkl").write_bytes(content)
        back = unpickle._unpickled(tmp_path / "a.pkl")
        np.testing.assert_array_equal(unpickle._numbers(back["x"]), array)
        assert back["y"] == 3


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
                    rf"1 of \d listed images are not there, the first is .*{Path(lost).name}: "
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
            "line 2: 1 stands there a second time",
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
            "is no batch of CIFAR-10",
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
            "and has others: fetch it again",
        ),
        (
            mnist,
            "t10k-labels-idx1-ubyte.gz",
            gzip.compress(idx(np.arange(9))[:-1], mtime=0),
            "says that it has 9 bytes",
        ),
        (
            mnist,
            "train-images-idx3-ubyte.gz",
            gzip.compress(idx(np.arange(9))[:-1], mtime=0),
            "and has others",
        ),
        (
            mnist,
            "train-images-idx3-ubyte.gz",
            gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12, mtime=0),
            "and has others",
        ),
    ],
)
def test_lists_that_do_not_fit(
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
        match=r"mine\.png cannot be listed \(Not a directory\): remove .*wingbar-images, then",
    ):
        read_dataset(tmp_path)


def test_folders_of_people_are_not_taken_for_them(tmp_path: Path) -> None:
    put(tmp_path / "a", {"images.txt": b"x", "cat/a.jpg": b"", "dog/b.jpg": b""})
    put(tmp_path / "b", {"photos/cub/CUB_200_2011/notes.txt": b"x", "photos/cat/a.jpg": b""})
    put(tmp_path / "c" / "birds", cub())
    put(tmp_path / "c", {"cat/a.jpg": b""})
    for name in "abc":
        assert layouts.find(tmp_path / name) is None
        assert read_images(tmp_path / name).protocol == "folder: all"
