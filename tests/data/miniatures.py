"""Each known data set in miniature, with the files, lists and names of its official archive."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

Files = dict[str, bytes]


def text(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


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
    """As the archives unpack: one folder per building."""
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
