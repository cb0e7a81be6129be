"""Run the demo: from a folder of images to a page of ranked neighbours, in one call."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from wingbar import images
from wingbar.data.readers import read_dataset, read_images
from wingbar.data.records import Dataset, Entry, Images
from wingbar.data.toy import write_digits
from wingbar.errors import DataError, ImageError, WingbarError, counted
from wingbar.evaluation.labelled import Evaluation, evaluate
from wingbar.evaluation.report import Fact, RankedQuery, Ranking, neighbours_page
from wingbar.index.index import Index, IndexInfo
from wingbar.index.ranking import SHORTLIST, Fine, Hits
from wingbar.index.store import remove_index
from wingbar.index.sync import AddReport
from wingbar.model.model import Model
from wingbar.parallel import Progress

LABEL_FREE, TRAINED = "label-free", "trained"
QUERIES_SHOWN = 12
NEIGHBOURS = 10  # of each query and ranking


@dataclass(frozen=True)
class Demo:
    """What a demo did and where its results are.

    index: the index of the label-free model.
    page: the HTML page.
    report: what was added to that index.
    evaluations: by kind of code, LABEL_FREE and TRAINED; empty when the images have no labels.
    queries: the queries on the page and their rankings.
    seconds: wall-clock time of everything.
    """

    index: Path
    page: Path
    report: AddReport
    evaluations: Mapping[str, Evaluation]
    queries: Sequence[RankedQuery]
    seconds: float


def run(output: Path, folder: Path | None, *, bits: int, progress: Progress | None = None) -> Demo:
    """Index the images of `folder`, evaluate the index, search it, and write a page into `output`.

    `folder` None means scikit-learn's digits. Where PyTorch is installed, DLBHC is then trained on
    them first, and the page shows both kinds of codes. Raises WingbarError when Jinja2 or
    scikit-learn is missing or the folder has no images.
    """
    if find_spec("jinja2") is None:
        raise WingbarError("the demo's page needs Jinja2: pip install 'wingbar[demo]'")
    start = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    page = output / "index.html"
    if page.exists() and not (output / "demo.wb").exists():
        raise WingbarError(f"{page} exists and is not a demo's: name another folder with -o")
    source = folder or write_digits(output / "digits")
    gallery, queries, data = _parts(source)
    models = {LABEL_FREE: Model.load()}
    if folder is None and data is not None and find_spec("torch") is not None:
        models = {TRAINED: _train(data, output / "model", bits, progress), **models}
    evaluations: dict[str, Evaluation] = {}
    rankings: list[tuple[str, list[Hits]]] = []  # a title, and the hits of each query
    for kind, model in models.items():
        path = output / ("demo.wb" if kind == LABEL_FREE else "trained.wb")
        remove_index(path)
        with Index.create(path, model) as index:
            added = index.add(gallery, bits=bits, progress=progress)
            if not len(index):
                reasons = "; ".join(f"{f.path}: {f.reason}" for f in added.failed[:3])
                raise DataError(f"none of the images in {source} could be used ({reasons})")
            if data is not None:
                with suppress(DataError):  # nothing to score, as with one image per class
                    evaluations[kind] = _evaluated(index, data, progress)
            queries = [entry for entry in queries if _can_be_read(entry)]
            rankings.append((f"{kind} codes", _neighbours(index, queries, "none")))
            if kind == LABEL_FREE:
                rankings.append(
                    ("label-free codes, then features", _neighbours(index, queries, "pool"))
                )
            info = index.info()
    ranked = [
        RankedQuery(entry, [Ranking(title, hits[i]) for title, hits in rankings])
        for i, entry in enumerate(queries)
    ]
    page.write_text(
        _page(source, info, evaluations, ranked), encoding="utf-8", errors="backslashreplace"
    )
    return Demo(output / "demo.wb", page, added, evaluations, ranked, time.monotonic() - start)


def _evaluated(index: Index, data: Dataset, progress: Progress | None) -> Evaluation:
    """Evaluate with constant bits: codes of ten digits need not use all of their bits."""
    return evaluate(
        index, data.query, protocol=data.protocol, keep_constant_bits=True, progress=progress
    )


def _train(data: Dataset, output: Path, bits: int, progress: Progress | None) -> Model:
    """DLBHC on the digits: ResNet-20 from scratch."""
    from wingbar.methods import dlbhc
    from wingbar.training import loop
    from wingbar.training.run import Run

    if output.exists():
        shutil.rmtree(output)
    config = dlbhc.Config(bits=bits, latent_std=0.1, latent_bias=0.0, classifier_lr=1.0)
    run = Run(
        backbone="resnet20",
        weights="none",
        size=32,
        epochs=15,
        lr=0.2,
        area=0.6,
        mirror=False,
        precision="float32",
        workers=0,
    )
    return loop.train(dlbhc, data.train, output, config, run, progress=progress)


def text(shown: Demo) -> str:
    """What the command prints."""
    added = shown.report
    speed = f" at {added.images_per_second:,.0f} images/s" if added.images_per_second >= 0.5 else ""
    lines = [f"{shown.index}: {counted(added.added, 'image')} indexed{speed}"]
    for i, (kind, e) in enumerate(shown.evaluations.items()):
        if i == 0:
            lines.append(f"{counted(e.queries, 'query', 'queries')}, {e.protocol.split(';')[0]}:")
        ties = f"ties allow {e.map_low:.3f} to {e.map_high:.3f}"
        lines.append(f"  {f'MAP of {kind} {e.bits}-bit codes':36} {e.map:.3f}   ({ties})")
        if kind == LABEL_FREE:
            lines.append(
                f"  {'MAP of label-free features':36} {e.feature_map:.3f}   (nearest right: "
                f"{e.feature_top1:.1%})"
            )
    for ranked in shown.queries[:3]:
        first = ranked.rankings[0]
        names = " ".join(hit.label or Path(hit.path).name for hit in first.hits)
        name = ranked.query.label or ranked.query.path.name
        lines.append(f"{name}  ->  {names}   ({first.title})")
    if shown.evaluations and TRAINED not in shown.evaluations and find_spec("torch") is None:
        lines.append(
            "PyTorch is not installed, so nothing was trained: pip install 'wingbar[demo]' adds it."
        )
    lines.append(f"Look at {shown.page} in a browser. {shown.seconds:.0f} s in all.")
    return "\n".join(lines)


def record(shown: Demo) -> dict[str, Any]:
    """What the command prints with --json."""
    return {
        "index": str(shown.index),
        "page": str(shown.page),
        "seconds": round(shown.seconds, 2),
        "report": asdict(shown.report),
        "evaluations": {kind: asdict(evaluation) for kind, evaluation in shown.evaluations.items()},
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


def _neighbours(index: Index, queries: Sequence[Entry], fine: Fine) -> list[Hits]:
    """The hits of each query; a query that is itself in the index is not its own neighbour."""
    found = []
    for entry in queries:
        hits = index.search(entry.path, NEIGHBOURS + 1, fine=fine)
        hits[:] = [hit for hit in hits if hit.path != str(entry.path)][:NEIGHBOURS]
        found.append(hits)
    return found


def _page(
    source: Path,
    info: IndexInfo,
    evaluations: Mapping[str, Evaluation],
    queries: Sequence[RankedQuery],
) -> str:
    facts = [
        Fact("images in the index", f"{info.items:,}"),
        Fact("bits per code", str(info.bits)),
    ]
    for kind, e in evaluations.items():
        ties = f"ties: {e.map_low:.3f} to {e.map_high:.3f}"
        facts.append(Fact(f"MAP, {kind} codes", f"{e.map:.3f}", ties))
        facts.append(Fact(f"distinct {kind} codes", f"{e.unique_codes:,}"))
        if kind == LABEL_FREE:
            facts.append(Fact(f"MAP after re-ranking {e.shortlist}", f"{e.rerank_map:.3f}"))
            facts.append(Fact("MAP of the features", f"{e.feature_map:.3f}"))
            facts.append(Fact("nearest neighbour right", f"{e.feature_top1:.1%}"))
    trained = "codes trained on labels (DLBHC), then by " if TRAINED in evaluations else ""
    intro = (
        f"The neighbours of {counted(len(queries), 'image')} of {source.name}, found by the "
        f"Hamming distance of {info.bits}-bit codes: by {trained}codes that need no labels. In the "
        f"last row, the nearest {SHORTLIST:,} codes are re-ranked by their features."
    )
    note = next(iter(evaluations.values())).protocol if evaluations else ""
    return neighbours_page(
        source.name, intro, facts, queries, note, kind="wingbar demo", marked=bool(evaluations)
    )
