"""What the command line prints: results as text or JSON, tables, messages and progress."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wingbar.images import Failure
    from wingbar.model.model import Model
    from wingbar.parallel import Progress

# Control characters, separators of lines, marks and overrides of the direction of writing.
_MOVING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
LISTED = 20  # failed images named on the terminal; --json lists all


def print_result(args: argparse.Namespace, record: Mapping[str, Any], text: str) -> None:
    """Print a result on standard output: `record` with --json, else `text`."""
    print(json_text(record) if args.json else "\n".join(map(visible, text.split("\n"))))


def print_message(text: str) -> None:
    """Print one line on standard error."""
    print(f"wingbar: {visible(text)}", file=sys.stderr)


def print_failures(failed: Sequence[Failure]) -> None:
    """Name the images that could not be used on standard error, at most LISTED of them."""
    for failure in failed[:LISTED]:
        print_message(f"skipped {failure.path}: {failure.reason}")
    if len(failed) > LISTED:
        print_message(f"skipped {len(failed) - LISTED:,} more; --json lists them all")


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """One bar per stage with its speed and the time left, on a terminal only."""
    from tqdm import tqdm

    from wingbar.data.download import BYTE_STAGES

    bars: dict[str, tqdm[Any]] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            in_bytes = stage.split()[0] in BYTE_STAGES and stage.split()[1:] != ["images"]
            bars[stage] = tqdm(
                desc=stage,
                total=total,
                unit="B" if in_bytes else " images",
                unit_scale=in_bytes,
                leave=False,
                disable=None,
                smoothing=0.1,
            )
        bars[stage].total = total
        bars[stage].update(done - bars[stage].n)

    try:
        yield report
    finally:
        for bar in bars.values():
            bar.close()


# -- texts


def json_text(record: Mapping[str, Any]) -> str:
    """A record as one line of JSON that standard output can write: what its encoding lacks becomes
    an escape of JSON, not of Python."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("_", "-")
    return json.dumps(record, ensure_ascii=encoding not in ("utf-8", "utf8"))


def visible(text: str) -> str:
    r"""Text on one line that a terminal shows as it is: a line break becomes \n, and characters
    that move the cursor, change colours or turn the direction of writing become escapes such as
    \x1b."""
    return text if text.isprintable() else _MOVING.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: "1 image", "3,068 images"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def table_text(record: Mapping[str, object]) -> str:
    """One line per value of a record, values in one column."""
    width = max(map(len, record))
    return "\n".join(f"{key:{width}}  {value_text(value)}" for key, value in record.items())


def value_text(value: object) -> str:
    """A value for a table: 4 decimals for small floats, commas between thousands."""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def model_record(model: Model) -> dict[str, Any]:
    """A model as `wingbar info` shows it; `classes` is their number."""
    keys = (
        "method",
        "backbone",
        "dim",
        "parameters",
        "parameters_total",
        "macs",
        "preparation",
        "fine",
        "held_out_map",
        "protocol",
    )
    return {
        "name": model.name,
        **{key: model.record[key] for key in keys if key in model.record},
        "bits": model.bits if model.gives_codes else None,
        "classes": len(model.record.get("classes", [])),
        "fingerprint": model.fingerprint,
    }
