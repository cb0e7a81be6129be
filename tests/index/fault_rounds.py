"""Seeded rounds of kill -9 under a working index, and what is left of it each time.

A child process changes the index and writes down every change before it begins and once it has
returned; then it, or the server under it, is killed at a random moment. What is found afterwards
must be what was acknowledged, with the change that was under way either whole or not at all.
`tests/index/test_fault_rounds.py` runs a few rounds, `benchmarks/faults.py` hundreds.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.conftest import write_classes
from tests.databases import Server
from tests.index.galleries import DIM, model_of, unit
from tests.small_network import small_general
from wingbar.errors import StoreError
from wingbar.hamming.codes import pack
from wingbar.index import copy as copy_module
from wingbar.index import second as second_module
from wingbar.index import sync as sync_module
from wingbar.index.checks import verify
from wingbar.index.engine import NO_FILE, AnyStore, Item, Url, place_of
from wingbar.index.index import Index
from wingbar.index.place import create_store, open_store
from wingbar.index.sqlite_file import remove_index
from wingbar.model.model import Model

BITS = 24
PATHS = 150  # that the changes are about
MOST = 20  # paths of one change
SECONDS = 300.0  # in which a child must get on, on a busy machine
LINES = 12  # that it has written when it, or the server, is killed, at most
JITTER_SECONDS = 0.05  # that pass then, at most
_CHILDREN = multiprocessing.get_context("forkserver")
_CHILDREN.set_forkserver_preload(["tests.index.fault_rounds", "wingbar.index.postgres"])

State = dict[str, bytes]
"""The content of each path."""


@dataclass
class Counts:
    """What the rounds came to.

    rounds: number of rounds.
    cut_off: rounds in which a change was under way when the kill came.
    acknowledged: changes of a path, or verbs, that had returned before it.
    lost: acknowledged ones that were not there afterwards.
    torn: indexes that failed verify, held half a change, or could not be used.
    """

    rounds: int = 0
    cut_off: int = 0
    acknowledged: int = 0
    lost: int = 0
    torn: int = 0


class Change(NamedTuple):
    """A change of some paths in one transaction: their new content, None to delete them."""

    content: bytes | None
    paths: list[str]

    def applied_to(self, state: State) -> State:
        """The state afterwards."""
        if self.content is None:
            return {path: value for path, value in state.items() if path not in self.paths}
        return state | {path: _content(self.content, path) for path in self.paths}


def change(seed: int, round_: int, number: int) -> Change:
    """A change drawn with these numbers: two of three write paths, old ones or new."""
    rng = np.random.default_rng([seed, round_, number])
    drawn = rng.integers(PATHS, size=int(rng.integers(1, MOST + 1)))
    paths = [f"/p/{place:04}.jpg" for place in np.unique(drawn).tolist()]
    return Change(rng.bytes(16) if rng.random() < 2 / 3 else None, paths)


def _content(seed: bytes, path: str) -> bytes:
    return hashlib.sha256(seed + path.encode()).digest()


def _embedding(content: bytes) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Bits [b] and feature [d] that belong to a content."""
    rng = np.random.default_rng(list(content))
    return rng.random(BITS) < 0.5, unit(rng.standard_normal((1, DIM)))[0]


def make(store: AnyStore, one: Change) -> None:
    """Make a change in one transaction; begun anew where the connection is lost."""

    def work() -> None:
        with store.writing():
            if one.content is None:
                store.delete(store.ids_of_paths(one.paths).values())
                return
            contents = [_content(one.content, path) for path in one.paths]
            made = [_embedding(content) for content in contents]
            store.add(
                [
                    Item(path, None, {}, NO_FILE, 0, content)
                    for path, content in zip(one.paths, contents, strict=True)
                ],
                pack(np.stack([bits for bits, _ in made])),
                np.stack([feature for _, feature in made]),
                BITS,
            )

    store.retried(work)


# -- children

Log = Path


def _say(log: Log, text: str) -> None:
    """A line that is there once this returns, whatever becomes of the process."""
    with log.open("ab", buffering=0) as file:
        file.write(f"{text}\n".encode())


def _said(log: Log) -> list[list[str]]:
    """The words of the whole lines."""
    text = log.read_text() if log.exists() else ""
    return [line.split() for line in text.split("\n")[:-1]]


def _change_on(place: str, seed: int, round_: int, log: Log) -> None:
    if isinstance(place_of(place), Url):
        from wingbar.index import postgres

        postgres.PAUSES = (0.1,) * int(10 * SECONDS)  # until the server has recovered
    with closing(open_store(place)) as store:
        number = 0
        while True:
            _say(log, f"begin {number}")
            make(store, change(seed, round_, number))
            _say(log, f"ack {number}")
            number += 1


def _copy(source: str, target: str, log: Log) -> None:
    copy_module.BLOCK = 50  # items of a transaction
    _say(log, "begin")
    copy_module.copy(source, target, progress=lambda stage, done, _: _say(log, f"{stage} {done}"))
    _say(log, "end")


def _refit(place: str, seeds: list[int], log: Log) -> None:
    with Index.open(place) as index:
        for number, seed in enumerate(seeds):
            _say(log, f"begin {number}")
            index.refit(seed=seed)
            _say(log, f"ack {number}")


def _index_by_both(place: str, pictures: str, log: Log) -> None:
    for module in (sync_module, second_module):
        vars(module).update(COMMIT_IMAGES=4, BATCH=2)  # images of a transaction, and of a run
    with Index.open(place) as index:
        index.add_encoder(small_general("two", 2))
        _say(log, "begin")
        index.add(pictures, bits=12, progress=lambda stage, done, _: _say(log, f"{stage} {done}"))
        _say(log, "end")


@contextmanager
def _child(work: Callable[..., None], log: Log, *arguments: object) -> Iterator[None]:
    """A process at work, which is killed at the end of the block."""
    log.unlink(missing_ok=True)
    child = _CHILDREN.Process(target=work, args=(*arguments, log), daemon=True)
    child.start()
    try:
        yield
    finally:
        child.kill()
        child.join()


def _wait(log: Log, rng: np.random.Generator, more_than: int = 0) -> None:
    """Until the child has written a random number of lines, and a moment longer."""
    lines = more_than + int(rng.integers(1, LINES + 1))
    deadline = time.monotonic() + SECONDS
    while len(said := _said(log)) < lines and not (said and said[-1] == ["end"]):
        assert time.monotonic() < deadline, f"the child does not get on: {said[-1:]}"
        time.sleep(0.001)
    time.sleep(float(rng.random()) * JITTER_SECONDS)


# -- rounds


def change_rounds(
    place: str, folder: Path, rounds: int, seed: int, server: Server | None = None
) -> Counts:
    """Adds, upserts and deletes on a new index at `place`. The child is killed; with a `server`,
    that is killed first, at times before and at times after the child, which may then go on with
    the server that is started again."""
    counts, state = Counts(), State()
    create_store(place, model_of(BITS).files).close()
    log = folder / "log"
    for round_ in range(rounds):
        rng = np.random.default_rng([seed, round_])
        with _child(_change_on, log, place, seed, round_):
            _wait(log, rng)
            goes_on = server is not None and rng.random() < 0.5
            if server is not None:
                server.stop(9 if rng.random() < 0.5 else 3)  # a crash, or at once
            if goes_on and server is not None:
                server.start()
                _wait(log, rng, len(_said(log)))
        if server is not None and not goes_on:
            server.start()
        state = _count_changes(place, seed, round_, _said(log), state, counts)
    return counts


def _count_changes(
    place: str, seed: int, round_: int, said: list[list[str]], before: State, counts: Counts
) -> State:
    """Compare what is there with what was said. Returns what is there."""
    acknowledged = before
    for word, number in said:
        if word == "ack":
            one = change(seed, round_, int(number))
            acknowledged = one.applied_to(acknowledged)
            counts.acknowledged += len(one.paths)
    allowed = [acknowledged]
    if said and said[-1][0] == "begin":
        counts.cut_off += 1
        allowed.append(change(seed, round_, int(said[-1][1])).applied_to(acknowledged))
    counts.rounds += 1
    with closing(open_store(place)) as store:
        with store.writing():
            pass  # waits until the server has ended the transactions of the child
        rows = store.rows(0, 2**31, BITS, DIM)
    found = {row.item.path: row.item.content for row in rows}
    whole = not verify(place) and len(found) == len(rows)
    for row in rows:
        bits, feature = _embedding(row.item.content)
        whole &= np.array_equal(row.code, pack(bits[None])[0])
        whole &= np.array_equal(row.feature, feature.astype(np.float16))
    counts.torn += not whole or found not in allowed
    touched = set(allowed[-1].items()) ^ set(acknowledged.items())
    open_paths = {path for path, _ in touched}
    counts.lost += sum(
        found.get(path) != content
        for path, content in acknowledged.items()
        if path not in open_paths
    )
    counts.lost += sum(path not in acknowledged and path not in open_paths for path in found)
    return found


def copy_rounds(folder: Path, rounds: int, seed: int, items: int = 400) -> Counts:
    """`wingbar copy` between files, killed, looked at and run again; the source changes between
    rounds, and at times the copy starts from nothing. An item is acknowledged once the copy has
    reported it."""
    counts = Counts()
    source, target, log = folder / "a.wb", folder / "b.wb", folder / "log"
    with closing(create_store(source, model_of(BITS).files)) as store:
        for number in range(items // MOST):
            paths = [f"/q/{number}/{i}.jpg" for i in range(MOST)]
            make(store, Change(number.to_bytes(16), paths))
    for round_ in range(rounds):
        rng = np.random.default_rng([seed, round_])
        with closing(open_store(source)) as store:
            for number in range(3):
                make(store, change(seed, round_, number))
        if rng.random() < 0.5:
            remove_index(target)
        with _child(_copy, log, str(source), str(target)):
            _wait(log, rng)
        counts.rounds += 1
        said = _said(log)
        counts.cut_off += said[-1] != ["end"]
        done = max([0, *(int(words[1]) for words in said if words[0] == "copying")])
        counts.acknowledged += done
        wanted = _rows(source)
        if target.exists():
            there = _rows(target)
            missing = sum(there.get(id_) != row for id_, row in list(wanted.items())[:done])
            counts.lost += missing
            counts.torn += bool(verify(target))
        else:
            counts.lost += done
        try:
            copy_module.copy(source, target)
        except StoreError:
            counts.torn += 1
            remove_index(target)
            continue
        counts.torn += bool(verify(target)) or _rows(target) != wanted
    return counts


def _rows(place: Path) -> dict[int, tuple[object, ...]]:
    """All that a copy must hold, by id."""
    with closing(open_store(place)) as store:
        return {
            row.id: (row.item, row.code.tobytes(), row.feature.tobytes())
            for row in store.rows(0, 2**31, BITS, DIM)
        }


def refit_rounds(folder: Path, rounds: int, seed: int, items: int = 600) -> Counts:
    """`refit` of an index of vectors, again and again with other seeds, killed in one of them. The
    codes must all be of the model that is found, which is that of the last refit that returned, or
    of the one after it."""
    counts = Counts()
    place, log = folder / "r.wb", folder / "log"
    rng = np.random.default_rng(seed)
    vectors = unit(rng.standard_normal((items, DIM)))
    with Index.create(place, Model.of_vectors(DIM)) as index:
        index.add(vectors=vectors, keys=[f"v{i}" for i in range(items)], bits=12, seed=0)
        before = index.model.fingerprint
    for round_ in range(rounds):
        seeds = [1000 * round_ + number + 1 for number in range(200)]
        with _child(_refit, log, str(place), seeds):
            _wait(log, rng)
        counts.rounds += 1
        said = _said(log)
        done = sum(word == "ack" for word, _ in said)
        counts.acknowledged += done
        counts.cut_off += said[-1][0] == "begin"
        counts.torn += bool(verify(place))
        with Index.open(place) as index:
            model = index.model
            raw = index.features().astype(np.float32)
            counts.torn += not np.array_equal(index.codes(), model.embed(raw).codes)
            fitted_with = int(model.record["fitted"]["seed"])
            reached = seeds.index(fitted_with) + 1 if fitted_with in seeds else 0
            counts.lost += max(0, done - reached)
            is_old = done == 0 and model.fingerprint == before
            counts.torn += not (is_old or done <= reached <= done + 1)
            before = model.fingerprint
    return counts


def also_rounds(folder: Path, rounds: int, seed: int) -> Counts:
    """A second encoder is added to an index of half of the pictures, killed, looked at, and at
    times killed again before it may end. No item may be gone, nor any code be another than that of
    its picture, by either encoder; and in the end both must have encoded all of them. A picture
    that an encoder has encoded when the kill comes is acknowledged."""
    counts = Counts()
    base, place, log = folder / "base.wb", folder / "a.wb", folder / "log"
    pictures = write_classes(folder / "pictures", 10)
    with Index.create(base, small_general("one", 1)) as index:
        index.add(sorted(pictures.rglob("*.jpg"))[::2], bits=12)
        before = set(index.paths())
    for round_ in range(rounds):
        rng = np.random.default_rng([seed, round_])
        shutil.copy(base, place)
        done: set[tuple[str, str]] = {("one", path) for path in before}
        for _ in range(int(rng.integers(1, 4))):
            with _child(_index_by_both, log, str(place), str(pictures)):
                _wait(log, rng, int(rng.integers(0, 30)))
            counts.cut_off += _said(log)[-1] != ["end"]
            found = _encoded_by_both(place, counts)
            counts.lost += len(done - found)
            done = found
        counts.rounds += 1
        counts.acknowledged += len(done)
        with Index.open(place) as index:
            index.add_encoder(small_general("two", 2))
            index.add(pictures, bits=12)
        counts.torn += len(_encoded_by_both(place, counts)) != 60
        counts.torn += bool(list(folder.glob("a.wb-also*")))
        remove_index(place)
    return counts


def _encoded_by_both(place: Path, counts: Counts) -> set[tuple[str, str]]:
    """Encoder and path of all that is encoded, after a check that it is right."""
    counts.torn += bool(verify(place))
    found: set[tuple[str, str]] = set()
    with Index.open(place) as index:
        for name in index.encoders:
            view = index.encoder(name)
            if view.model.gives_codes and len(view):
                paths = view.paths()
                counts.torn += not np.array_equal(view.codes(), view.model.encode(paths).codes)
                found |= {(name, path) for path in paths}
    return found


def printed(counts: Counts) -> str:
    """One line."""
    return (
        f"{counts.rounds} rounds, {counts.cut_off} in the middle of a change; "
        f"{counts.acknowledged:,} acknowledged, {counts.lost} lost, {counts.torn} torn"
    )
