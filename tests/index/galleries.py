"""Galleries of random codes in every kind of store, and what a search of them must find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.brute_force import Bits, brute_force, clustered
from tests.model.test_model import trained_model
from wingbar.hamming.codes import pack, unpack
from wingbar.index.engine import AnyStore, Item, Row
from wingbar.index.ranking import FINE, TIE_CAP, Fine, SearchOptions
from wingbar.model.model import Embeddings, Model, with_record

DIM = 16
BATCH = 5000  # items per transaction


def model_of(bits: int, name: str = "tiny") -> Model:
    """A model of codes of `bits` bits and features of DIM numbers, whose network is never run."""
    trained = trained_model(bits=bits)
    record = {k: v for k, v in trained.record.items() if k not in ("format", "files")}
    files = {"model.onnx": trained.files["model.onnx"]}
    return Model(with_record(files, {**record, "dim": DIM, "name": name}))


@dataclass(frozen=True)
class Gallery:
    """Items, and their bits [N, b] and features [N, d]. Item i has the id i + 1."""

    model: Model
    items: list[Item]
    bits: Bits
    features: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def ids(self) -> NDArray[np.int64]:
        return np.arange(1, len(self) + 1)

    def add_to(self, store: AnyStore, rows: Sequence[int] | None = None) -> None:
        """Store these rows, or all."""
        chosen = range(len(self)) if rows is None else rows
        for start in range(0, len(chosen), BATCH):
            part = list(chosen[start : start + BATCH])
            with store.writing():
                store.add(
                    [self.items[i] for i in part],
                    pack(self.bits[part]),
                    self.features[part].astype(np.float32),
                    self.model.bits,
                    [i + 1 for i in part],
                )

    def queries(self, count: int, seed: int = 9) -> list[Embeddings]:
        """Queries near to items: a few bits are turned."""
        rng = np.random.default_rng(seed)
        chosen = rng.integers(len(self), size=count)
        bits = self.bits[chosen] ^ (rng.random((count, self.model.bits)) < 0.05)
        logits = np.where(bits, 1, -1) * rng.random(bits.shape)
        features = unit(rng.standard_normal((count, DIM)))
        model = self.model
        return [
            Embeddings(
                pack(bits[i : i + 1]),
                features[i : i + 1],
                logits[i : i + 1].astype(np.float32),
                model.bits,
                model.name,
                model.fingerprint,
            )
            for i in range(count)
        ]

    def expected(
        self, query: Embeddings, options: SearchOptions, fine: Fine, keep: Bits | None = None
    ) -> tuple[list[tuple[int, int]], bool]:
        """The (distance, id) pairs of the coarse stage, and whether a tie was cut."""
        want = options.k if fine == "none" else max(options.k, options.shortlist)
        return brute_force(
            unpack(query.codes, query.bits)[0],
            self.bits,
            self.ids,
            want,
            query.bits if options.radius is None else options.radius,
            np.ones(len(self), bool) if keep is None else keep,
            fine != "none",
            TIE_CAP * want,
        )

    def rows(self) -> list[Row]:
        """What a store gives back."""
        packed = pack(self.bits)
        return [Row(i + 1, item, packed[i], self.features[i]) for i, item in enumerate(self.items)]


def gallery(count: int, bits: int, seed: int = 0, centres: int = 12) -> Gallery:
    """A gallery whose codes repeat: with labels, a column of numbers and one of text."""
    rng = np.random.default_rng(seed)
    items = [
        Item(
            f"/photos/{'north' if i % 3 else 'south'}/{i:06}.jpg",
            None if i % 7 == 0 else f"class {i % 5}",
            {"price": f"{i % 40}.5", "colour": "red" if i % 2 else "blue"} if i % 4 else {},
            1000 + i,
            10**18 + i,
            i.to_bytes(32, "big"),
        )
        for i in range(count)
    ]
    return Gallery(
        model_of(bits),
        items,
        clustered(rng, count, bits, centres, 0.08),
        unit(rng.standard_normal((count, DIM))).astype(np.float16),
    )


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# Filters, and which items of a gallery pass them.
FILTERS: dict[str, tuple[Sequence[str], object]] = {
    "label": (["label=class 2"], lambda item: item.label == "class 2"),
    "alternatives": (
        ["label=class 2", "label=class 3"],
        lambda item: item.label in ("class 2", "class 3"),
    ),
    "not a label": (["label!=class 2"], lambda item: item.label != "class 2"),
    "number": (["price<7"], lambda item: float(item.columns.get("price", "inf")) < 7),
    "equal numbers": (["price=7.50"], lambda item: item.columns.get("price") == "7.5"),
    "text": (["colour=red"], lambda item: item.columns.get("colour") == "red"),
    "not a text": (["colour!=red"], lambda item: item.columns.get("colour") != "red"),
    "folder": (["path=south/*"], lambda item: "/south/" in item.path),
    "glob": (["path=0000[1-2]?.jpg"], lambda item: "/00001" in item.path or "/00002" in item.path),
    "all": (
        ["price>=10", "price<=30", "colour=red", "path!=north/*"],
        lambda item: (
            10 <= float(item.columns.get("price", "-1")) <= 30
            and item.columns["colour"] == "red"
            and "/north/" not in item.path
        ),
    ),
}


def passing(gallery: Gallery, name: str) -> tuple[Sequence[str], Bits]:
    """A filter, and which items pass it: [N] bool."""
    where, test = FILTERS[name]
    assert callable(test)
    return where, np.array([bool(test(item)) for item in gallery.items])


ALL_FINE = FINE
