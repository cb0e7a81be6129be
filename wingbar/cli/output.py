"""What the command line prints: results as text or JSON, tables, messages and progress."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wingbar.cli.options import CONTINUES
from wingbar.errors import WingbarError, counted, shortened
from wingbar.errors import visible as visible

if TYPE_CHECKING:
    from wingbar.images import Failure, Preprocessing
    from wingbar.model.model import Model
    from wingbar.parallel import Progress

LINE = 2000  # letters of a message, at most
LISTED = 20  # failed images named on the terminal; --json lists all
_LINE_SECONDS = 60.0  # between lines of progress where there is no terminal
_STARTED = "{desc} ..."  # a bar with nothing done yet, which has no speed


def require_page(file: str) -> None:
    """Raise WingbarError unless a page can be written to `file`: nothing is there, or a page."""
    from wingbar.files import require_own

    require_own(Path(file), b"<!doctype html")


def require_folder(folder: str) -> None:
    """Raise WingbarError unless files can be written into `folder`, which need not be there."""
    from wingbar import files

    files.require_folder(Path(folder))


def require_new_model(folder: Path) -> None:
    """Raise WingbarError unless a model can be written into `folder`, where there is none yet."""
    require_folder(str(folder))
    if (folder / "model.json").exists():
        raise WingbarError(f"{folder} holds a model already: name another directory")


def print_result(args: argparse.Namespace, record: Mapping[str, Any], text: str) -> None:
    """Print a result on standard output: `record` with --json, else `text`, whose names of files
    and labels are `visible`: a line break in one of them would look like another line."""
    print(json_text(record) if args.json else "\n".join(map(visible, text.split("\n"))))


def print_message(text: str) -> None:
    """Print one line on standard error; what it quotes may be long, and is shortened."""
    print(f"wingbar: {shortened(visible(text), LINE)}", file=sys.stderr)


def print_failures(failed: Sequence[Failure], listed_in: str = "--json") -> None:
    """Name the images that could not be used on standard error, at most LISTED of them, and then
    what lists them all."""
    for failure in failed[:LISTED]:
        print_message(f"skipped {failure.path}: {failure.reason}")
    if len(failed) > LISTED:
        print_message(f"skipped {len(failed) - LISTED:,} more; {listed_in} lists them all")


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A bar for the current stage with its speed and the time left; where standard error is no
    terminal, a line a minute. Print nothing before the block is left: what is printed beside an
    open bar is glued to it."""
    if not sys.stderr.isatty():
        yield _progress_lines()
        return
    from tqdm import tqdm

    bar: tqdm[Any] | None = None
    current = ""

    def report(stage: str, done: int, total: int) -> None:
        nonlocal bar, current
        if bar is None or stage != current:
            if bar is not None:
                bar.close()
            current = stage
            in_bytes = _is_in_bytes(stage)
            bar = tqdm(
                desc=stage,
                total=total,
                initial=done,
                unit="B" if in_bytes else " images",
                unit_scale=in_bytes,
                bar_format=None if done else _STARTED,
                leave=False,
                smoothing=0.1,
            )
        if done:
            bar.bar_format = None
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield report
    finally:
        if bar is not None:
            bar.close()


def _progress_lines() -> Progress:
    """Progress for a log: a line where a minute has passed since the last one."""
    from wingbar.data.download import size_text

    began = said = time.monotonic()

    def report(stage: str, done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < _LINE_SECONDS:
            return
        said = now
        in_bytes = _is_in_bytes(stage)
        counts = [size_text(n) if in_bytes else f"{n:,}" for n in (done, total)]
        unit = "" if in_bytes else " images"
        print_message(f"{stage}: {' of '.join(counts)}{unit} after {(now - began) / 60:.0f} min")

    return report


def _is_in_bytes(stage: str) -> bool:
    """Whether a stage of a Progress counts bytes rather than images."""
    from wingbar.data.download import BYTE_STAGES

    return stage.split()[0] in BYTE_STAGES


def continuing(args: argparse.Namespace, progress: Progress) -> Progress:
    """The same progress, of a verb that continues where Ctrl-C ends it: which is said once
    something is done."""

    def report(stage: str, done: int, total: int) -> None:
        if done:
            args.stopped = CONTINUES
        progress(stage, done, total)

    return report


# -- texts


def json_text(record: Mapping[str, Any]) -> str:
    """A record as one line of JSON that standard output can write: what its encoding lacks becomes
    an escape of JSON, not of Python."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("_", "-")
    return json.dumps(record, ensure_ascii=encoding not in ("utf-8", "utf8"))


def table_text(record: Mapping[str, object]) -> str:
    """One line per value of a record, values in one column."""
    width = max(map(len, record))
    return "\n".join(f"{key:{width}}  {value_text(value)}" for key, value in record.items())


def value_text(value: object) -> str:
    """A value for a table: 4 decimals for small floats, commas between thousands, no brackets, and
    a dash for what there is none of."""
    if value is None or (isinstance(value, (Mapping, tuple, list)) and not value):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {value_text(inner)}" for key, inner in value.items())
    if isinstance(value, (tuple, list)):
        return ", ".join(map(value_text, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def constant_bits_text(bits: Sequence[int]) -> str:
    """How many bits are the same in all codes, and which: the first 8 of them."""
    if not bits:
        return "no bit is constant"
    listed = ", ".join(map(str, bits[:8])) + (" and more" if len(bits) > 8 else "")
    return f"{counted(len(bits), 'bit is', 'bits are')} constant ({listed})"


def codes_warning(searched: Mapping[str, Any]) -> str:
    """What is wrong with the codes that held-out images were searched in, of the `held_out` of a
    model's record; "" where nothing is, and where they were too few to tell."""
    if constant := searched.get("constant_bits"):
        return f"Warning: {constant_bits_text(constant)}"
    classes, unique = searched.get("classes", 0), searched.get("unique_codes")
    if unique is not None and unique < classes:
        return f"Warning: {counted(unique, 'code')} for {counted(classes, 'class', 'classes')}"
    return ""


def unfinished_text(trained: Mapping[str, Any]) -> str:
    """How far a model was trained, of the `trained` of its record; "" for a whole run, and where
    that is not known."""
    epochs, of = trained.get("epochs", 0), trained.get("of_epochs", 0)
    if epochs >= of:
        return ""
    steps = f" and {counted(trained['steps'], 'step')}" if trained.get("steps") else ""
    return f"Not finished: trained for {epochs:,} of {counted(of, 'epoch')}{steps}"


def seen_text(preprocessing: Preprocessing) -> str:
    """What a model sees of an image, as a clause."""
    size, edge, keep = preprocessing.size, preprocessing.edge, preprocessing.keep
    square = f"{size:,} x {size:,} pixels"
    if preprocessing.whole:
        seen = f"the whole image, scaled to the area of {square}"
        if preprocessing.scales != (1.0,):
            seen += f" times {', '.join(f'{scale:g}' for scale in preprocessing.scales)}"
    elif preprocessing.squash:
        seen = f"the whole image, squeezed into {square}"
    elif edge:
        seen = f"the central {square} of the image, whose short side is scaled to {edge:,}"
    else:
        seen = f"the central square of the image, scaled to {square}"
        if keep < 1:
            seen = f"{keep:.1%} of {seen}"
    return f"{seen}, and its mirror image" if preprocessing.mirrored else seen


def agreement_text(agreed: Mapping[str, float]) -> str:
    """How an int8 model agrees with the exact one, as a clause (training.export.agreement)."""
    return (
        f"its features have a cosine of {agreed['cosine_mean']:.3f} with those of the exact model "
        f"on average, {agreed['cosine_min']:.3f} at worst, and {agreed['same_neighbour']:.1%} of "
        "the images keep their nearest neighbour"
    )


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
        "held_out",
        "trained",
        "int8_agreement",
        "protocol",
    )
    # an int8 model of an earlier version has the scores of the exact one
    not_its_own = {"held_out_map"} if model.is_int8 else set()
    return {
        "name": model.name,
        **{key: model.record[key] for key in keys if key in model.record.keys() - not_its_own},
        "bits": model.bits if model.gives_codes else None,
        "classes": len(model.record.get("classes", [])),
        "fingerprint": model.fingerprint,
    }
