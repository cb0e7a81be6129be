"""The verbs `search` and `explain`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wingbar.errors import ImageError

if TYPE_CHECKING:
    from wingbar.index.index import Explained
    from wingbar.index.ranking import Hits
    from wingbar.model.saliency import Look

from wingbar.cli.output import _bit_text, _box_text, _print


def search(args: argparse.Namespace) -> int:
    """Find the images most like the given ones."""
    from wingbar.images import parse_box
    from wingbar.index.index import Index

    code = 0
    box = None if args.box is None else parse_box(args.box)
    with Index.open(args.index) as found:
        for name in args.images:
            try:
                hits = found.search(
                    name,
                    args.k,
                    radius=args.radius,
                    fine=args.fine,
                    shortlist=args.shortlist,
                    where=args.where,
                    box=box,
                )
            except ImageError as error:  # the other queries still get their answers
                print(f"wingbar: {error}", file=sys.stderr)
                code = 2
                continue
            if args.json or not sys.stdout.isatty():
                for hit in hits:
                    print(json.dumps({"query": name, **asdict(hit)}, ensure_ascii=False))
            else:
                print(_hits_text(name, hits))
    return code


def explain(args: argparse.Namespace) -> int:
    """Show what a search looked at: places and characteristics, and the bits that agree with each
    hit."""
    from wingbar.images import Part, parse_box
    from wingbar.index.index import Index, explain

    source = args.image if args.box is None else Part(args.image, parse_box(args.box))
    with Index.open(args.index) as found:
        hits = found.search(source, args.k, fine=args.fine, shortlist=args.shortlist)
        explained = explain(found, source, hits)
    if args.output:
        _write_looks(Path(args.output), source, explained)
    return _print(args, _explained_record(explained), _explained_text(args.image, explained))


def _write_looks(folder: Path, source: Any, explained: Explained) -> None:
    """An overlay (PNG) of the query and of each hit, and the map of numbers on it (.npy)."""
    import numpy as np

    from wingbar import images

    folder.mkdir(parents=True, exist_ok=True)
    looks = [("query", source, explained.query)]
    looks += [
        (f"hit{hit.rank}", hit.path, look)
        for hit, look in zip(explained.hits, explained.looks, strict=True)
        if look
    ]
    for name, picture, look in looks:
        (folder / f"{name}.png").write_bytes(
            images.overlay(images.upright(picture), look.heat, look.area, look.regions)
        )
        if look.heat is not None:
            np.save(folder / f"{name}.npy", look.heat)


def _explained_record(explained: Explained) -> dict[str, Any]:
    def look(one: Look | None) -> dict[str, Any] | None:
        if one is None:
            return None
        heat = None if one.heat is None else one.heat.round(6).tolist()
        return {**asdict(one), "heat": heat}

    hits = [
        {**asdict(hit), "agree": _bit_text(agree), "look": look(there)}
        for hit, agree, there in zip(explained.hits, explained.agree, explained.looks, strict=True)
    ]
    return {"code": _bit_text(explained.code), "query": look(explained.query), "hits": hits}


def _explained_text(name: str, explained: Explained) -> str:
    look = explained.query
    lines = [f"{name}, {look.size[0]} x {look.size[1]}", f"code {_bit_text(explained.code)}"]
    if look.heat is None:
        lines.append(
            "this method shows no places: DOLG has attention, CMBH characteristics and regions"
        )
    else:
        row, column = divmod(int(look.heat.argmax()), look.heat.shape[1])
        height, width = look.heat.shape
        x, y = (
            (column + 0.5) / width * look.area[2] + look.area[0],
            (row + 0.5) / height * look.area[3] + look.area[1],
        )
        lines.append(f"looks most at {x:.0f},{y:.0f} (map of {width} x {height})")
    lines += [f"region {i}: {_box_text(box)}" for i, box in enumerate(look.regions, start=1)]
    lines += [
        f"characteristic {c.number} of {c.label}: cosine {c.cosine:.3f}, class {c.probability:.1%}"
        for c in look.fired
    ]
    for hit, agree in zip(explained.hits, explained.agree, strict=True):
        marks = "".join("." if same else "x" for same in agree)
        lines.append(
            f"{hit.rank:4}  {int((~agree).sum()):3} of {len(agree)} bits differ  {marks}  "
            f"{hit.label or ''}  {hit.path}"
        )
    return "\n".join(lines)


def _hits_text(name: str, hits: Hits) -> str:
    total = sum(hits.milliseconds.values())
    stages = " + ".join(f"{stage} {ms:.1f}" for stage, ms in hits.milliseconds.items())
    looked = (
        f"; {hits.shortlist:,} in the shortlist" + (" (cut inside a tie)" if hits.cut else "")
        if hits.shortlist
        else ""
    )
    lines = [f"{name}: {len(hits)} hits in {total:.0f} ms ({stages}){looked}"]
    label_width = max([len(hit.label or "") for hit in hits] + [5])
    lines.append(f"{'rank':>4}  {'bits':>4}  {'cosine':>6}  {'label':{label_width}}  path")
    for hit in hits:
        score = "" if hit.score is None else f"{hit.score:.3f}"
        lines.append(
            f"{hit.rank:>4}  {hit.distance:>4}  {score:>6}  {hit.label or '':{label_width}}  "
            f"{hit.path}"
        )
    return "\n".join(lines)
