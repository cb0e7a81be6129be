"""Filters: from "label=monarch" to the SQL condition."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import QueryError

Where = str | Sequence[str]


@dataclass(frozen=True)
class Condition:
    """One part of a filter: `field` is "label", "path" or a column; `operator` one of = != < <= >
    >=."""

    field: str
    operator: str
    value: str


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
    """Text as a number, SQL's `number(text)`; None, which passes no condition, where it is none."""
    try:
        return float(str(text))
    except ValueError:
        return None


def _parse(text: str) -> Condition:
    """One condition: what stands before and after the first operator of the text."""
    start = next((i for i, character in enumerate(text) if character in "=!<>"), len(text))
    operator = text[start : start + 2]
    if operator not in ("!=", "<=", ">="):
        operator = text[start : start + 1]
    field, value = text[:start].strip(), text[start + len(operator) :].strip()
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
    column, key = "label", []
    if condition.field != "label":
        column, key = "json_extract(columns, ?)", [f'$."{condition.field}"']
        _require_column(connection, condition.field, key[0])
    if condition.operator in ("=", "!="):
        values += [*key, condition.value]
        return f"{column} IS {'NOT ' if condition.operator == '!=' else ''}?"
    values += [*key, float(condition.value)]
    return f"number({column}) {condition.operator} ?"


def _require_column(connection: sqlite3.Connection, name: str, key: str) -> None:
    test = "SELECT 1 FROM items WHERE json_type(columns, ?) IS NOT NULL LIMIT 1"
    found = None if '"' in name else connection.execute(test, (key,)).fetchone()
    if found is None:
        rows = connection.execute(
            "SELECT DISTINCT key FROM items, json_each(items.columns) ORDER BY key"
        )
        have = ", ".join(["label", "path", *(row[0] for row in rows)])
        raise QueryError(f"no item has a column {name!r}: filter on {have}")
