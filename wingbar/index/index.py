"""Index: images, in a file or in a store on a server, that can be searched by image.

What only changes, checks or measures an index is imported where it is used, so that a search from
the shell starts without it.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, SupportsInt, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wingbar import images
from wingbar.errors import (
    DataError,
    ImageError,
    ModelError,
    OutdatedWarning,
    QueryError,
    StoreError,
)
from wingbar.hamming.codes import Codes, Nearest, Packed, unpack
from wingbar.index.averaging import expanded, first_search
from wingbar.index.engine import AnyStore, Item, Place, Shortlist, Url, place_of
from wingbar.index.filters import Where, parse_where
from wingbar.index.kept import Kept
from wingbar.index.place import create_store, open_store
from wingbar.index.ranking import (
    FINE,
    SHORTLIST,
    TIE_CAP,
    Clock,
    Fine,
    Hit,
    Hits,
    Ranked,
    SearchOptions,
    folded,
    rank,
    stage_scores,
    with_chances,
)
from wingbar.index.settings import encoder_names, require_possible
from wingbar.index.sqlite_file import repair_of
from wingbar.index.text_search import Text, check_options, ranked_by_text
from wingbar.model.fitting import FitOptions
from wingbar.model.model import Embeddings, Model, check_same
from wingbar.model.random_pairs import RandomPairs, sample_of
from wingbar.model.random_pairs import measure as measure_pairs

if TYPE_CHECKING:
    from wingbar.index.chance import Chance
    from wingbar.index.refit import RefitReport
    from wingbar.index.selection import Selection
    from wingbar.index.sources import Addable
    from wingbar.index.sync import AddReport
    from wingbar.parallel import Progress

# an integer is the id of an item, an array of floats a vector
Query = images.Source | Embeddings | int | NDArray[np.floating] | Text


@dataclass(frozen=True)
class IndexInfo:
    """What an index is.

    items: number of images.
    labels: number of distinct labels.
    bits: length of the codes; None before the first image of a label-free index.
    dim: length of the features.
    unique_codes: number of distinct codes.
    search_bytes: memory that a search keeps for the codes in this process, in bytes.
    bytes: size of the file and of its write-ahead log, or of what a server keeps, in bytes.
    fingerprint: sha256 of the model's model.json, in hexadecimal digits.
    model: name of the model.
    method: how it was made: "itq" for label-free codes, or the training method.
    fine: the fine mode of searches that name none.
    features: how a feature is kept: "float16" or "int8".
    also: the same of the second encoder, whose `items` are those that it has encoded; None where
        there is none.
    chosen: what the model was chosen for and by which figures, as model.json says it; empty where
        it was not chosen.
    half_copied: whether it is a copy that was stopped, and may lack items.
    """

    items: int
    labels: int
    bits: int | None
    dim: int
    unique_codes: int
    search_bytes: int
    bytes: int
    fingerprint: str
    model: str
    method: str
    fine: str
    features: str
    also: IndexInfo | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict, hash=False)
    half_copied: bool = False


class Deleted(int):
    """The number of items that a `delete` removed.

    missing: ids and paths that were given and are not in the index.
    """

    missing: tuple[int | str, ...]

    def __new__(cls, count: int, missing: Iterable[int | str] = ()) -> Self:
        """A count that names what was not found."""
        deleted = super().__new__(cls, count)
        deleted.missing = tuple(missing)
        return deleted


class Index:
    """An index and its model: `create` or `open` one, then use it in a `with` block or `close` it.
    It is a file, or is kept on a server that its URL names: postgresql://HOST/DATABASE/NAME or
    milvus://HOST/NAME.

    Safe to use from several threads: pictures are decoded and encoded side by side, searches of the
    codes take turns, and a search sees a change as a whole or not at all. When another index is put
    in the place of the file, the next search answers from that one; an `add`, `delete` or `refit`
    that is under way raises StoreError and writes nothing into it.
    """

    def __init__(self, store: AnyStore) -> None:
        self._store = store
        self.model = Model(store.model_files())
        self._chance: tuple[tuple[int, ...], Chance] | None = None
        self._random_pairs: tuple[str, RandomPairs | None] | None = None
        self._second_view: Index | None = None
        if self.model.is_outdated:
            warnings.warn(
                f"{store.path} was made with the built-in model of version 0.1.0, whose codes "
                "differ between CPUs: make it again with wingbar index NEW.wb IMAGES, and put it "
                "in the place of the old one",
                OutdatedWarning,
                stacklevel=2,
            )

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str] | Url,
        model: Model | str | os.PathLike[str] = "general",
        *,
        features: Kept = "float16",
        also: Model | str | os.PathLike[str] | None = None,
    ) -> Index:
        """A new index at `path` for images encoded by `model`: a Model, a model directory, or
        "general"; and by a second one, `also`, as `add_encoder` takes it.

        A file keeps `features` as "float16", or as "int8" in half the room; a fine stage then ranks
        by what is kept. Raises StoreError when something is at `path` already or cannot keep them
        so, ModelError when the model cannot be loaded.
        """
        loaded = model if isinstance(model, Model) else Model.load(model)
        other = also if also is None or isinstance(also, Model) else Model.load(also)
        if other is not None:
            require_two(place_of(path), loaded, other)
        index = cls(create_store(path, loaded.files, features))
        try:
            if other is not None:
                index.add_encoder(other)
        except BaseException:
            index.close()
            raise
        return index

    @classmethod
    def open(cls, path: str | os.PathLike[str] | Url) -> Index:
        """The index at `path`. Raises StoreError when there is none or it is damaged."""
        store = open_store(path)
        try:
            return cls(store)
        except ModelError as error:
            place = store.path
            store.close()
            raise StoreError(f"{place} is damaged ({error}): {repair_of(place)}") from None

    @property
    def path(self) -> Place:
        """Where the file is; of an index on a server, its URL without the password."""
        return self._store.path

    @property
    def kept(self) -> Kept:
        """How features are kept."""
        return self._store.kept

    @property
    def engine(self) -> str:
        """What it is kept in, with versions."""
        return self._store.engine

    def close(self) -> None:
        """Release it. Afterwards a file is complete in itself and can be copied."""
        self._store.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self._store.count()

    # -- two encoders

    @property
    def encoders(self) -> tuple[str, ...]:
        """The names of its encoders, those of their models; the first answers a search that names
        none. Where both models have one name, the second's ends with -2."""
        return self._names(self._second())

    def encoder(self, name: str | None) -> Index:
        """The same index as its encoder `name` sees it, None for the first: the items that this one
        has encoded, with its codes, features and model. It is closed with this one, and takes no
        new items. Raises QueryError for an unknown name."""
        if name is None:
            return self
        second = self._second()
        names = self._names(second)
        if name == names[0]:
            return self
        if second is not None and name == names[1]:
            return second
        raise QueryError(f"{self.path} has no encoder {name!r:.60}: it has {' and '.join(names)}")

    def for_texts(self) -> Index:
        """This index, or where only its second encoder knows texts, that one's view."""
        if not self.model.has_text:
            second = self._second()
            if second is not None and second.model.has_text:
                return second
        return self

    def add_encoder(self, model: Model | str | os.PathLike[str]) -> None:
        """Let a second encoder take part: the next `add` has it encode what is there, and later
        ones have both encode what is new. Nothing happens if it takes part already.

        Raises StoreError where another one does, or where only one can: on a server, and beside
        vectors that were made elsewhere.
        """
        loaded = model if isinstance(model, Model) else Model.load(model)
        if self._is_new_beside(loaded):
            with self._store.writing():
                self._store.set_also(loaded.files)

    def _is_new_beside(self, model: Model) -> bool:
        """Whether a model can become the second encoder; False if it is. Raises StoreError where it
        cannot, as `add_encoder` says."""
        require_two(self.path, self.model, model)
        second = self._second()
        if second is not None and not is_same_model(model, second.model):
            first, other = self.encoders
            raise StoreError(
                f"{self.path} has two encoders, {first} and {other}, and a file holds no more: to "
                f"give one up, make a copy with wingbar copy {self.path} NEW.wb --with {first}"
            )
        return second is None

    def _names(self, second: Index | None) -> tuple[str, ...]:
        return encoder_names([self.model] if second is None else [self.model, second.model])

    def _second(self) -> Index | None:
        """The view of the second encoder, with its model of now; None where there is none."""
        also = self._store.also
        if also is None:
            return None
        if self._second_view is None or self._second_view._store is not also:
            self._second_view = Index(also)
        else:
            self._second_view._refresh_model()
        return self._second_view

    # -- change

    def add(
        self,
        source: Addable | None = None,
        *,
        vectors: NDArray[np.floating] | None = None,
        keys: Sequence[str] | NDArray[Any] | None = None,
        labels: Sequence[str | None] | NDArray[Any] | None = None,
        bits: int | None = None,
        codes: str | None = None,
        purpose: str | None = None,
        adapt: str | None = None,
        seed: int = 0,
        threads: int | None = None,
        progress: Progress | None = None,
        rehash: bool = False,
        restore: bool = False,
        is_whole: bool = False,
        unproven: bool = False,
        ray: str | None = None,
        also: Model | str | os.PathLike[str] | None = None,
    ) -> AddReport:
        """Add images, or bring the index up to date with them.

        `source` is a folder, a CSV file, an image file, a part of a data set or several of them, a
        list of paths, or pictures that are not files: bytes, PIL images, arrays [H, W, 3] or one
        array [N, H, W, 3], all uint8. Files of unchanged size and time are skipped. For a folder,
        items whose files are gone are removed, and moved files keep their id.

        Pictures that are not files are known by their `keys`, one text each, as `array:KEY`, or by
        their content; the same key with other pixels replaces the item. `labels` gives pictures or
        a list of paths their classes, None for none.

        An index of a model without a network (`Model.of_vectors`) takes `vectors` [N, d] that were
        made elsewhere in place of a source, and one of the `keys` for each: the path of the picture
        that it is of, or any other text. The same key with another vector replaces the item.

        A label-free index learns its codes of `bits` bits (default 64) from the first images that
        it gets, drawn with `seed`; later only `refit` changes them. `codes` names what they are
        fitted with, one of fitting.CODES (default: what suits the images best), `purpose` what is
        searched for: "copies", "instances" (default) or "classes". An index for classes averages
        each item with its nearest neighbours when it is added, at the end of the `add`; items that
        have their average keep it until `refit`. With `adapt` "labels" the codes learn from the
        labels that some images have. Images that cannot be used are listed in the report and stop
        nothing. `threads` decode pictures (default: one per core).

        `rehash` reads every file, also those of unchanged size and time. A file whose item was
        removed by `delete` stays out until it changes, unless it is named by itself, as in a list
        of paths, or with `restore`. With `is_whole` the source is the whole truth: items that it
        does not name are removed. With `ray`, files are read and encoded by the Ray cluster at this
        HOST:PORT, or "local" for one of this machine, with `threads` cores a worker (default: 1);
        the index becomes the same.

        Where there are two encoders, both encode what is new, and each picture is read once.
        `bits`, `codes`, `purpose` and `adapt` are for those that have no codes yet; where all have
        codes, one of them has to have what is asked for. `also` is a second one that takes part
        from now on, as `add_encoder` takes it, if nothing of all this is refused.

        A machine whose features are not those of the index's proof (model/proof.py) adds nothing to
        items of another machine, unless `unproven` allows it; a new index goes by what the machine
        computes, and a note says so.
        Raises DataError for a source that holds nothing to read, ModelError when the codes are not
        what is asked for or cannot be, or the proof is not passed, StoreError when the file cannot
        be written; what was stored before stays.
        """
        from wingbar.data.records import as_labels
        from wingbar.index.sources import batch_of
        from wingbar.index.sync import add
        from wingbar.index.vectors import add_vectors

        if (source is None) == (vectors is None):
            raise DataError("add takes images, or vectors=, and one of them at a time")
        if ray is not None and vectors is not None:
            raise DataError("vectors are encoded already: leave ray= out")
        _require_images(source)
        keys = None if keys is None else list(keys)
        labels = None if labels is None else as_labels(labels)
        self._refresh_model()
        if self._store.is_second:
            raise StoreError(f"{self.path} takes images for both of its encoders at once: use add")
        joining = also if also is None or isinstance(also, Model) else Model.load(also)
        if joining is not None and not self._is_new_beside(joining):
            joining = None
        second = self._second()
        beside = second.model if second is not None else joining
        if beside is not None and ray is not None:
            raise StoreError(
                f"{self.path} has two encoders, and a Ray cluster encodes for one: leave --ray out"
            )
        options = FitOptions(codes=codes, purpose=purpose, adapt=adapt)
        models = [self.model] if beside is None else [self.model, beside]
        require_possible(models, bits, options, self.path)
        if vectors is not None:
            with self._store.held():
                report, model = add_vectors(
                    self._store,
                    self.model,
                    vectors,
                    keys,
                    labels,
                    bits=bits,
                    seed=seed,
                    options=options,
                )
            with self._store.reading():
                self._take(model)
            return report
        if not self.model.has_network:
            raise ModelError(
                f"{self.path} holds vectors that were made elsewhere: add(vectors=..., keys=...) "
                "takes more of them; images need an index of their own"
            )
        with self._store.held():
            report, model, _ = add(
                self._store,
                self.model,
                batch_of(source, keys, labels),
                bits=bits,
                seed=seed,
                options=options,
                threads=threads,
                progress=progress,
                rehash=rehash,
                restore=restore,
                is_whole=is_whole,
                unproven=unproven,
                ray=ray,
                also=None if second is None else second.model,
                joining=joining,
            )
        with self._store.reading():
            self._take(model)
        return report

    def encoded_before(self) -> int:
        """How many images an interrupted first run has encoded: what they gave is kept beside the
        index until its codes are learned. 0 for an index that has codes."""
        from wingbar.index.unfinished import Outputs

        return 0 if self.model.gives_codes else len(Outputs(self._store.scratch, self.model))

    def delete(
        self, items: int | str | os.PathLike[str] | Iterable[int | str | os.PathLike[str]]
    ) -> Deleted:
        """Remove items by id or by path: one of them, or several.

        A path may be relative to the current folder. What the index does not hold is skipped, and
        listed as `missing` of the number that is returned. An item that was removed does not come
        back with its folder or list before its file changes; see `add`. Raises QueryError for
        anything that is neither an id nor a path; then nothing is removed.
        """
        from wingbar.data.records import absolute

        several: Iterable[object] = items if isinstance(items, Iterable) else [items]
        if isinstance(items, (str, os.PathLike)):
            several = [items]
        ids: dict[int | str, list[int]] = {}  # of each item that was named
        with self._store.writing():
            for item in several:
                if _is_id(item):
                    ids[int(item)] = self._store.existing([int(item)])
                elif isinstance(item, (str, os.PathLike)):
                    name = os.fspath(item)
                    paths = {name, os.path.abspath(name), str(absolute(name))}
                    ids[name] = list(self._store.ids_of_paths(paths).values())
                else:
                    raise QueryError(
                        f"delete takes ids and paths, not {type(item).__name__}: {item!r:.60}"
                    )
            gone = {id_ for found in ids.values() for id_ in found}
            count = self._store.delete(gone, by_hand=True)
        return Deleted(count, [name for name, found in ids.items() if not found])

    def select(
        self, names: Sequence[str | os.PathLike[str]] = (), *, where: Where = ()
    ) -> Selection:
        """The items of files or below folders `names` that pass the filter `where`, as for
        `delete`; see `selection.select`."""
        from wingbar.index.selection import select

        return select(self._store, names, where)

    def refit(
        self,
        *,
        bits: int | None = None,
        codes: str | None = None,
        purpose: str | None = None,
        adapt: str | None = None,
        seed: int = 0,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> RefitReport:
        """Learn the codes of a label-free index again from the images it holds now, as a new index
        would; `codes`, `purpose` and `adapt` as for `add`, by default as asked for before.

        All files are read again; the index changes in one transaction or not at all.
        Raises StoreError when a file is no longer what was indexed, ModelError for a trained model.
        """
        from wingbar.index.refit import refit

        self._refresh_model()
        with self._store.held():
            report, model = refit(
                self._store,
                self.model,
                bits=self.model.bits if bits is None else bits,
                seed=seed,
                options=FitOptions(codes=codes, purpose=purpose, adapt=adapt),
                threads=threads,
                progress=progress,
            )
        with self._store.reading():
            self._take(model)
        return report

    # -- search

    def search(
        self,
        query: Query | None = None,
        k: int = 10,
        *,
        text: str | None = None,
        radius: int | None = None,
        fine: Fine | None = None,
        shortlist: int = SHORTLIST,
        where: Where = (),
        box: images.Box | None = None,
        distinct: bool = False,
        expand: int | None = None,
        cut: float | None = None,
        encoder: str | None = None,
    ) -> Hits:
        """The `k` images most like `query`: a path, bytes, a PIL image, an array, the id of an item
        of this index, one embedding by its model, or for an index of vectors one vector [d]; or
        those most like a `text`, if the model knows texts.

        Coarse stage: the nearest codes by Hamming distance, at most `radius` bits away. Fine stage,
        by `fine`: "none" keeps that order; "ties" orders items of equal distance by the cosine of
        their features; "pool" orders a `shortlist` of the nearest (all that are tied with its last
        one included) by that cosine; "asymmetric" orders it by the agreement of the query's
        real-valued logits with the stored bits, which reads no feature. None means the model's own
        choice. Equal results keep the order of their ids.

        `where` filters before anything is ranked: "label=monarch", "path=blue/*", "price<20";
        several on one field with = are alternatives, otherwise all must hold. Of the query image
        only `box` (x, y, width, height in pixels of the upright picture) is looked at. With
        `distinct`, copies are folded into the best of them, see `Hits.copies`. With `expand`, a
        first search finds so many neighbours, and the query is averaged with them; None means the
        index's own choice, which is 0 unless it is one for classes. The list ends where
        `Hit.p_chance` exceeds `cut`.

        A text is compared with all items that pass `where` by the cosine of the encoder's own
        features, which is the `score`; `p_chance` is None, since it is about pairs of pictures.
        The other options are for images.

        Of two encoders, the one called `encoder` answers, else the first; a text goes to the one
        that knows texts.

        Raises QueryError when the index is empty, holds no item of that id, or an argument is out
        of range, ImageError when the query image cannot be read.
        """
        if (query is None) == (text is None):
            raise QueryError("search takes an image or a text=, and one of them at a time")
        if text is not None:
            query = Text(text)
        assert query is not None
        if isinstance(query, Embeddings) and len(query) != 1:
            raise QueryError(
                f"search takes one query, not {len(query)} embeddings: give one of them, as in "
                "search(embeddings[0]), or all of them to search_many"
            )
        if isinstance(query, (list, tuple)):
            raise QueryError(
                f"search takes one query, not a {type(query).__name__} of {len(query)}: give all "
                "of them to search_many"
            )
        options = SearchOptions(
            k=k,
            radius=radius,
            fine=fine,
            shortlist=shortlist,
            where=where,
            box=box,
            distinct=distinct,
            expand=expand,
            cut=cut,
            encoder=encoder,
        )
        return self.find([query], options)[0]

    def search_many(
        self,
        queries: Iterable[Query],
        k: int = 10,
        *,
        radius: int | None = None,
        fine: Fine | None = None,
        shortlist: int = SHORTLIST,
        where: Where = (),
        distinct: bool = False,
        expand: int | None = None,
        cut: float | None = None,
        encoder: str | None = None,
    ) -> list[Hits]:
        """`search` for many queries: one Hits each, in their order. Stage times are shares of the
        whole batch."""
        options = SearchOptions(
            k=k,
            radius=radius,
            fine=fine,
            shortlist=shortlist,
            where=where,
            distinct=distinct,
            expand=expand,
            cut=cut,
            encoder=encoder,
        )
        return self.find(queries, options)

    def find(self, queries: Iterable[Query], options: SearchOptions) -> list[Hits]:
        """`search_many` with its arguments as one record; a `box` is cut out of every query.

        Raises QueryError when the index is empty, for a radius beyond the length of a code, or for
        a box beside embeddings or parts of pictures; also for texts beside other queries, or with
        options that are not for texts.
        """
        if (chosen := self.encoder(options.encoder)) is not self:
            return chosen.find(queries, replace(options, encoder=None))
        given = _listed(queries)
        texts = [one for one in given if isinstance(one, Text)]
        if texts and len(texts) < len(given):
            raise QueryError("texts and images are searched for in calls of their own")
        if texts:
            knowing = self.for_texts() if options.encoder is None else self
            return self._store.retried(lambda: [knowing._of_text(one, options) for one in texts])
        given = _boxed(given, options.box)
        while True:
            found = self._store.retried(lambda: self._found(given, options))
            if found is not None:
                return found
            # refitted by another process while the queries were encoded: encode them again

    def check(self, queries: Iterable[Query], options: SearchOptions) -> None:
        """Raise what `find` would raise for one of these queries, apart from pictures that cannot
        be read: so that a batch can be refused before the first of it is answered."""
        if (chosen := self.encoder(options.encoder)) is not self:
            return chosen.check(queries, replace(options, encoder=None))
        self._refresh_model()
        self.fine_of(options)
        given = _listed(queries)
        texts = [one for one in given if isinstance(one, Text)]
        for text in texts:
            check_options(options)
            knowing = self.for_texts() if options.encoder is None else self
            knowing.model.encode_text(text.text)
        for query in _boxed([one for one in given if not isinstance(one, Text)], options.box):
            if _is_vector(query):
                self._embedded_vector(query, self.model)
            elif not isinstance(query, (Embeddings, int)):
                self.model.require_network()

    def shortlists(
        self, queries: Sequence[Embeddings], options: SearchOptions
    ) -> tuple[Fine, list[Shortlist]]:
        """Both stages for queries that are encoded, one embedding each, up to the order of their
        shortlists; and the fine mode, whose order is that of `ranking.rank`.

        Raises QueryError as `find` does.
        """

        def found() -> tuple[Fine, list[Shortlist]]:
            with self.snapshot():
                fine = self.fine_of(options)
                for query in queries:
                    check_same(query, self.model, str(self.path))
                return fine, self._store.search_codes(queries, options, fine)

        return self._store.retried(found)

    def _found(self, queries: Sequence[Query], options: SearchOptions) -> list[Hits] | None:
        """The hits of all queries from one snapshot; None when the model was replaced while they
        were encoded."""
        self._refresh_model()
        model = self.model
        self.fine_of(options)
        embeddings, times = self._embed_queries(queries, model)
        with self.snapshot():
            encodes = any(not isinstance(query, Embeddings) for query in queries)
            if model.fingerprint != self.model.fingerprint and encodes:
                return None
            start = time.perf_counter()
            embeddings = self.expanded(embeddings, options)
            each = (time.perf_counter() - start) * 1000 / max(len(embeddings), 1)
            fine, shortlists = self.shortlists(embeddings, options)
            found = []
            for query, one in zip(embeddings, shortlists, strict=True):
                clock = Clock({**times, "coarse": one.coarse_ms + each})
                ranked, copies = (
                    self._distinct(query, one, options, fine)
                    if options.distinct
                    else (rank(one.near, fine, one.scores, options.k), None)
                )
                ranked = with_chances(
                    ranked, self.random_pairs(), fine, query.logits[0], options.cut
                )
                clock.lap("fine")
                hits = self._fetch(ranked)
                clock.lap("fetch")
                clock.milliseconds["fine"] += one.fine_ms
                found.append(
                    Hits(hits, ranked.shortlist, ranked.cut, clock.milliseconds, copies=copies)
                )
            return found

    def _of_text(self, text: Text, options: SearchOptions) -> Hits:
        check_options(options)
        self._refresh_model()
        start = time.perf_counter()
        vector = self.model.encode_text(text.text)
        hits = self.find_vector(vector, options)
        total = (time.perf_counter() - start) * 1000
        encode = total - sum(hits.milliseconds.values())
        hits.milliseconds = {**hits.milliseconds, "encode": encode}
        return hits

    def find_vector(self, vector: NDArray[np.float32], options: SearchOptions) -> Hits:
        """The hits of the vector [r] of a text, as `Model.encode_text` gives it; see `search`.
        Raises QueryError."""
        check_options(options)
        clock = Clock({"decode": 0.0, "encode": 0.0, "coarse": 0.0})
        with self.snapshot():
            self.fine_of(options)
            ranked = ranked_by_text(self._store, self.model, vector, options)
            clock.lap("fine")
            hits = self._fetch(ranked)
            clock.lap("fetch")
            return Hits(hits, ranked.shortlist, ranked.cut, clock.milliseconds)

    def expanded(self, queries: Sequence[Embeddings], options: SearchOptions) -> list[Embeddings]:
        """The queries, one embedding each, averaged with the neighbours that a first search finds
        among all items: `options.expand` of them, or as many as suit the index."""
        first = first_search(options, self.model)
        if first is None or self.is_empty:
            return list(queries)
        fine, shortlists = self.shortlists(queries, first)
        return [
            self._expanded(query, rank(one.near, fine, one.scores, first.k))
            for query, one in zip(queries, shortlists, strict=True)
        ]

    def _expanded(self, query: Embeddings, near: Ranked) -> Embeddings:
        ids = near.ids.tolist()
        assert near.scores is not None
        return expanded(
            query,
            self._store.features(ids, self.model.dim),
            self._store.codes_of(ids, self.model.bits),
            near.scores,
        )

    def _distinct(
        self, query: Embeddings, found: Shortlist, options: SearchOptions, fine: Fine
    ) -> tuple[Ranked, Mapping[int, Sequence[int]]]:
        """The first k distinct items of one query, and the copies of each. While copies fill the
        shortlist, a longer one is searched, up to TIE_CAP times as long."""
        limits = self.chance()
        longer = options
        while True:
            ranked = rank(found.near, fine, found.scores)
            first, copies, are_enough = folded(
                ranked,
                options.k,
                [item.content for item in self._store.items(ranked.ids.tolist())],
                self._store.codes_of(ranked.ids.tolist(), self.model.bits),
                self._store.features(ranked.ids.tolist(), self.model.dim).astype(np.float32),
                limits.radius,
                limits.copy_score,
            )
            ended = longer.k >= TIE_CAP * max(options.k, options.shortlist)
            length = len(found.near.ids)
            if are_enough or ended or length < max(longer.k, 1):
                return first, copies
            longer = replace(longer, k=2 * max(length, longer.k))
            [found] = self._store.search_codes([query], longer, fine)

    def chance(self) -> Chance:
        """How alike different pictures of this index are by chance; see `chance.measure`. Measured
        when it is first wanted, and again when the index has changed."""
        from wingbar.index.chance import measure

        with self._store.reading():
            searchable, version = self.searchable(), self._store.version()
            if self._chance is None or self._chance[0] != version:
                dim = self.model.dim
                measured = measure(searchable, lambda ids: self._store.features(ids.tolist(), dim))
                self._chance = version, measured
            return self._chance[1]

    def random_pairs(self) -> RandomPairs | None:
        """How near two random items are, which `Hit.p_chance` is taken from; None for too few
        items.

        The model of a label-free index knows it from the images that it was fitted to. Else it is
        measured when it is first wanted.
        """
        if self.model.random_pairs is not None:
            return self.model.random_pairs
        with self._store.reading():
            known = self._random_pairs
            is_known = known is not None and known[0] == self.model.fingerprint
            if known is None or not is_known or known[1] is None:
                is_remote = isinstance(self._store.path, Url)
                # of a file, all codes are in memory: its items need not be read
                ids = self._store.ids() if is_remote else self.searchable().ids
                some = ids[sample_of(len(ids))]
                codes = self._codes_in_use(some)
                features = self._store.features(some.tolist(), self.model.dim)
                known = self.model.fingerprint, measure_pairs(codes, features, self.model.bits)
                self._random_pairs = known
            return known[1]

    def why_nothing_passes(self, where: Where) -> str | None:
        """Why no item passes the filter `where`, with values that are near; None if one does.
        Raises QueryError for a filter that cannot be read."""
        conditions = parse_where(where)
        with self._store.reading():
            if len(self._store.matching(conditions)):
                return None
            return self._store.why_nothing_passes(conditions)

    @contextmanager
    def snapshot(self) -> Iterator[bool]:
        """A consistent read snapshot, whatever other processes write; Milvus has none.

        Gives whether the model is still the one that was loaded; where it is not, the new one has
        replaced it.
        """
        with self._store.reading():
            before = self.model.fingerprint
            self._refresh_model()
            yield self.model.fingerprint == before

    def fine_of(self, options: SearchOptions) -> Fine:
        """The fine mode of a search with these options. Raises QueryError when this index cannot
        answer it."""
        if self.is_empty:
            raise QueryError(
                f"{self.path} holds no images yet: add some with wingbar index {self.path} IMAGES"
            )
        if options.radius is not None and options.radius > self.model.bits:
            raise QueryError(
                f"radius must be from 0 to {self.model.bits}, the bits of a code, not "
                f"{options.radius}"
            )
        for fine in FINE:
            if fine == (self.model.fine if options.fine is None else options.fine):
                return fine
        raise QueryError(
            f"{self.path} has a model with the fine mode {self.model.fine!r}: name one of "
            f"{', '.join(FINE)}"
        )

    def scores(
        self, searchable: Codes, query: Embeddings, near: Nearest, fine: Fine
    ) -> NDArray[np.float32] | None:
        """What a fine mode orders a shortlist of one query by: [P] in [-1, 1]; None for "none"."""
        return stage_scores(self._store, searchable, query, near, fine)

    def searchable(self) -> Codes:
        """The codes in memory, brought up to date when this or another process has changed the
        index. A search of an index on a server needs none of them; an evaluation does.

        Inserts and deletes in a file since the last call are applied in milliseconds; the large
        part is rebuilt in the background once they have grown in number.
        """
        with self._store.reading():
            return self._store.searchable(self.model.bits)

    def _codes_in_use(self, ids: NDArray[np.int64]) -> Packed:
        """Codes [N, w] of the items `ids` from where a search has them: on a server, or in the
        memory of this process."""
        if isinstance(self._store.path, Url):
            return self._store.codes_of(ids.tolist(), self.model.bits)
        return self.searchable().of(ids)

    def _embed_queries(
        self, queries: Sequence[Query], model: Model
    ) -> tuple[list[Embeddings], dict[str, float]]:
        """The embedding of each query, and milliseconds a query for decoding and encoding."""
        start = time.perf_counter()
        queries = [
            self._embedded_vector(query, model) if _is_vector(query) else query for query in queries
        ]
        pixels = {
            i: self._pixels(cast("images.Source", query), model)
            for i, query in enumerate(queries)
            if not isinstance(query, (Embeddings, int)) and not _is_vector(query)
        }
        decoded = time.perf_counter()
        encoded = dict(zip(pixels, model.encode_pixels(pixels.values()), strict=True))
        each = 1000 / max(len(queries), 1)
        times = {
            "decode": (decoded - start) * each,
            "encode": (time.perf_counter() - decoded) * each,
        }
        for i, query in enumerate(queries):
            if isinstance(query, Embeddings):
                encoded[i] = query
            elif isinstance(query, int):
                encoded[i] = self.embedding(query)
        return [encoded[i] for i in range(len(queries))], times

    def _embedded_vector(self, vector: NDArray[np.floating], model: Model) -> Embeddings:
        if model.has_network:
            raise QueryError(
                f"{self.path} is an index of images by {model}: search by an image, an id or an "
                "embedding by that model, not by a vector"
            )
        from wingbar.index.vectors import checked_vectors

        return model.embed(checked_vectors(vector[None], model.dim))

    def embedding(self, id_: int) -> Embeddings:
        """What the index stores of an item, as a query.

        Logits are not stored, so they are the code's bits as -1 and 1. Raises QueryError when there
        is no such item.
        """
        with self.snapshot():
            if not self._store.existing([id_]):
                raise QueryError(f"{self.path} holds no item {id_}: it may have been deleted")
            packed = self._codes_in_use(np.array([id_], np.int64))
            features = self._store.features([id_], self.model.dim).astype(np.float32)
            signs = np.where(unpack(packed, self.model.bits), np.float32(1), np.float32(-1))
            model = self.model
            return Embeddings(packed, features, signs, model.bits, model.name, model.fingerprint)

    def _pixels(self, query: images.Source, model: Model) -> images.Pixels:
        try:
            return images.load(query, model.preprocessing)
        except ImageError as error:
            whole = query.of if isinstance(query, images.Part) else query
            if isinstance(whole, (str, os.PathLike)):
                raise ImageError(f"{os.fspath(whole)}: {error}") from None
            raise

    def _fetch(self, ranked: Ranked) -> list[Hit]:
        ids = ranked.ids.tolist()
        # rounded to float16, a unit vector can be a little longer than 1
        scores = (
            [None] * len(ids) if ranked.scores is None else np.clip(ranked.scores, -1, 1).tolist()
        )
        items = self._store.items(ids)
        return [
            Hit(rank, id_, item.path, item.label, distance, score, item.columns, chance)
            for rank, (id_, item, distance, score, chance) in enumerate(
                zip(
                    ids,
                    items,
                    ranked.distances.tolist(),
                    scores,
                    ranked.p_chances(),
                    strict=True,
                ),
                start=1,
            )
        ]

    # -- look

    def info(self) -> IndexInfo:
        """Numbers about the index; see IndexInfo."""
        self._refresh_model()
        bits = self.model.bits if self.model.gives_codes else None
        with self._store.reading():
            stored, second = self._store.info(bits), self._second()
            also = None if second is None else second.info()
            half_copied = self._store.is_half_copied()
        return IndexInfo(
            items=stored.items,
            labels=stored.labels,
            bits=bits,
            dim=self.model.dim,
            unique_codes=stored.unique_codes,
            search_bytes=stored.search_bytes,
            bytes=stored.bytes,
            fingerprint=self.model.fingerprint,
            model=self.model.name,
            method=self.model.method,
            fine=self.model.fine,
            features=self._store.kept,
            also=also,
            chosen=self.model.chosen,
            half_copied=half_copied,
        )

    # -- read what is stored; everything is ordered by ascending id

    def ids(self) -> NDArray[np.int64]:
        """The ids [N] int64 of all items, ascending."""
        return self._store.ids()

    def items(self, ids: Iterable[int] | None = None) -> list[Item]:
        """The items `ids`, in their order; None for all. Raises StoreError for an id that is not
        there."""
        return (
            [item for _, item in self._store.all_items()]
            if ids is None
            else self._store.items([int(i) for i in ids])
        )

    def first_items(self, count: int) -> list[Item]:
        """The `count` items with the smallest ids, or all."""
        return [item for _, item in islice(self._store.all_items(), count)]

    def codes(self, ids: Iterable[int] | None = None) -> Packed:
        """The codes [N, w] uint64 of the items `ids`, in their order; None for all.

        Raises QueryError while the index has no codes, StoreError for an id that is not there.
        """
        if not self.model.gives_codes:
            raise QueryError(
                f"{self.path} has no codes yet: add images with wingbar index {self.path} IMAGES"
            )
        if ids is None:
            return self._store.codes(self.model.bits)[1]
        return self._store.codes_of([int(i) for i in ids], self.model.bits)

    def features(self, ids: Iterable[int] | None = None) -> NDArray[np.float16]:
        """The features [N, d] float16 of the items `ids`, in their order; None for all.

        Raises StoreError for an id that is not there.
        """
        if ids is None:
            return self._store.all_features(self.model.dim)
        return self._store.features([int(i) for i in ids], self.model.dim)

    def feature_blocks(self, size: int = 65_536) -> Iterator[NDArray[np.float16]]:
        """All features in blocks [at most size, d], for indexes whose features should not all be in
        memory."""
        return self._store.feature_blocks(self.model.dim, size)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to search yet."""
        return not self.model.gives_codes or self._store.is_empty()

    def existing(self, ids: Iterable[int]) -> list[int]:
        """Those of `ids` that are in the index."""
        return self._store.existing(ids)

    def ids_of_paths(self, paths: Iterable[str]) -> dict[str, int]:
        """Ids of those `paths` that are in the index."""
        return self._store.ids_of_paths(paths)

    def matching(self, where: Where) -> NDArray[np.int64]:
        """The ids [N] int64, ascending, of the items that pass the filter `where`; of all without
        one. Raises QueryError."""
        conditions = parse_where(where)
        return self._store.matching(conditions) if conditions else self._store.ids()

    def version(self) -> tuple[int, ...]:
        """Changes whenever something was written."""
        return self._store.version()

    def labels(self) -> list[str | None]:
        """The label of every item."""
        return self._store.labels()

    def paths(self) -> list[str]:
        """The path of every item."""
        return self._store.paths()

    def contents(self) -> list[bytes]:
        """The sha256 of every item's file."""
        return self._store.contents()

    def label_counts(self) -> dict[str, int]:
        """How many items each label has."""
        return self._store.label_counts()

    def verify(self) -> list[str]:
        """Check every byte that matters: checksums of all rows, the model, and that the parts
        agree.

        Returns what is wrong, one line each; an empty list means that the index is whole.
        """
        from wingbar.index.checks import verify

        return verify(self.path)

    def _refresh_model(self) -> None:
        """Load the model again when another process has fitted or refitted it."""
        with self._store.reading():
            if self._store.model_fingerprint() != self.model.fingerprint:
                self._take(Model(self._store.model_files()))

    def _take(self, model: Model) -> None:
        """Use another model from now on."""
        self.model = model


def store_of(index: Index) -> AnyStore:
    """The rows of an index, for what reads or copies them as they are."""
    return index._store


def model_at(name: str | os.PathLike[str]) -> Model:
    """The model of an index (a file or a URL), in a directory, or the built-in one.

    Raises StoreError or ModelError.
    """
    place = place_of(name)
    if isinstance(place, Url) or place.is_file():
        with Index.open(place) as index:
            return index.model
    return Model.load(name)


def is_same_model(wanted: Model, own: Model) -> bool:
    """Whether an index of the model `own` was made with `wanted`, whose codes may have been fitted
    since."""
    fitted = wanted.files.get("rotation.npz")  # a model without one has its codes fitted later
    return (
        wanted.files.get("model.onnx") == own.files.get("model.onnx")
        and wanted.preprocessing == own.preprocessing
        and wanted.is_label_free == own.is_label_free
        and (fitted is None or fitted == own.files.get("rotation.npz"))
    )


def require_two(path: Place, first: Model, second: Model) -> None:
    """Raise StoreError where two encoders cannot stand side by side."""
    if isinstance(path, Url):
        raise StoreError(
            f"{path} holds the codes of one encoder, and only a file those of two: leave --also "
            "out, or name a file"
        )
    for model in (first, second):
        if not model.has_network:
            raise StoreError(
                f"{model.name} holds vectors that were made elsewhere, and only encoders of images "
                "stand side by side: leave --also out"
            )


def _listed(queries: Iterable[Query]) -> list[Query]:
    """The queries as a list, every batch of embeddings taken apart. Raises QueryError for a single
    query and for what is none."""
    if isinstance(queries, (str, bytes, os.PathLike, Image.Image)) or _is_id(queries):
        raise QueryError(f"search_many takes a list of queries, not {queries!r:.60}: use search")
    out: list[Query] = []
    for query in queries:
        if isinstance(query, Embeddings):
            out += list(query)
        elif _is_id(query):
            out.append(int(query))
        elif isinstance(
            query, (str, bytes, os.PathLike, Image.Image, np.ndarray, images.Part, Text)
        ):
            out.append(query)
        else:
            raise QueryError(
                "a query is a path, bytes, a PIL image, an array, an id or an embedding, not "
                f"{type(query).__name__}: {query!r:.60}"
            )
    return out


def _boxed(queries: list[Query], box: images.Box | None) -> list[Query]:
    if box is None:
        return queries
    parts: list[Query] = []
    for query in queries:
        if isinstance(query, (images.Part, Embeddings, int)) or _is_vector(query):
            raise QueryError(
                "a box is cut out of an image: it cannot be given beside an id, an embedding or a "
                "part"
            )
        parts.append(images.Part(cast("images.Whole", query), box))
    return parts


def _is_vector(query: object) -> TypeGuard[NDArray[np.floating]]:
    """Whether a query is a vector and no picture."""
    return isinstance(query, np.ndarray) and query.ndim == 1 and query.dtype.kind == "f"


def _is_id(value: object) -> TypeGuard[SupportsInt]:
    """Whether a query or an item is named by its id, a Python or NumPy integer."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _require_images(source: object) -> None:
    """Raise DataError for what no image can be made of, but Python would take for one or several:
    an integer is a file descriptor to `open`, and embeddings are a sequence."""
    some = [source] if isinstance(source, Embeddings) or _is_id(source) else source
    if isinstance(some, (list, tuple)):
        for one in some:
            if isinstance(one, (Embeddings, int, np.integer)):
                raise DataError(
                    f"add takes images, not {type(one).__name__}: give it the paths or the "
                    "pictures themselves"
                )
