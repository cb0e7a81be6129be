"""What the command line prints: tables, JSON, progress and lists of failures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wingbar.images import Failure
    from wingbar.model.model import Model
    from wingbar.parallel import Progress


IN_BYTES = ("fetching", "checking", "unpacking")  # stages of download.py, which count bytes
SHOWN = 20  # bad files named on the terminal; --json names all


def _bit_text(bits: Iterable[bool]) -> str:
    return "".join("1" if bit else "0" for bit in bits)


def _box_text(box: Sequence[float]) -> str:
    return ",".join(f"{value:.0f}" for value in box)


def _record_lines(record: dict[str, Any]) -> list[str]:
    """One line for each value; a record inside a record in one line of its own."""
    flat: dict[str, object] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            for name, inner in value.items():
                one = inner.items() if isinstance(inner, dict) else [("", inner)]
                flat[f"{key} {name}"] = ", ".join(f"{k} {_number(v)}".strip() for k, v in one)
        else:
            flat[key] = value
    width = max(map(len, flat))
    return [f"{key:{width}}  {_number(value)}" for key, value in flat.items()]


# -- what they share


def _model_record(model: Model) -> dict[str, Any]:
    """What `info` says of a model; `classes` is how many."""
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
    known = {key: model.record[key] for key in keys if key in model.record}
    bits = model.bits if model.gives_codes else None
    classes = len(model.record.get("classes", []))
    return {
        "name": model.name,
        **known,
        "bits": bits,
        "classes": classes,
        "fingerprint": model.fingerprint,
    }


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar with images/s and the time left, on a terminal only."""
    from tqdm import tqdm

    bars: dict[str, tqdm[Any]] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            in_bytes = stage.split()[0] in IN_BYTES
            unit = "B" if in_bytes else " images"
            bars[stage] = tqdm(
                desc=stage,
                total=total,
                unit=unit,
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


def _print(args: argparse.Namespace, record: dict[str, Any], text: str) -> int:
    print(json.dumps(record, ensure_ascii=False) if args.json else text)
    return 0


def _list_failures(failed: Sequence[Failure]) -> None:
    for failure in failed[:SHOWN]:
        print(f"wingbar: left out {failure.path}: {failure.reason}", file=sys.stderr)
    if len(failed) > SHOWN:
        print(
            f"wingbar: left out {len(failed) - SHOWN:,} more; --json lists them all",
            file=sys.stderr,
        )


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
