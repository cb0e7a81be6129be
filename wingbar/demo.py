"""The demo: from images to ranked neighbours on a page, in one call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wingbar import report
from wingbar.adding import AddReport, Progress
from wingbar.datasets import Dataset, Entry, Images, read_dataset, read_images
from wingbar.errors import DataError, ImageError, WingbarError
from wingbar.evaluation import Evaluation, evaluate
from wingbar.index import SHORTLIST, Hits, Index
from wingbar.store import remove_index

SHOWN = 12  # queries on the page
NEIGHBOURS = 10
DIGIT_SIDE = 64  # the digits are 8 x 8; enlarged so that a person can look at the files


@dataclass(frozen=True)
class Answer:
    """A query and its neighbours by codes alone (`coarse`) and after the fine stage."""

    query: Entry
    coarse: Hits
    fine: Hits


@dataclass(frozen=True)
class Demo:
    """What a demo did and where it left it. `evaluation` is None when the images have no labels."""

    index: Path
    page: Path
    report: AddReport
    evaluation: Evaluation | None
    answers: Sequence[Answer]
    seconds: float


def run(output: Path, folder: Path | None, *, bits: int, progress: Progress | None = None) -> Demo:
    """Index the images of `folder` (default: scikit-learn's digits), evaluate, search, and write a page into `output`.

    Raises WingbarError when scikit-learn is missing or the folder has no images.
    """
    start = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    source = folder or write_digits(output / "digits")
    gallery, queries, data = _parts(source)
    index_path = output / "demo.wb"
    page = output / "index.html"
    if page.exists() and not index_path.exists():
        raise WingbarError(f"{page} is there and not from a demo: name another folder with -o")
    remove_index(index_path)
    with Index.create(index_path) as index:
        added = index.add(gallery, bits=bits, progress=progress)
        if not len(index):
            reasons = "; ".join(f"{f.path}: {f.reason}" for f in added.failed[:3])
            raise DataError(f"none of the images in {source} could be used ({reasons})")
        evaluation = None
        if data is not None:
            with suppress(DataError):  # nothing to score, such as one image a class
                evaluation = evaluate(index, data.query, protocol=data.protocol, progress=progress)
        answers = _answers(index, queries)
        page.write_text(_page(source, index, evaluation, answers), encoding="utf-8", errors="backslashreplace")
    return Demo(index_path, page, added, evaluation, answers, time.monotonic() - start)


def write_digits(folder: Path) -> Path:
    """scikit-learn's 1,797 handwritten digits as PNG files, one folder a digit. Raises WingbarError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise WingbarError(
            "the digits come with scikit-learn: run pip install 'wingbar[demo]', or show your own images with --images DIR"
        ) from None
    digits = load_digits()
    for i, (values, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(digit) / f"{i:04}.png"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray((values * (255 / 16)).round().astype(np.uint8))  # the values are 0..16
        small.resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC).save(path)
    return folder


def text(shown: Demo) -> str:
    """What the command prints."""
    added = shown.report
    speed = f"{added.images_per_second:.0f} images/s"
    lines = [f"{shown.index}: {added.added:,} images indexed at {speed}, no labels or training used"]
    e = shown.evaluation
    if e:
        lines += [
            f"{e.queries:,} queries, {e.protocol.split(';')[0]}:",
            f"  {f'MAP of the {e.bits}-bit codes':32} {e.map:.3f}   (ties allow {e.map_low:.3f} to {e.map_high:.3f})",
            f"  {f'MAP after re-ranking {e.shortlist}':32} {e.rerank_map:.3f}",
            f"  {'MAP of the float features':32} {e.feature_map:.3f}   (nearest neighbour right: {e.feature_top1:.1%})",
        ]
    for answer in shown.answers[:3]:
        names = [hit.label or Path(hit.path).name for hit in answer.fine]
        lines.append(f"{answer.query.label or answer.query.path.name}  ->  {' '.join(names)}")
    lines.append(f"Look at {shown.page} in a browser. {shown.seconds:.0f} s in all.")
    return "\n".join(lines)


def record(shown: Demo) -> dict[str, Any]:
    """What the command prints with --json."""
    return {
        "index": str(shown.index),
        "page": str(shown.page),
        "seconds": round(shown.seconds, 2),
        "report": asdict(shown.report),
        "evaluation": asdict(shown.evaluation) if shown.evaluation else None,
    }


def _parts(source: Path) -> tuple[Images, Sequence[Entry], Dataset | None]:
    """What to index, what to ask, and the data set when it can be evaluated."""
    everything = read_images(source)
    if not len(everything):
        raise DataError(f"{source} has no images")
    rng = np.random.default_rng(0)
    if len(everything) > 1 and any(label is not None for label in everything.labels):
        data = read_dataset(source)
        return data.gallery, _drawn(data.query, rng), data
    return everything, _drawn(everything, rng), None


def _drawn(images: Images, rng: np.random.Generator) -> list[Entry]:
    """SHOWN images, of different labels first."""
    order = [images[i] for i in rng.permutation(len(images))]
    seen: set[str | None] = set()
    first: list[Entry] = []
    later: list[Entry] = []
    for entry in order:
        (later if entry.label in seen else first).append(entry)
        seen.add(entry.label)
    return sorted((first + later)[:SHOWN], key=lambda entry: str(entry.path))


def _answers(index: Index, queries: Sequence[Entry]) -> list[Answer]:
    """Search for each query both ways; one that is itself in the index is not shown as its own neighbour."""
    answers = []
    for entry in queries:
        try:
            path = str(entry.path)
            found = [index.search(path, NEIGHBOURS + 1, fine="none"), index.search(path, NEIGHBOURS + 1, fine="pool")]
        except ImageError:
            continue  # listed among the failures already
        for hits in found:
            hits[:] = [hit for hit in hits if hit.path != str(entry.path)][:NEIGHBOURS]
        answers.append(Answer(entry, *found))
    return answers


def _page(source: Path, index: Index, evaluation: Evaluation | None, answers: Sequence[Answer]) -> str:
    info = index.info()
    facts = [
        ("images in the index", f"{info.items:,}"),
        ("bits of a code", str(info.bits)),
        ("distinct codes", f"{info.unique_codes:,}"),
        ("length of a feature", str(info.dim)),
    ]
    if evaluation:
        e = evaluation
        facts += [
            ("queries", f"{e.queries:,}"),
            ("MAP of the codes", f"{e.map:.3f} (ties: {e.map_low:.3f} to {e.map_high:.3f})"),
            (f"MAP after re-ranking {e.shortlist}", f"{e.rerank_map:.3f}"),
            ("MAP of the features", f"{e.feature_map:.3f}"),
            ("nearest neighbour right", f"{e.feature_top1:.1%}"),
        ]
    rows = [
        report.Gallery(a.query, [("by code", a.coarse), ("then by feature", a.fine)], marked=evaluation is not None)
        for a in answers
    ]
    intro = (
        f"The neighbours of {len(rows)} images of {source.name}, found without labels or training: first by Hamming distance "
        f"of {info.bits}-bit codes, then with the nearest {SHORTLIST:,} ordered by the cosine of their features."
    )
    note = evaluation.protocol if evaluation else ""
    return report.page(f"wingbar: {source.name}", intro, facts, rows, note)
