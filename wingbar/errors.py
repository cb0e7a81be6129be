"""The exceptions that wingbar raises on purpose; each message is one line, with the next step
where there is one. And how messages word what they name.

    WingbarError            parent of all; the command line prints its message and exits with 2
    ├── ImageError          a picture that cannot be used
    ├── DataError           a folder, list or archive that does not describe a data set
    ├── ModelError          a model that cannot be loaded, or does not belong to the index
    ├── StoreError          an index file that is missing, damaged, locked or of another format
    ├── QueryError          a search that cannot be answered as asked
    └── TrainingError       a training run that cannot start or resume

`serving/` derives a few of its own from WingbarError, each with its HTTP status.
"""

from __future__ import annotations

import re

# Control characters, separators of lines, marks and overrides of the direction of writing, and the
# bytes of a file name that are not UTF-8, which come as surrogates.
_MOVING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
LONGEST = 300  # letters of what is quoted in a message


class WingbarError(Exception):
    """The parent of all. The command line prints its message and exits with 2."""


class OutdatedWarning(UserWarning):
    """An index that works, and that should be made again."""


class MachineWarning(UserWarning):
    """This machine computes other codes and features than the one that a model is from."""


class ImageError(WingbarError):
    """A picture that cannot be used. The message says why, without the path."""


class DataError(WingbarError):
    """A folder, list, download or archive that does not describe a data set."""


class ModelError(WingbarError):
    """A model that cannot be loaded, or does not belong to the index."""


class StoreError(WingbarError):
    """An index file that is missing, damaged, locked or of another format, or on a full disk."""


class QueryError(WingbarError):
    """A search that cannot be answered as asked."""


class TrainingError(WingbarError):
    """A training run that cannot start or resume."""


def one_line(error: BaseException) -> str:
    """The message of another library's exception as one line of at most 200 characters; the name
    of its type if it has no message."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: "1 image", "3,068 images"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def visible(text: str) -> str:
    r"""Text on one line that a terminal shows as it is: a line break becomes \n, and characters
    that move the cursor, change colours or turn the direction of writing become escapes such as
    \x1b, as do bytes of a file name that are not UTF-8."""
    return text if text.isprintable() else _MOVING.sub(_escape, text)


def printable(path: object) -> str:
    r"""A path as text that can be shown and stored: bytes that are not UTF-8 become escapes such as
    \xff."""
    return _SURROGATE.sub(_escape, str(path))


def shortened(text: str, longest: int = LONGEST) -> str:
    """At most `longest` letters of a text, its beginning and its end: a message may quote what has
    any length, such as a line of a file that holds no text."""
    if len(text) <= longest:
        return text
    half = (longest - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte, as Python decodes file names
        return f"\\x{code - 0xDC00:02x}"
    return match[0].encode("unicode_escape").decode()
