"""Filters: from "label=monarch" to the SQL condition."""

from __future__ import annotations

import operator
import re
import sqlite3
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import QueryError, shortened
from wingbar.images import is_utf8

Where = str | Sequence[str]

_COMPARED = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
NEAR_AMONG = 10_000  # values that are looked through for one that is near
_WITH_COMMAS = (  # and what parts thousands there
    (re.compile(r"[+-]?(\d+,(\d{1,2}|\d{4,})|0,\d+|,\d+)"), "."),  # 3,50
    (re.compile(r"[+-]?\d{1,3}(\.\d{3})+,\d+"), "."),  # 1.234,50
    (re.compile(r"[+-]?\d{1,3}(,\d{3})+\.\d+"), ","),  # 1,234.50
    (re.compile(r"[+-]?\d{1,3}(,\d{3}){2,}"), ","),  # 1,234,567
)


@dataclass(frozen=True)
class Condition:
    """One part of a filter: `field` is "label", "path" or a column; `operator` one of = != < <= >
    >=."""

    field: str
    operator: str
    value: str


class Record(Protocol):
    """What filters look at in an item."""

    @property
    def path(self) -> str:
        """Its path."""

    @property
    def label(self) -> str | None:
        """Its class, if any."""

    @property
    def columns(self) -> Mapping[str, str]:
        """Its further columns."""


def parse_where(where: Where) -> list[Condition]:
    """Conditions from "field=value" and the like. Raises QueryError with an example for anything
    else. The time grows linearly with the length of the text, since strangers send filters."""
    return [_parse(text) for text in ([where] if isinstance(where, str) else where)]


def matching(connection: sqlite3.Connection, conditions: Sequence[Condition]) -> NDArray[np.int64]:
    """Ids [N], ascending, of the items that pass the filter: = on one field are alternatives, all
    else must hold.

    `path` takes a glob pattern, matched against the whole path or any tail of it. Raises QueryError
    for a field that no item has.
    """
    clauses: list[str] = []
    values: list[str | float] = []
    alternatives: dict[str, list[str]] = {}
    for condition in conditions:
        if condition.operator == "=":
            alternatives.setdefault(condition.field, []).append(condition.value)
    for field, wanted in alternatives.items():
        parts = [_clause(connection, Condition(field, "=", value), values) for value in wanted]
        clauses.append("(" + " OR ".join(parts) + ")")
    clauses += [
        _clause(connection, condition, values)
        for condition in conditions
        if condition.operator != "="
    ]
    rows = connection.execute(
        f"SELECT id FROM items WHERE {' AND '.join(clauses)} ORDER BY id", values
    )
    return np.fromiter((row[0] for row in rows), np.int64)


def as_number(text: object) -> float | None:
    """Text as a number, SQL's `number(text)`; None, which passes no condition, where it is none.

    A comma is a decimal comma, as in 3,50, and with a point or another comma it parts thousands, as
    in 1.234,50 and 1,234,567. Where both are possible, as in 1,234, it is no number.
    """
    plain = str(text).strip()
    try:
        return float(plain)
    except ValueError:
        pass
    for pattern, thousands in _WITH_COMMAS:
        if pattern.fullmatch(plain):
            return float(plain.replace(thousands, "").replace(",", "."))
    return None


def glob_regex(pattern: str) -> str | None:
    """SQLite's GLOB as a regular expression, in what Python and PostgreSQL
    have in common; None for one that nothing matches."""
    out, place = [], 0
    while place < len(pattern):
        character = pattern[place]
        place += 1
        if character == "*":
            out.append(".*")
        elif character == "?":
            out.append(".")
        elif character != "[":
            out.append(re.sub(r"([^\w\s/-])", r"\\\1", character))
        else:
            inverted = pattern[place : place + 1] == "^"
            first = place + inverted
            end = pattern.find("]", first + 1)
            if end < 0:
                return None
            members = pattern[first:end].replace("\\", "\\\\").replace("[", "\\[")
            members = members.replace("]", "\\]")
            out.append(f"[{'^' if inverted else ''}{members}]")
            place = end + 1
    return "".join(out)


def why_nothing_passes(
    conditions: Sequence[Condition],
    passes: Callable[[Sequence[Condition]], bool],
    values: Callable[[str], list[str]],
) -> str:
    """A sentence on the first field whose conditions no item passes, with values that are near; on
    all of them, if each passes some. `passes` tells whether some item passes conditions, `values`
    gives values of a field, at most NEAR_AMONG of them."""
    for field in dict.fromkeys(condition.field for condition in conditions):
        mine = [condition for condition in conditions if condition.field == field]
        if not passes(mine):
            described = " and ".join(f"{c.field}{c.operator}{c.value}" for c in mine)
            return f"no item has {described}{_near(mine[0], values)}"
    return "no item passes all of these filters, though some pass each of them"


def values_of(connection: sqlite3.Connection, field: str) -> list[str]:
    """Different values of a field other than the path, at most NEAR_AMONG of them."""
    column, key = _column(field)
    rows = connection.execute(f"SELECT DISTINCT {column} FROM items LIMIT {NEAR_AMONG}", key)
    return [str(value) for (value,) in rows if value not in (None, "")]


class NoColumnError(QueryError):
    """A filter on a column that no item has.

    column: its name.
    """

    def __init__(self, column: str, columns: Sequence[str]) -> None:
        """`columns` are those that there are."""
        have = ", ".join(["label", "path", *columns])
        super().__init__(f"no item has a column {column!r}: filter on {have}")
        self.column = column


def passes(record: Record, conditions: Sequence[Condition]) -> bool:
    """Whether an item passes a filter, for stores that cannot say so themselves: as `matching`."""
    alternatives: dict[str, bool] = {}
    for condition in conditions:
        test = _holds(record, condition)
        if condition.operator == "=":
            alternatives[condition.field] = alternatives.get(condition.field, False) or test
        elif not test:
            return False
    return all(alternatives.values())


def _holds(record: Record, condition: Condition) -> bool:
    field, how, wanted = condition.field, condition.operator, condition.value
    if field == "path":
        pattern = _compiled_glob(wanted)
        found = pattern is not None and pattern.fullmatch(record.path) is not None
        return found == (how == "=")
    value = record.label if field == "label" else record.columns.get(field)
    number, theirs = as_number(wanted), None if value is None else as_number(value)
    if how in ("=", "!="):
        same = value == wanted
        if field != "label" and number is not None:
            same = same or theirs == number
        return same == (how == "=")
    if number is None or theirs is None:
        return False
    return bool(_COMPARED[how](theirs, number))


@lru_cache(maxsize=64)
def _compiled_glob(pattern: str) -> re.Pattern[str] | None:
    text = glob_regex(pattern)
    try:
        return None if text is None else re.compile(f"(.*/)?(?:{text})", re.DOTALL)
    except re.error:  # such as [z-a], which nothing matches
        return None


def without_column(where: Sequence[str], column: str) -> list[str] | None:
    """The filter for items that lack a column: what is left of it, or None where none of them
    passes."""
    conditions = parse_where(where)
    mine = [condition.field == column for condition in conditions]
    if any(c.operator != "!=" for c, is_mine in zip(conditions, mine, strict=True) if is_mine):
        return None
    return [text for text, is_mine in zip(where, mine, strict=True) if not is_mine]


def _near(condition: Condition, values_of_field: Callable[[str], list[str]]) -> str:
    """What items have in the field of a condition: the values most like the one asked for, or the
    range of its numbers; "" for paths."""
    from difflib import get_close_matches

    if condition.field == "path":
        return "; path=*/folder/* finds what is in a folder"
    values = values_of_field(condition.field)
    if condition.operator not in ("=", "!="):
        numbers = [number for value in values if (number := as_number(value)) is not None]
        if not numbers:
            return f": none of its values is a number, as {values[0]!r}" if values else ""
        return f": its numbers are {min(numbers):g} to {max(numbers):g}"
    folded = {value.casefold(): value for value in sorted(values)}
    near = get_close_matches(condition.value.casefold(), folded, n=3)
    listed = [folded[value] for value in near] or sorted(values)[:3]
    if not listed:
        return ""
    more = len(values) - len(listed)
    rest = "" if not more else f", and {more:,} more" if len(values) < NEAR_AMONG else ", and more"
    return f": there is {', '.join(map(shortened, listed))}{rest}"


def _parse(text: str) -> Condition:
    """One condition: what stands before and after the first operator of the text."""
    if not is_utf8(text):
        raise QueryError(f"the filter {text!r} is not valid UTF-8, and no item has such a value")
    start = next((i for i, character in enumerate(text) if character in "=!<>"), len(text))
    operator = text[start : start + 2]
    if operator not in ("!=", "<=", ">="):
        operator = text[start : start + 1]
    field, value = text[:start].strip(), text[start + len(operator) :].strip()
    if operator == "=" and value.startswith("="):  # label==monarch, as programs write it
        value = value[1:].lstrip()
    if field == "label":
        value = unicodedata.normalize("NFC", value)  # as labels are stored
    if not field or operator not in ("=", "!=", "<", "<=", ">", ">="):
        raise QueryError(
            f"cannot read the filter {text!r}: write label=monarch, path=blue/* or price<20"
        )
    if operator not in ("=", "!="):
        if as_number(value) is None:
            raise QueryError(f"{text!r}: {operator} compares numbers, and {value!r} is none")
        if field in ("label", "path"):
            raise QueryError(f"{text!r}: {field} is text; use = or !=")
    return Condition(field, operator, value)


def _clause(connection: sqlite3.Connection, condition: Condition, values: list[str | float]) -> str:
    """SQL for one condition; its values are appended to `values`."""
    if condition.field == "path":
        values += [condition.value, f"*/{condition.value}"]
        test = "(path GLOB ? OR path GLOB ?)"
        return test if condition.operator == "=" else f"NOT {test}"
    column, key = _column(condition.field)
    if key:
        _require_column(connection, condition.field, key[0])
    number = as_number(condition.value)
    if condition.operator in ("=", "!="):
        values += [*key, condition.value]
        test = f"{column} IS ?"
        if number is not None and condition.field != "label":  # 2020 is 2020.0; a label is text
            values += [*key, number]
            test = f"({test} OR ifnull(number({column}) = ?, 0))"
        return test if condition.operator == "=" else f"NOT {test}"
    assert number is not None  # parse_where
    values += [*key, number]
    return f"number({column}) {condition.operator} ?"


def _column(field: str) -> tuple[str, list[str]]:
    """SQL for a field other than the path, and the values that it takes."""
    if field == "label":
        return "label", []
    return "json_extract(columns, ?)", [f'$."{field}"']


def _require_column(connection: sqlite3.Connection, name: str, key: str) -> None:
    test = "SELECT 1 FROM items WHERE json_type(columns, ?) IS NOT NULL LIMIT 1"
    found = None if '"' in name else connection.execute(test, (key,)).fetchone()
    if found is None:
        rows = connection.execute(
            "SELECT DISTINCT key FROM items, json_each(items.columns) ORDER BY key"
        )
        raise NoColumnError(name, [row[0] for row in rows])
