"""The verbs `search` and `explain`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wingbar.cli.options import (
    Verb,
    add_encoder_flag,
    add_ranking_flags,
    add_where_flag,
    refuse_flags,
    refuse_idle_shortlist,
)
from wingbar.cli.output import (
    json_text,
    print_message,
    print_result,
    require_folder,
    require_page,
    visible,
)
from wingbar.cli.pictures import KINDS, strip_text
from wingbar.cli.pictures import resolved as pictures_for
from wingbar.errors import ImageError, WingbarError, counted, one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wingbar.images import Box, Source
    from wingbar.index.explanation import Explained
    from wingbar.index.ranking import Hits
    from wingbar.index.text_search import Text
    from wingbar.model.saliency import Look

PICTURES = 24  # shown on a terminal for one query, at most

# -- search


def search_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `search`."""
    from wingbar.index.ranking import CUT, SearchOptions

    parser.add_argument("index", metavar="INDEX", help="the index, a file or a URL")
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="*",
        help="one or more query images; for an index of vectors, .npy files of them",
    )
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        help="search for a text instead, if the model of the index knows texts; may be repeated",
    )
    parser.add_argument(
        "-k",
        type=int,
        default=SearchOptions.k,
        help=f"number of hits per query (default {SearchOptions.k})",
    )
    parser.add_argument(
        "--radius", type=int, help="largest Hamming distance of a hit in bits (default: any)"
    )
    parser.add_argument(
        "--box",
        metavar="X,Y,WIDTH,HEIGHT",
        help="search with this part of the query images only, in pixels",
    )
    add_ranking_flags(parser)
    add_where_flag(parser)
    add_encoder_flag(parser, "the one that answers")
    parser.add_argument(
        "--cut",
        type=float,
        nargs="?",
        const=CUT,
        metavar="P",
        help="end the list where more than this share of random pairs of items are as near as "
        f"query and hit: nothing like it is there when the list is empty (default {CUT:g})",
    )
    parser.add_argument(
        "--distinct", action="store_true", help="fold copies of a hit into it, and count them"
    )
    parser.add_argument(
        "--html", metavar="FILE", help="write a page with the pictures of queries and hits"
    )
    parser.add_argument(
        "--open", action="store_true", help="open that page in a browser, a new file without --html"
    )
    parser.add_argument(
        "--pictures",
        choices=KINDS,
        default="auto",
        help="show the pictures on the terminal itself, by this protocol (default auto: on "
        "terminals that say they can)",
    )


def search(args: argparse.Namespace) -> int:
    """Print the hits of each query image or text; exit code 2 when one of them cannot be read."""
    from wingbar.images import parse_box
    from wingbar.index.index import Index
    from wingbar.index.ranking import SearchOptions
    from wingbar.index.text_search import Text

    if not args.images and not args.text:
        raise WingbarError("name an image to search with, or a --text")
    refuse_idle_shortlist(args)
    if args.json:
        refuse_flags(args, ["--pictures"], "shows pictures on a terminal, and --json text alone")
    on_terminal = sys.stdout.isatty()
    pictures = pictures_for(args.pictures, on_terminal and not args.json)
    as_page = args.open or args.html is not None
    if as_page:
        from wingbar.evaluation.report import check_pages

        check_pages()
    if args.html is not None:
        require_page(args.html)
    options = SearchOptions(
        k=args.k,
        radius=args.radius,
        fine=args.fine,
        shortlist=args.shortlist,
        where=args.where,
        box=None if args.box is None else parse_box(args.box),
        distinct=args.distinct,
        expand=args.expand,
        cut=args.cut,
        encoder=args.encoder,
    )
    code = 0
    found: list[tuple[str, Hits]] = []
    told: str | None = None  # why the filter lets nothing pass; the same for every query
    queries = [*_queries(args.images), *_texts(args.text)]
    with Index.open(args.index) as index:
        if args.text and args.encoder is None and index.for_texts() is not index:
            print_message(f"{index.for_texts().model.name} answers, which knows texts")
        index.check([query for _, query in queries], options)  # before the first is answered
        for name, query in queries:
            try:
                hits = index.find([query], options)[0]
                if options.box is not None and not isinstance(query, Text):
                    _tell_of_cut_box(name, options.box)
            except ImageError as error:  # the other queries still get their answers
                print_message(str(error))
                code = 2
                continue
            if as_page:
                found.append((name, hits))
            if args.json or not on_terminal:
                for hit in hits:
                    record = {"query": name, **asdict(hit)}
                    if args.distinct:
                        record["copies"] = list(hits.copies.get(hit.id, ()))
                    print(json_text(record))
            else:
                shown = [*_pictures_of_query(name, query, options.box), *(h.path for h in hits)]
                print(strip_text(shown[:PICTURES], pictures) + _hits_text(name, hits))
            if not hits and args.where and not told:
                told = index.why_nothing_passes(args.where)
                if told is not None:
                    print_message(told)
    if found:
        _write_page(args, found)
    return code


SEARCH = Verb(
    name="search",
    summary="Find the images most similar to the given ones, or to a text.",
    examples="wingbar search photos.wb query.jpg -k 5 --where label=monarch\n"
    "wingbar search photos.wb query.jpg --open\n"
    'wingbar search photos.wb --text "red dress"',
    flags=search_flags,
    run=search,
)


# -- explain


def explain_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `explain`."""
    parser.add_argument("index", metavar="INDEX", help="the index, a file or a URL")
    parser.add_argument("image", metavar="IMAGE", help="the query image")
    parser.add_argument("-k", type=int, default=3, help="number of hits (default 3)")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        help="write an overlay (PNG) and the heat map (.npy) of the query and of each hit here, of "
        "a model that has one (CMBH, DOLG)",
    )
    parser.add_argument(
        "--box",
        metavar="X,Y,WIDTH,HEIGHT",
        help="search with this part of the query image only, in pixels",
    )
    add_ranking_flags(parser)
    add_encoder_flag(parser, "the one that is asked")


NO_HEAT = "no heat map: DOLG has attention, CMBH characteristics and regions"


def explain(args: argparse.Namespace) -> int:
    """Print where the model looked, and for each hit the bits that agree with the query's."""
    from wingbar.images import Part, parse_box
    from wingbar.index.explanation import explain
    from wingbar.index.index import Index
    from wingbar.index.ranking import SearchOptions

    refuse_idle_shortlist(args)
    if args.output:
        require_folder(args.output)
    options = SearchOptions(k=args.k, fine=args.fine, shortlist=args.shortlist, expand=args.expand)
    source = args.image if args.box is None else Part(args.image, parse_box(args.box))
    with Index.open(args.index) as opened:
        index = opened.encoder(args.encoder)
        explained = explain(index, source, index.find([source], options)[0])
    if isinstance(source, Part):
        _tell_of_cut_box(args.image, source.box)
    if args.output:
        if explained.query.heat is None:
            raise WingbarError(f"{index.model.name} has {NO_HEAT}: leave -o out")
        _write_looks(Path(args.output), source, explained)
    print_result(args, _explained_record(explained), _explained_text(args.image, explained))
    return 0


EXPLAIN = Verb(
    name="explain",
    summary="Show where the model looked, and which bits agree with those of each hit.",
    examples="wingbar explain photos.wb query.jpg -o seen/",
    flags=explain_flags,
    run=explain,
)


# -- the queries


def _queries(names: Sequence[str]) -> Iterator[tuple[str, str | NDArray[np.floating]]]:
    """Each query and what to call it: images by their paths, and the vectors of .npy files."""
    for name in names:
        if not name.lower().endswith(".npy"):
            yield name, name
            continue
        import numpy as np

        try:
            vectors = np.load(name, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise WingbarError(
                f"{name} cannot be read as a NumPy file: {one_line(error)}"
            ) from None
        if vectors.ndim not in (1, 2) or vectors.dtype.kind not in "fiu":
            raise WingbarError(f"{name} holds no vectors: save one [d] or several [Q, d]")
        from wingbar.index.vectors import as_float32

        rows = as_float32(vectors)
        if vectors.ndim == 1:
            yield name, rows
        else:
            yield from ((f"{name}[{i}]", row) for i, row in enumerate(rows))


def _texts(texts: Sequence[str]) -> Iterator[tuple[str, Text]]:
    """Each text and what to call it."""
    from wingbar.index.text_search import Text

    yield from ((text, Text(text)) for text in texts)


# -- what they write and print


def _pictures_of_query(name: str, query: object, box: Box | None) -> list[Source]:
    """The picture of a query, or its part; none for a vector or a text."""
    from wingbar.images import Part

    if query is not name:
        return []
    return [name if box is None else Part(name, box)]


def _write_page(args: argparse.Namespace, found: Sequence[tuple[str, Hits]]) -> None:
    """Write the hits of all queries as a page, say where it is, and open it with --open."""
    import tempfile
    import webbrowser

    from wingbar.data.records import Entry
    from wingbar.evaluation.report import RankedQuery, Ranking, neighbours_page
    from wingbar.files import write_whole
    from wingbar.index.engine import place_of

    if args.html is None:
        path = Path(tempfile.mkdtemp(prefix="wingbar-")) / "search.html"
    else:
        path = Path(args.html)
    page = neighbours_page(
        f"{counted(len(found), 'query', 'queries')} in {place_of(args.index)}",
        "The pictures that are most alike, the nearest first.",
        [],
        [RankedQuery(Entry(Path(name)), [Ranking("", hits)]) for name, hits in found],
        "",
        kind="wingbar search",
        marked=False,
    )
    write_whole(path, page)
    print_message(f"the pictures are in {path}")
    if args.open:
        webbrowser.open(path.absolute().as_uri())


def _tell_of_cut_box(name: str, box: Box) -> None:
    """Say so when a box reaches beyond its picture: only what is inside was looked at."""
    from wingbar.images import upright

    x, y, width, height = box
    picture = upright(name)
    if x < 0 or y < 0 or x + width > picture.width or y + height > picture.height:
        print_message(
            f"{name}: the box {x:g},{y:g},{width:g},{height:g} reaches beyond the picture of "
            f"{picture.width} x {picture.height}; only the part inside was searched for"
        )


def _hits_text(name: str, hits: Hits) -> str:
    total = sum(hits.milliseconds.values())
    stages = " + ".join(f"{stage} {ms:.1f}" for stage, ms in hits.milliseconds.items())
    first = f"{visible(name)}: {counted(len(hits), 'hit')} in {total:.0f} ms ({stages})"
    if hits.shortlist:
        first += f"; shortlist of {hits.shortlist:,}" + (" (cut inside a tie)" if hits.cut else "")
    if not hits:
        return first
    labels = [visible(hit.label or "") for hit in hits]
    label_width = max([*map(len, labels), 5])
    lines = [first, f"{'rank':>4}  {'bits':>4}  {'cosine':>6}  {'label':{label_width}}  path"]
    for hit, label in zip(hits, labels, strict=True):
        score = "" if hit.score is None else f"{hit.score:.3f}"
        folded = len(hits.copies.get(hit.id, ()))
        lines.append(
            f"{hit.rank:>4}  {hit.distance:>4}  {score:>6}  {label:{label_width}}  "
            f"{visible(hit.path)}"
            + (f"  (and {counted(folded, 'copy', 'copies')})" if folded else "")
        )
    return "\n".join(lines)


def _write_looks(folder: Path, source: Source, explained: Explained) -> None:
    """An overlay (PNG) of the query and of each hit, and its heat map (.npy) where there is one."""
    import numpy as np

    from wingbar import images

    folder.mkdir(parents=True, exist_ok=True)
    looks: list[tuple[str, Source, Look]] = [("query", source, explained.query)]
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
    hits = [
        {**asdict(hit), "agree": _bits_text(agree), "look": _look_record(look)}
        for hit, agree, look in zip(explained.hits, explained.agree, explained.looks, strict=True)
    ]
    return {
        "code": _bits_text(explained.code),
        "query": _look_record(explained.query),
        "hits": hits,
    }


def _look_record(look: Look | None) -> dict[str, Any] | None:
    if look is None:
        return None
    heat = None if look.heat is None else look.heat.round(6).tolist()
    return {**asdict(look), "heat": heat}


def _explained_text(name: str, explained: Explained) -> str:
    look = explained.query
    lines = [
        f"{visible(name)}, {look.size[0]} x {look.size[1]}",
        f"code {_bits_text(explained.code)}",
        _place_text(look),
    ]
    lines += [f"region {i}: {_box_text(box)}" for i, box in enumerate(look.regions, start=1)]
    lines += [
        f"characteristic {c.number} of {visible(c.label)}: cosine {c.cosine:.3f}, "
        f"class {c.probability:.1%}"
        for c in look.fired
    ]
    for hit, agree in zip(explained.hits, explained.agree, strict=True):
        marks = "".join("." if same else "x" for same in agree)
        lines.append(
            f"{hit.rank:4}  {int((~agree).sum()):3} of {len(agree)} bits differ  {marks}  "
            f"{visible(hit.label or '')}  {visible(hit.path)}"
        )
    return "\n".join(lines)


def _place_text(look: Look) -> str:
    """Where the heat map is greatest, in pixels of the picture."""
    if look.heat is None:
        return f"this model has {NO_HEAT}"
    height, width = look.heat.shape
    row, column = divmod(int(look.heat.argmax()), width)
    x = look.area[0] + (column + 0.5) / width * look.area[2]
    y = look.area[1] + (row + 0.5) / height * look.area[3]
    return f"looks most at {x:.0f},{y:.0f} (map of {width} x {height})"


def _bits_text(bits: Iterable[bool]) -> str:
    return "".join("1" if bit else "0" for bit in bits)


def _box_text(box: Sequence[float]) -> str:
    return ",".join(f"{value:.0f}" for value in box)
