"""Items, codes and features out of an index into a Parquet or NumPy file, and back.

Both kinds of file have the same columns, one row an item:

    id        int64
    path      text: the path of the picture, or array:KEY
    label     text or null
    columns   text: a JSON object of the further columns
    size      int64: bytes of the picture's file, -1 if there is none
    mtime     int64: time of its last change, in nanoseconds
    content   32 bytes: sha256 of the file
    code      ceil(bits / 8) bytes, bit i of the code is bit i % 8 of byte i // 8
    feature   d numbers of a unit vector: float32 in Parquet, float16 in NumPy; the same values

and a JSON text "wingbar" with `bits`, `dim`, `model`, `method` and `fingerprint`: in the metadata
of the Parquet schema, or as one more array. A file that another program writes needs `feature`
only, beside it `path` (or `key`) and `label` where there are any. In NumPy a missing label is "",
and `labelled` says which ones are there.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import DataError, ModelError, StoreError, one_line
from wingbar.files import (
    partial_path,
    remove_leftovers,
    require_own,
    sync_folder,
    taken,
    with_own_name,
)
from wingbar.hamming.codes import Packed, pack, unpack
from wingbar.index.index import Index, model_at
from wingbar.index.kept import Kept
from wingbar.index.sqlite_file import empty_stale_log, put_in_place, remove_index, to_disk
from wingbar.index.store import CHUNK, NO_FILE, Item, Store
from wingbar.index.vectors import as_float32, checked_vectors
from wingbar.model.model import Model

if TYPE_CHECKING:
    import pyarrow

KINDS = (".parquet", ".npz")
BLOCK = 16_384  # items that are written at a time
NOTE = "wingbar"  # the name of the JSON text
_FEATURES = ("feature", "features", "embedding", "embeddings", "vector", "vectors")
_PATHS = ("path", "paths", "key", "keys", "filename", "file_name")
_LABELS = ("label", "labels")
_IDS = ("id", "ids")


@dataclass(frozen=True)
class Exported:
    """What was written: the file, the number of items, and the length of their codes and
    features."""

    file: str
    items: int
    bits: int
    dim: int


@dataclass(frozen=True)
class Imported:
    """What was read into a new index.

    index: its path.
    items: number of items.
    bits: length of the codes.
    kept_codes: whether the codes are those of the file; if not, they were learned from the vectors.
    notes: sentences on what may surprise.
    """

    index: str
    items: int
    bits: int
    kept_codes: bool
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class _Rows:
    """The rows of a file. `ids`, `items` and `codes` are None where wingbar has not written it, and
    `has_other_ids` says whether it has ids then."""

    features: NDArray[np.floating]
    note: Mapping[str, Any]
    paths: Sequence[str] | None = None
    labels: Sequence[str | None] | None = None
    ids: NDArray[np.int64] | None = None
    items: Sequence[Item] | None = None
    codes: NDArray[np.uint8] | None = None
    has_other_ids: bool = False


# -- out


def export(index: Index, file: str | os.PathLike[str]) -> Exported:
    """Write the items of an index with codes and features into a new or old `file`, .parquet or
    .npz, whole or not at all.

    Raises DataError for another kind of file, or without pyarrow for Parquet; ModelError for an
    index without codes; StoreError where the file cannot be written.
    """
    path = Path(file)
    _require_kind(path)
    require_own(path, b"PK" if path.suffix.lower() == ".npz" else b"PAR1")
    remove_leftovers(path)
    partial = partial_path(path)
    try:
        with index.snapshot():
            note: dict[str, Any] = {
                "bits": index.model.bits,
                "dim": index.model.dim,
                "model": index.model.name,
                "method": index.model.method,
                "fingerprint": index.model.fingerprint,
            }
            if path.suffix.lower() == ".npz":
                _write_npz(index, partial, note)
            else:
                _write_parquet(index, partial, note)
            count = len(index)
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror or one_line(error)}): free some space or "
            "name another place"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return Exported(str(path), count, note["bits"], note["dim"])


def _code_bytes(codes: Packed, bits: int) -> NDArray[np.uint8]:
    """Codes [N, w] as bytes [N, ceil(bits / 8)]."""
    return np.packbits(unpack(codes, bits), axis=1, bitorder="little")


def _columns_text(item: Item) -> str:
    return json.dumps(dict(item.columns), ensure_ascii=False, sort_keys=True)


def _write_npz(index: Index, partial: Path, note: Mapping[str, Any]) -> None:
    items = index.items()
    arrays = {
        "id": index.ids(),
        "path": _texts([item.path for item in items]),
        "label": _texts([item.label or "" for item in items]),
        "labelled": np.array([item.label is not None for item in items], bool),
        "columns": _texts([_columns_text(item) for item in items]),
        "size": np.array([item.size for item in items], np.int64),
        "mtime": np.array([item.mtime for item in items], np.int64),
        "content": np.frombuffer(b"".join(item.content for item in items), np.uint8).reshape(
            -1, 32
        ),
        "code": _code_bytes(index.codes(), note["bits"]),
        "feature": index.features(),
        NOTE: np.array(json.dumps(note)),
    }
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _texts(values: Sequence[str]) -> NDArray[np.str_]:
    return np.array(values, np.str_) if values else np.empty(0, "U1")


def _write_parquet(index: Index, partial: Path, note: Mapping[str, Any]) -> None:
    pa, parquet = _pyarrow()
    bits, dim = note["bits"], note["dim"]
    schema = pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("columns", pa.string(), nullable=False),
            pa.field("size", pa.int64(), nullable=False),
            pa.field("mtime", pa.int64(), nullable=False),
            pa.field("content", pa.binary(32), nullable=False),
            pa.field("code", pa.binary(-(-bits // 8)), nullable=False),
            pa.field("feature", pa.list_(pa.float32(), dim), nullable=False),
        ],
        metadata={NOTE: json.dumps(note)},
    )
    ids = index.ids()
    # opened here: pyarrow takes no file names that are not UTF-8
    with (
        partial.open("wb") as file,
        parquet.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for begin in range(0, len(ids), BLOCK):
            part = ids[begin : begin + BLOCK].tolist()
            items = index.items(part)
            code = _code_bytes(index.codes(part), bits)
            flat = index.features(part).astype(np.float32).ravel()
            columns = [
                pa.array(part, pa.int64()),
                pa.array([item.path for item in items], pa.string()),
                pa.array([item.label for item in items], pa.string()),
                pa.array([_columns_text(item) for item in items], pa.string()),
                pa.array([item.size for item in items], pa.int64()),
                pa.array([item.mtime for item in items], pa.int64()),
                pa.array([item.content for item in items], pa.binary(32)),
                pa.array([row.tobytes() for row in code], pa.binary(code.shape[1])),
                pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dim),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _pyarrow() -> tuple[Any, Any]:
    """pyarrow and its module for Parquet."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            "Parquet needs pyarrow: pip install 'wingbar[parquet]', or use a file that ends in .npz"
        ) from None
    return pa, parquet


def _require_kind(path: Path) -> None:
    if path.suffix.lower() not in KINDS:
        raise DataError(f"{path}: the name of the file ends in {' or '.join(KINDS)}")


# -- in


def import_file(
    file: str | os.PathLike[str],
    index_path: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    bits: int | None = None,
    seed: int = 0,
    features: Kept = "float16",
) -> Imported:
    """Make a new index at `index_path` of a .parquet or .npz file.

    With `model`, a model directory or an index of the model that the file was exported from, items,
    ids, codes and features are what they were, and the index is searched by images. Without, it is
    an index of vectors: codes of `bits` bits are learned from the features, drawn with `seed`.
    `features` is how the index keeps them, as for `Index.create`. Raises DataError for a file that
    does not hold what is needed, ModelError for another model, StoreError where the index cannot be
    made.
    """
    path, target = Path(file), Path(index_path)
    _require_kind(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    remove_leftovers(target)
    if target.exists():
        raise StoreError(taken(target))
    rows = _read_npz(path) if path.suffix.lower() == ".npz" else _read_parquet(path)
    _check(path, rows)
    if model is not None and bits is not None:
        raise DataError("--bits is for codes that are learned anew: leave out --model or --bits")
    partial = partial_path(target)
    try:
        remove_index(partial)  # of a killed process that had the same number
        if model is None:
            done = _import_vectors(path, partial, rows, bits, seed, features)
        else:
            done = _import_whole(path, partial, rows, model_at(model), features)
        to_disk(partial)
        empty_stale_log(target)
        put_in_place(partial, target)
        sync_folder(target.parent)
    except FileExistsError:
        raise StoreError(taken(target)) from None
    except OSError as error:
        raise StoreError(
            f"{target} cannot be written ({error.strerror or one_line(error)}): free some space or "
            "name another place"
        ) from error
    except StoreError as error:
        raise StoreError(with_own_name(str(error), target)) from error
    finally:  # no half-made index is left behind
        with suppress(OSError):
            remove_index(partial)
    return replace(done, index=str(target))


def _import_vectors(
    path: Path, target: Path, rows: _Rows, bits: int | None, seed: int, features: Kept
) -> Imported:
    vectors = checked_vectors(rows.features, rows.features.shape[1])
    notes = []
    if rows.note.get("fingerprint"):
        notes.append(
            f"the codes were learned anew from the features; --model keeps those of "
            f"{rows.note.get('model')} and lets you search by image"
        )
    if rows.has_other_ids:
        notes.append("the ids of the file were not taken: items are numbered in its order")
    paths = rows.paths
    if paths is None:
        paths = [f"row {row}" for row in range(len(vectors))]
        notes.append("the file has no column path or key: items are called row 0, row 1 and so on")
    model = Model.of_vectors(vectors.shape[1], path.stem)
    with Index.create(target, model, features=features) as index:
        if rows.items is None:
            index.add(vectors=vectors, keys=paths, labels=rows.labels, bits=bits, seed=seed)
        else:
            fitted = model.fitted(
                vectors[_sample(len(vectors), seed)],
                min(64, model.dim) if bits is None else bits,
                seed,
            )
            _fill(target, fitted, rows, None)
        index = Index.open(target)
        length = index.model.bits
        index.close()
    return Imported(str(target), len(vectors), length, False, notes)


def _sample(count: int, seed: int) -> NDArray[np.int64]:
    from wingbar.index.refit import sample_of

    return sample_of(count, seed)


def _import_whole(path: Path, target: Path, rows: _Rows, model: Model, features: Kept) -> Imported:
    if rows.items is None or rows.codes is None or rows.ids is None:
        raise DataError(
            f"{path} was not written by wingbar export-codes, so it does not belong to a model: "
            "leave --model out"
        )
    if rows.note.get("fingerprint") != model.fingerprint:
        raise ModelError(
            f"{path} is of the model {rows.note.get('model')} "
            f"({str(rows.note.get('fingerprint'))[:12]}), not of {model}: name the model or the "
            "index that it was exported from, or leave --model out"
        )
    wide = -(-model.bits // 8)
    if rows.codes.shape[1] != wide or rows.features.shape[1] != model.dim:
        raise DataError(f"{path} does not hold codes and features as {model} makes them")
    bits = np.unpackbits(rows.codes, axis=1, bitorder="little")[:, : model.bits].astype(bool)
    Index.create(target, model, features=features).close()
    _fill(target, model, rows, pack(bits))
    return Imported(str(target), len(rows.ids), model.bits, True)


def _fill(target: Path, model: Model, rows: _Rows, packed: Packed | None) -> None:
    """Write all rows with their ids into a new index, in one transaction."""
    assert rows.items is not None
    assert rows.ids is not None
    order = np.argsort(rows.ids, kind="stable")
    store = Store.open(target)
    try:
        with store.writing():
            store.set_model(model.files)
            for begin in range(0, len(order), CHUNK):
                part = order[begin : begin + CHUNK]
                features = rows.features[part].astype(np.float32)
                if packed is None:
                    embedded = model.embed(features)
                    codes, features = embedded.codes, embedded.features
                else:
                    codes = packed[part]
                store.add(
                    [rows.items[row] for row in part],
                    codes,
                    features,
                    model.bits,
                    rows.ids[part].tolist(),
                )
    finally:
        store.close()


def _check(path: Path, rows: _Rows) -> None:
    """Raise DataError for rows that do not fit each other, or that no index can hold."""
    features = rows.features
    if features.ndim != 2 or features.dtype.kind != "f" or not features.shape[1]:
        raise DataError(
            f"{path}: features are one vector of numbers an item, all of one length, not "
            f"{list(features.shape)} of {features.dtype}"
        )
    if not len(features):
        raise DataError(f"{path} holds no items")
    columns = {"path": rows.paths, "label": rows.labels, "id": rows.ids, "code": rows.codes}
    for name, values in columns.items():
        if values is not None and len(values) != len(features):
            raise DataError(
                f"{path}: {len(features):,} features and {len(values):,} of {name}: one each"
            )
    bad = np.flatnonzero(~np.isfinite(as_float32(features)).all(1))
    if len(bad):
        raise DataError(
            f"{path}: the feature of row {bad[0]} is not finite as float32: leave such rows out"
        )
    if rows.paths is not None and len(set(rows.paths)) < len(rows.paths):
        twice = next(one for one, times in Counter(rows.paths).items() if times > 1)
        raise DataError(f"{path}: the path {twice!r} is there twice: paths tell items apart")
    if rows.ids is not None and (
        len(np.unique(rows.ids)) < len(rows.ids) or rows.ids.min() < 1 or rows.ids.max() >= 2**47
    ):
        raise DataError(f"{path}: ids are numbers from 1 up, each once")


def _read_npz(path: Path) -> _Rows:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = set(archive.files)
            read = {
                name: archive[name]
                for name in names & {*_FEATURES, *_PATHS, *_LABELS, *_IDS}
                | (names & {"labelled", "columns", "size", "mtime", "content", "code", NOTE})
            }
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise DataError(
            f"{path} cannot be read as a NumPy archive ({one_line(error)}): write it with "
            "np.savez, texts as arrays of str and not of objects"
        ) from None
    features = _first(read, _FEATURES)
    if features is None:
        raise DataError(
            f"{path} has no array 'feature': it holds {', '.join(sorted(names)) or 'nothing'}"
        )
    note = _note(path, str(read[NOTE])) if NOTE in read else {}
    labels = _first(read, _LABELS)
    known = read.get("labelled")
    texts: list[str | None] | None = None
    if labels is not None:
        every = [str(label) for label in labels.tolist()]
        flags = [bool(text) for text in every] if known is None else known.tolist()
        texts = [text if flag else None for text, flag in zip(every, flags, strict=False)]
    paths = _first(read, _PATHS)
    return _rows(
        path,
        features,
        note,
        None if paths is None else [str(one) for one in paths.tolist()],
        texts,
        {**read, "id": _first(read, _IDS)},
    )


def _read_parquet(path: Path) -> _Rows:
    pa, parquet = _pyarrow()
    try:
        with path.open("rb") as file:  # pyarrow takes no file names that are not UTF-8
            table: pyarrow.Table = parquet.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {one_line(error)}") from None
    names = table.column_names
    name = next((one for one in _FEATURES if one in names), None)
    if name is None:
        raise DataError(f"{path} has no column 'feature': it holds {', '.join(names) or 'nothing'}")
    column = table.column(name).combine_chunks()
    try:
        flat = column.flatten().to_numpy(zero_copy_only=False)
        features = as_float32(np.asarray(flat)).reshape(len(table), -1)
        ragged = column.null_count or len(set(_lengths(column))) > 1
    except (AttributeError, ValueError, TypeError, pa.ArrowException):
        ragged = True
    if ragged:
        raise DataError(
            f"{path}: the column {name!r} holds no vectors of one length (a list of numbers for "
            "each item)"
        )

    def texts(wanted: Sequence[str]) -> list[Any] | None:
        found = next((one for one in wanted if one in names), None)
        return None if found is None else table.column(found).to_pylist()

    raw = (table.schema.metadata or {}).get(NOTE.encode())
    paths, labels = texts(_PATHS), texts(_LABELS)
    read: dict[str, Any] = {
        one: np.array(table.column(one).to_pylist(), np.int64) if one in names else None
        for one in ("size", "mtime")
    }
    read["id"] = texts(_IDS)
    read["columns"] = texts(("columns",))
    for one in ("content", "code"):
        if one in names and raw is not None:
            joined = b"".join(table.column(one).to_pylist())
            read[one] = np.frombuffer(joined, np.uint8).reshape(len(table), -1)
    return _rows(
        path,
        features,
        {} if raw is None else _note(path, raw.decode("utf-8", "replace")),
        None if paths is None else [str(one) for one in paths],
        None if labels is None else [None if one is None else str(one) for one in labels],
        read,
    )


def _lengths(column: Any) -> Iterator[int]:
    """The lengths of the lists of a column; nothing for lists of a fixed size."""
    if hasattr(column, "value_lengths"):
        yield from column.value_lengths().unique().to_pylist()


def _rows(
    path: Path,
    features: NDArray[Any],
    note: Mapping[str, Any],
    paths: Sequence[str] | None,
    labels: Sequence[str | None] | None,
    read: Mapping[str, Any],
) -> _Rows:
    """The rows of a file; with whole items where wingbar wrote it."""
    rows = _Rows(features, note, paths, labels, has_other_ids=read.get("id") is not None)
    whole = ("id", "columns", "size", "mtime", "content", "code")
    if not note or paths is None or labels is None or any(read.get(n) is None for n in whole):
        return rows
    try:
        items = [
            Item(one, label, _columns(text), int(size), int(mtime), content.tobytes())
            for one, label, text, size, mtime, content in zip(
                paths,
                labels,
                read["columns"],
                read["size"],
                read["mtime"],
                np.asarray(read["content"], np.uint8),
                strict=True,
            )
        ]
        ids = np.asarray(read["id"], np.int64)
        codes = np.asarray(read["code"], np.uint8)
        if codes.ndim != 2 or ids.ndim != 1 or any(item.size < NO_FILE for item in items):
            raise ValueError("columns of the wrong shape")
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{path} is not as wingbar export-codes wrote it ({one_line(error)}): export it again"
        ) from None
    return _Rows(features, note, paths, labels, ids, items, codes)


def _columns(text: object) -> dict[str, str]:
    columns = json.loads(str(text))
    if not isinstance(columns, dict) or not all(isinstance(v, str) for v in columns.values()):
        raise ValueError("columns that are no text")
    return columns


def _note(path: Path, text: str) -> dict[str, Any]:
    try:
        note = json.loads(text)
    except (ValueError, RecursionError):
        note = None
    if not isinstance(note, dict):
        raise DataError(f"{path}: its JSON text {NOTE!r} cannot be read: export it again")
    return note


def _first(read: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((read[name] for name in names if name in read), None)
