"""How `index --for` and `info` show what an index was made with, of several candidates, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def chosen_sentence(chosen: Mapping[str, Any]) -> str:
    """What was chosen and by which figure, by the part "chosen" of a model.json."""
    name, purpose = chosen["name"], chosen["for"]
    if "score" not in chosen:
        return f"Taken for {purpose} without measuring: {name}, since {chosen['reason']}."
    text = (
        f"Chosen for {purpose}: {taken_text(chosen)}; "
        f"{chosen['measure']} {chosen['score']:.3f} ± {chosen['error']:.3f} "
        f"({chosen['queries']:,} queries, {chosen['gallery']:,} pictures)"
    )
    if any(score > chosen["score"] for *_, score in _scores(chosen)):
        text += "; what measured higher is within the noise"
    return f"{text}."


def taken_text(chosen: Mapping[str, Any]) -> str:
    """The way to search that was measured to be best; empty where nothing was measured."""
    if "score" not in chosen:
        return ""
    return f"{chosen['name']}, {_codes(chosen['codes'])}, fine={chosen['fine']}"


def chosen_table(chosen: Mapping[str, Any], speeds: Mapping[str, float] | None = None) -> str:
    """The figures of all candidates: a row for each of their kinds of codes, a column for each fine
    mode, and a star at what was chosen. Empty where nothing was measured."""
    from wingbar.index.ranking import FINE

    if not _scores(chosen):
        return ""
    rows = [[chosen["measure"], *FINE, *(["images/s"] if speeds else [])]]
    for candidate in chosen["candidates"]:
        name = candidate["name"]
        for codes, scores in candidate["scores"].items():
            taken = (name, codes) == (chosen["name"], chosen["codes"])
            cells = [
                f"{scores[fine]:.3f}{'*' if taken and fine == chosen['fine'] else ' '}"
                if fine in scores
                else "- "
                for fine in FINE
            ]
            speed = [f"{speeds.get(name, 0.0):,.1f}"] if speeds else []
            rows.append([f"{name}, {_codes(codes)}", *cells, *speed])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )


def _codes(kind: str) -> str:
    return "its own codes" if kind == "own" else f"{kind} codes"


def _scores(chosen: Mapping[str, Any]) -> list[tuple[str, str, str, float]]:
    """Name, kind of codes, fine mode and mean of all that was measured."""
    return [
        (candidate["name"], codes, fine, score)
        for candidate in chosen["candidates"]
        for codes, scores in candidate["scores"].items()
        for fine, score in scores.items()
    ]
