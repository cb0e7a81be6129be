"""Which items a change is about: files, folders and filters become ids."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from wingbar.data.records import absolute
from wingbar.errors import QueryError
from wingbar.images import is_utf8
from wingbar.index.engine import AnyStore
from wingbar.index.filters import Where, parse_where


@dataclass(frozen=True)
class Selection:
    """Items that were selected.

    ids: their ids, ascending.
    paths: their paths, in the same order.
    missing: names that no item has, and below which there is none.
    """

    ids: Sequence[int]
    paths: Sequence[str]
    missing: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)


def select(
    store: AnyStore, names: Sequence[str | os.PathLike[str]] = (), where: Where = ()
) -> Selection:
    """The items with one of the paths `names`, or below a folder of that name, that also pass the
    filter `where`.

    A name may be relative to the current folder, and its file need not exist any more. Without
    names all items that pass are selected. Raises QueryError for neither names nor a filter, and
    for a filter that cannot be read.
    """
    conditions = parse_where(where)
    if not names and not conditions:
        raise QueryError("name files or folders, or a filter such as --where label=monarch")
    missing = []
    with store.reading():
        chosen: set[int] | None = None
        for name in [os.fspath(name) for name in names]:
            paths = _paths_of(name)
            found = {*store.ids_of_paths(paths).values()}
            for path in paths:
                if os.path.isabs(path):
                    found |= {*store.ids_below(path)}
            if not found:
                missing.append(name)
            chosen = found | (chosen or set())
        if conditions:
            passing = set(store.matching(conditions).tolist())
            chosen = passing if chosen is None else chosen & passing
        ids = sorted(chosen or ())
        paths_of = [item.path for item in store.items(ids)]
    return Selection(ids, paths_of, missing)


def _paths_of(name: str) -> set[str]:
    """The paths that a name may stand for, those that no item can have left out."""
    if "\0" in name:
        return set()
    paths = {name, os.path.abspath(name), str(absolute(name)), os.path.realpath(name)}
    return set(filter(is_utf8, paths))
