"""Self-contained HTML pages of ranked neighbours."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from wingbar import images
from wingbar.datasets import Entry
from wingbar.errors import ImageError
from wingbar.index import Hit

THUMB = 128  # pixels of the longer side

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --good: #0a7d32; --bad: #c02626; --soft: #8882; }
@media (prefers-color-scheme: dark) { :root { --good: #5fd38a; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1240px; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0 1rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .75rem; margin: 1.25rem 0 2rem; }
.facts div { background: var(--soft); border-radius: .5rem; padding: .6rem .8rem; }
.facts dt { font-size: .8rem; } .facts dd { margin: 0; font-weight: 600; }
section { border-top: 1px solid var(--line); padding: 1rem 0; display: grid; gap: 1rem; }
section { grid-template-columns: 8.5rem minmax(0, 1fr); }
section h2 { font-size: 1rem; margin: .4rem 0 0; overflow-wrap: anywhere; }
h3 { font-size: .85rem; font-weight: 600; margin: 0 0 .35rem; }
ol { list-style: none; display: flex; gap: .5rem; margin: 0 0 .9rem; padding: 0 0 .3rem; overflow-x: auto; }
li { flex: 0 1 6.4rem; min-width: 5rem; font-size: .75rem; overflow-wrap: anywhere; }
figure { margin: 0; }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--soft); border-radius: .35rem; }
li.good img { outline: 3px solid var(--good); outline-offset: -3px; }
li.bad img { outline: 3px dashed var(--bad); outline-offset: -3px; }
.mark { font-weight: 700; } .good .mark { color: var(--good); } .bad .mark { color: var(--bad); }
.missing { display: grid; place-items: center; aspect-ratio: 1; background: var(--soft); border-radius: .35rem; padding: .3rem; }
footer { border-top: 1px solid var(--line); font-size: .85rem; padding-top: 1rem; }
@media (max-width: 40rem) { section { grid-template-columns: minmax(0, 1fr); } section > figure { max-width: 8.5rem; } }
"""


@dataclass(frozen=True)
class Gallery:
    """One query and its rankings, each with a title. With `marked`, hits of the query's label count as right."""

    query: Entry
    rankings: Sequence[tuple[str, Sequence[Hit]]]
    marked: bool


def page(title: str, intro: str, facts: Sequence[tuple[str, str]], galleries: Sequence[Gallery], note: str) -> str:
    """The whole page as text; pictures are inside as small JPEGs without EXIF."""
    cards = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    body = "".join(map(_gallery, galleries))
    foot = f"<footer>{escape(note)}</footer>" if note else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<body><h1>{escape(title)}</h1><p>{escape(intro)}</p>"
        f'<dl class="facts">{cards}</dl><main>{body}</main>{foot}</body></html>\n'
    )


def _gallery(gallery: Gallery) -> str:
    query = gallery.query
    name = query.label or query.path.name
    rows = "".join(
        f"<h3>{escape(title)}</h3><ol>{''.join(_hit(hit, query.label if gallery.marked else None) for hit in hits)}</ol>"
        for title, hits in gallery.rankings
    )
    picture = _picture(str(query.path), f"query: {name}")
    return f"<section><figure>{picture}<h2>{escape(name)}</h2></figure><div>{rows}</div></section>"


def _hit(hit: Hit, label: str | None) -> str:
    right = label is not None and hit.label == label
    kind = "" if label is None else "good" if right else "bad"
    mark = "" if label is None else f'<span class="mark">{"✓" if right else "✗"}</span> '
    name = hit.label or Path(hit.path).name
    bits = f"{hit.distance} bit{'' if hit.distance == 1 else 's'}"
    score = "" if hit.score is None else f"<br>cosine {hit.score:.2f}"
    picture = _picture(hit.path, name)
    return f'<li class="{kind}">{picture}{mark}{escape(name)}<br>{bits}{score}</li>'


def _picture(path: str, alt: str) -> str:
    try:
        data = base64.b64encode(images.thumbnail(path, THUMB)).decode()
    except ImageError as error:
        return f'<div class="missing">{escape(str(error))}</div>'
    return f'<img loading="lazy" alt="{escape(alt)}" title="{escape(path)}" src="data:image/jpeg;base64,{data}">'
