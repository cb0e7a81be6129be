"""Write the copies in an index as a page with pictures, in the look of the other pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wingbar.duplicates.find import Copy, Duplicates
from wingbar.errors import counted
from wingbar.evaluation.report import Fact, Picture, check_pages, picture, rendered

TEMPLATES = Path(__file__).parent / "templates"
GROUPS_SHOWN = 300
COPIES_SHOWN = 24  # of one group

_HOW = {
    "same file": "same file",
    "same picture": "same picture",
    "part": "a part of the other",
    "through another": "linked by another one here",
    "by feature": "alike by feature",
}


class _CopyView(NamedTuple):
    picture: Picture
    name: str
    folder: str
    how: str
    size: str
    likeness: str
    label: str


class _GroupView(NamedTuple):
    title: str
    folder: str
    labels: str
    copies: list[_CopyView]
    more: int


def duplicates_page(name: str, found: Duplicates) -> str:
    """The copies `found` in the index `name`, as HTML text. Its pictures are small JPEGs without
    EXIF; it loads nothing. Raises WingbarError without Jinja2."""
    check_pages()
    shown, space = found.groups[:GROUPS_SHOWN], freed(found)
    values = {
        "title": f"Copies in {Path(name).name}",
        "kind": "wingbar duplicates",
        "intro": intro(found),
        "facts": [
            Fact("groups of copies", f"{len(found.groups):,}"),
            Fact(f"{found.noun}s that can go", f"{len(found.to_drop):,}", _share(found)),
            *([Fact("space in their files", bytes_text(space))] if space else []),
            Fact(f"{found.noun}s compared", f"{found.items:,}"),
        ],
        "groups": [_group(group, found.noun) for group in shown],
        "hidden": len(found.groups) - len(shown),
        "note": _note(found),
    }
    return rendered("duplicates.html", values, [TEMPLATES])


def intro(found: Duplicates) -> str:
    """What counts as a copy here, in words."""
    files = found.noun == "picture"
    if found.radius is None:
        if files:
            return "Pictures are copies when their files hold the same bytes."
        return "Items are copies when they hold the same numbers."
    codes = "codes made of the features" if found.own_codes else "codes"
    return (
        f"Copies are {found.noun}s with the same {'bytes' if files else 'numbers'}, and "
        f"{found.noun}s whose {codes} differ in at most "
        f"{counted(found.radius, 'bit')}, whose features have a cosine of at least "
        f"{found.min_score:.2f}"
        + (" and whose pixels lie over each other." if found.compared else ".")
    )


def freed(found: Duplicates) -> int:
    """Bytes of the files that can go."""
    return sum(max(copy.bytes, 0) for copy in found.to_drop)


def bytes_text(count: int) -> str:
    """A number of bytes in the unit that fits."""
    size, unit = float(count), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit in ("bytes", "kB") else f"{size:,.1f} {unit}"


def size_text(copy: Copy) -> str:
    """Width, height and bytes of a picture, as far as they are known."""
    parts = [] if copy.size is None else [f"{copy.size[0]:,} x {copy.size[1]:,}"]
    return ", ".join([*parts, *([bytes_text(copy.bytes)] if copy.bytes >= 0 else [])])


def undecided(found: Duplicates) -> list[str]:
    """Sentences on items whose pixels could not be compared."""
    sentences = []
    if found.unread:
        sentences.append(
            f"{counted(found.unread, 'picture')} could not be read; their features alone decided."
        )
    if 0 < found.without_file < found.items and found.radius is not None:
        have = "1 item has" if found.without_file == 1 else f"{found.without_file:,} items have"
        sentences.append(f"{have} no picture in a file; their features alone decided.")
    return sentences


def _share(found: Duplicates) -> str:
    return f"{len(found.to_drop) / max(found.items, 1):.1%} of all"


def _group(group: Sequence[Copy], noun: str) -> _GroupView:
    labels = sorted({copy.label for copy in group if copy.label is not None})
    folders = {_folder(copy) for copy in group}
    shared = folders.pop() if len(folders) == 1 else ""
    return _GroupView(
        f"{len(group):,} {noun}s, {len(group) - 1:,} can go",
        shared,
        f"labelled {' and '.join(labels)}" if len(labels) > 1 else "",
        [
            _copy(copy, "" if shared else _folder(copy), len(labels) > 1)
            for copy in group[:COPIES_SHOWN]
        ],
        max(0, len(group) - COPIES_SHOWN),
    )


def _folder(copy: Copy) -> str:
    path = Path(copy.path)
    return str(path.parent) if path.is_absolute() else ""


def _copy(copy: Copy, folder: str, labels_differ: bool) -> _CopyView:
    name = Path(copy.path).name or copy.path
    likeness = ""
    if copy.how not in (None, "same file"):
        likeness = f"{counted(copy.distance, 'bit')}, cosine {copy.score:.2f}"
        if copy.agreement is not None and copy.how != "through another":
            likeness += f", pixels {copy.agreement:.2f}"
    return _CopyView(
        picture(copy.path, name) if copy.bytes >= 0 else Picture(copy.path, name, "", "no picture"),
        name,
        folder,
        _HOW.get(copy.relation, copy.relation),
        size_text(copy),
        likeness,
        (copy.label or "no label") if labels_differ else "",
    )


def _note(found: Duplicates) -> str:
    seconds = sum(found.seconds.values())
    note = f"Found in {seconds:,.0f} s."
    if found.compared:
        note += f" The pixels of {counted(found.compared, 'pair')} were compared."
    return " ".join([note, *undecided(found)])
