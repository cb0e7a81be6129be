"""Run the demo: from a folder of pictures to a page of ranked neighbours, in one call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from wingbar import images
from wingbar.data.garden import BIRDS, write_garden
from wingbar.data.readers import read_dataset, read_images
from wingbar.data.records import Dataset, Entry, Images
from wingbar.errors import DataError, ImageError, WingbarError, counted, visible
from wingbar.evaluation.labelled import Evaluation, evaluate
from wingbar.evaluation.report import Fact, RankedQuery, Ranking, neighbours_page
from wingbar.evaluation.verdict import verdict
from wingbar.files import require_folder, write_whole
from wingbar.index.index import Index
from wingbar.index.ranking import Fine, Hits
from wingbar.index.sqlite_file import remove_index
from wingbar.index.sync import AddReport
from wingbar.parallel import Progress, no_progress

QUERIES_SHOWN = 12
NEIGHBOURS = 10  # of each query and ranking
TRAINING = "--size 128 --batch 16"  # few pictures: more steps, of small ones


@dataclass(frozen=True)
class Demo:
    """What a demo did and where its results are.

    source: the folder of pictures.
    drawn: whether they are the drawn birds.
    index: the index.
    page: the HTML page.
    report: what was added to the index.
    evaluation: of the index, when the pictures have labels.
    queries: the queries on the page and their rankings.
    seconds: wall-clock time of everything.
    """

    source: Path
    drawn: bool
    index: Path
    page: Path
    report: AddReport
    evaluation: Evaluation | None
    queries: Sequence[RankedQuery]
    seconds: float


def run(output: Path, folder: Path | None, *, bits: int, progress: Progress = no_progress) -> Demo:
    """Index the pictures of `folder`, evaluate the index, search it, and write a page into
    `output`.

    `folder` None means drawn birds of a garden. Raises WingbarError when Jinja2 is missing or the
    folder has no pictures.
    """
    if find_spec("jinja2") is None:
        raise WingbarError("the demo's page needs Jinja2: pip install 'wingbar[demo]'")
    start = time.monotonic()
    require_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    page, path = output / "index.html", output / "demo.wb"
    if page.exists() and not path.exists():
        raise WingbarError(f"{page} exists and is not a demo's: name another folder with -o")
    source = folder or write_garden(output / "birds", progress=progress)
    gallery, queries, data = _parts(source)
    evaluation = None
    remove_index(path)
    with Index.create(path) as index:
        added = index.add(gallery, bits=bits, progress=progress)
        if not len(index):
            reasons = "; ".join(f"{f.path}: {f.reason}" for f in added.failed[:3])
            raise DataError(f"none of the images in {source} could be used ({reasons})")
        if data is not None:
            with suppress(DataError):  # nothing to score, as with one image per class
                evaluation = evaluate(
                    index,
                    data.query,
                    protocol=data.protocol,
                    keep_constant_bits=True,  # few pictures need not use all bits
                    progress=progress,
                )
        queries = [entry for entry in queries if _can_be_read(entry)]
        ranked = _ranked(index, queries)
        facts = _facts(len(index), bits, evaluation)
    write_whole(page, _page(source, facts, evaluation, ranked, drawn=folder is None))
    return Demo(
        source, folder is None, path, page, added, evaluation, ranked, time.monotonic() - start
    )


def text(shown: Demo) -> str:
    """What the command prints."""
    added = shown.report
    speed = f" at {added.images_per_second:,.0f} images/s" if added.images_per_second >= 0.5 else ""
    what = f"drawn birds of {len(BIRDS)} species" if shown.drawn else str(shown.source)
    lines = [f"{shown.index}: {counted(added.added, 'image')} of {what} indexed{speed}"]
    if shown.evaluation is not None:
        said = verdict(shown.evaluation)
        lines += [said.headline, *map(visible, (*said.points, *said.warnings))]
    for ranked in shown.queries[:3]:
        hits = ranked.rankings[-1].hits[:6]
        names = ", ".join(hit.label or Path(hit.path).name for hit in hits)
        lines.append(visible(f"  {ranked.query.label or ranked.query.path.name}  ->  {names}"))
    lines += [
        f"The page {shown.page} shows them. All of it took {shown.seconds:.0f} s.",
        "Next:",
        f"  wingbar serve {shown.index} --open",
    ]
    if shown.drawn:
        lines += [
            f"  wingbar train dlbhc {shown.source} -o {shown.index.parent / 'model'} {TRAINING}",
            "Training lifts the MAP to about 0.9. It takes some 10 minutes on 2 cores and needs "
            "PyTorch: pip install 'wingbar[train,pretrained]'",
        ]
    return "\n".join(lines)


def record(shown: Demo) -> dict[str, Any]:
    """What the command prints with --json."""
    return {
        "index": str(shown.index),
        "page": str(shown.page),
        "seconds": round(shown.seconds, 2),
        "report": asdict(shown.report),
        "evaluation": None if shown.evaluation is None else asdict(shown.evaluation),
    }


def _parts(source: Path) -> tuple[Images, Sequence[Entry], Dataset | None]:
    """The images to index, the queries to show, and the data set when it can be evaluated."""
    everything = read_images(source)
    if not len(everything):
        raise DataError(f"{source} has no images")
    rng = np.random.default_rng(0)
    if len(everything) > 1 and any(label is not None for label in everything.labels):
        data = read_dataset(source)
        return data.gallery, _drawn(data.query, rng), data
    return everything, _drawn(everything, rng), None


def _drawn(source: Images, rng: np.random.Generator) -> list[Entry]:
    """QUERIES_SHOWN random images, of different labels first, sorted by path."""
    order = [source[i] for i in rng.permutation(len(source))]
    labels: set[str | None] = set()
    first: list[Entry] = []
    later: list[Entry] = []
    for entry in order:
        (later if entry.label in labels else first).append(entry)
        labels.add(entry.label)
    return sorted((first + later)[:QUERIES_SHOWN], key=lambda entry: str(entry.path))


def _can_be_read(entry: Entry) -> bool:
    try:
        images.load(entry.path, images.Preprocessing())
    except ImageError:
        return False  # among the failures already
    return True


def _ranked(index: Index, queries: Sequence[Entry]) -> list[RankedQuery]:
    """The hits of each query by its code, and with features."""
    by_code, by_feature = (_neighbours(index, queries, fine) for fine in ("none", "pool"))
    return [
        RankedQuery(entry, [Ranking("by code", codes), Ranking("by code, then features", features)])
        for entry, codes, features in zip(queries, by_code, by_feature, strict=True)
    ]


def _neighbours(index: Index, queries: Sequence[Entry], fine: Fine) -> list[Hits]:
    """The hits of each query; a query that is itself in the index is not its own neighbour."""
    found = []
    for entry in queries:
        hits = index.search(entry.path, NEIGHBOURS + 1, fine=fine)
        hits[:] = [hit for hit in hits if hit.path != str(entry.path)][:NEIGHBOURS]
        found.append(hits)
    return found


def _facts(items: int, bits: int, evaluation: Evaluation | None) -> list[Fact]:
    facts = [Fact("images in the index", f"{items:,}"), Fact("bits per code", str(bits))]
    if evaluation is None:
        return facts
    e = evaluation
    return [
        *facts,
        Fact("MAP of the codes", f"{e.map:.3f}", f"ties: {e.map_low:.3f} to {e.map_high:.3f}"),
        Fact(f"MAP after re-ranking {e.shortlist:,}", f"{e.rerank_map:.3f}"),
        Fact("nearest picture right", f"{e.feature_top1:.1%}"),
    ]


def _page(
    source: Path,
    facts: Sequence[Fact],
    evaluation: Evaluation | None,
    queries: Sequence[RankedQuery],
    *,
    drawn: bool,
) -> str:
    intro = (
        f"{counted(len(queries), 'picture')} and what is most like each of them, found without "
        "labels or training. The first row is found by codes alone; in the second, features put "
        "the nearest codes in order."
    )
    return neighbours_page(
        "Birds of a garden" if drawn else source.name,
        intro,
        facts,
        queries,
        "" if evaluation is None else f"Protocol: {evaluation.protocol}.",
        kind="wingbar demo",
        marked=evaluation is not None,
        said=None if evaluation is None else verdict(evaluation),
    )
