"""The errors that wingbar raises on purpose: one line each, with the next step where there is
one."""

from __future__ import annotations


class WingbarError(Exception):
    """The parent of all of them. The command line prints its message and exits with 2."""


class ImageError(WingbarError):
    """A picture that cannot be used. The message says why, without the path."""


class DataError(WingbarError):
    """A folder or list that does not describe a data set."""


class ModelError(WingbarError):
    """A model that cannot be loaded, or that does not belong to the index."""


class StoreError(WingbarError):
    """An index file that is missing, damaged, locked, of another format, or on a full disk."""


class QueryError(WingbarError):
    """A search that cannot be answered as asked."""


class TrainingError(WingbarError):
    """A training run that cannot start or go on."""


def one_line(error: BaseException) -> str:
    """The message of somebody else's exception on one line of at most 200 characters; its type
    where it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__
