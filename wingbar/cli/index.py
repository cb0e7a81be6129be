"""The verbs `index`, `info` and `verify`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wingbar.cli.chosen import chosen_sentence, chosen_table, taken_text
from wingbar.cli.options import (
    CONTINUES,
    NOTHING_YET,
    Verb,
    add_all_flag,
    add_encoder_flag,
    add_features_flag,
    add_protocol_flag,
    code_length,
    positive_number,
    refuse_flags,
    whole_number,
)
from wingbar.cli.output import (
    LISTED,
    agreement_text,
    codes_warning,
    constant_bits_text,
    model_record,
    print_failures,
    print_message,
    print_result,
    progress_bars,
    seen_text,
    table_text,
    unfinished_text,
    value_text,
    visible,
)
from wingbar.errors import WingbarError, counted

if TYPE_CHECKING:
    from wingbar.data.records import Images
    from wingbar.evaluation.choosing import Choice
    from wingbar.index.engine import Place
    from wingbar.index.index import Index, IndexInfo
    from wingbar.index.refit import RefitReport
    from wingbar.index.second import AlsoReport
    from wingbar.index.sync import AddReport
    from wingbar.model.model import Model

_HALF_COPIED = (
    "it is a copy that was stopped, or of one that was, and may lack items: run wingbar copy "
    "again, or wingbar verify --repair to keep what it has"
)

# -- index


_OF_IMAGES = (  # flags that choose images, or say what becomes of them
    "--split",
    "--protocol",
    "--exclude",
    "--sync",
    "--rehash",
    "--restore",
    "--unproven",
)


def index_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `index`."""
    from wingbar.model.fitting import ADAPT, CODES, PURPOSES

    parser.add_argument(
        "index",
        metavar="INDEX",
        help="the index, a file or a URL such as postgresql://HOST/DATABASE/NAME; created if it "
        "does not exist",
    )
    parser.add_argument(
        "images",
        metavar="IMAGES",
        nargs="*",
        help="a folder, a CSV file (path,label,split,...), or image files",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        help="a model directory, the name of an installed model, another index whose model is "
        "taken, or general (the default): no labels, no training; with --for it may be repeated, "
        "and what suits the images best is taken",
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="MODEL",
        help="a second model in the same file: every image is read once and encoded by both, and "
        "search --with NAME asks the second; in an index with images, it encodes those too",
    )
    parser.add_argument(
        "--bits", type=code_length, help="code length of a label-free index (default 64)"
    )
    parser.add_argument(
        "--for",
        dest="purpose",
        choices=PURPOSES,
        help="what a label-free index is searched for: copies of a picture, the same thing "
        "(instances, the default), or things of the same kind (classes: each picture is averaged "
        "with its nearest neighbours, and so is each query); a new index then tries each --model "
        "(default: general and all that are installed), the kinds of codes and the fine modes on a "
        "sample of the images, takes what is best and says so",
    )
    parser.add_argument(
        "--codes",
        choices=CODES,
        help="what label-free codes are fitted with (default: what suits the images best)",
    )
    parser.add_argument(
        "--adapt",
        choices=ADAPT,
        help="let label-free codes learn from the labels that some of the images have",
    )
    add_features_flag(parser, None)
    parser.add_argument(
        "--split",
        default="all",
        help="only this part of a data set: gallery, train, query, val, test (default all)",
    )
    add_protocol_flag(parser)
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out files and folders whose name, or path below the folder, matches, as "
        "'*.thumb.jpg' or drafts; may be repeated",
    )
    parser.add_argument(
        "--seed",
        type=whole_number,
        default=0,
        help="seed of the images that label-free codes are learned from, and of a random split "
        "(default 0)",
    )
    parser.add_argument(
        "--threads",
        type=positive_number,
        help="threads that decode images (default: one per core); with --ray, cores of each worker "
        "(default 1)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="encode on the Ray cluster at this HOST:PORT, or with local on all cores of this "
        "machine; every node needs wingbar, and the images under the same paths",
    )
    parser.add_argument(
        "--sync",
        action="store_true",
        help="IMAGES are the whole truth: remove every item that they do not name",
    )
    parser.add_argument(
        "--rehash",
        action="store_true",
        help="read every file, also those whose size and time have not changed",
    )
    parser.add_argument(
        "--restore",
        action="store_true",
        help="bring back what was removed with wingbar remove; naming a file does so too",
    )
    parser.add_argument(
        "--refit",
        action="store_true",
        help="learn label-free codes again, from everything in the index",
    )
    add_encoder_flag(parser, "with --refit, whose codes are learned again")
    parser.add_argument(
        "--unproven",
        action="store_true",
        help="add also where this machine computes other features than the one that made the index",
    )


def index(args: argparse.Namespace) -> int:
    """Create an index from images, update it with them, or with --refit learn its codes again."""
    from wingbar.index.engine import place_of
    from wingbar.index.index import Index, model_at
    from wingbar.index.place import exists
    from wingbar.index.settings import require_labels

    path = place_of(args.index)
    _refuse_pairs(args)
    if args.refit:
        return _refit(args, path)
    models = [model_at(name) for name in args.model]
    also = model_at(args.also[0]) if args.also else None
    if exists(path):
        with Index.open(path) as found:
            _check_features(args, found)
            if models:
                _check_models(args, found, models)
            return _add(args, found, [_images(args, name) for name in args.images], also)
    first = None if args.purpose is not None else models[0] if models else model_at("general")
    _check_new(args, path, first, models, also)
    sources = [_images(args, name) for name in args.images]  # before a file is made for nothing
    require_labels(args.adapt, (entry.label for source in sources for entry in source))
    _require_readable(args, path, sources)
    choice = None
    if first is None:
        choice = _chosen(args, sources, models)
        first = choice.model
    with Index.create(path, first, features=args.features or "float16", also=also) as found:
        return _add(args, found, sources, also, choice)


def _refuse_pairs(args: argparse.Namespace) -> None:
    """Raise WingbarError for flags of which one leaves no use for another."""
    from wingbar.model.fitting import FitOptions

    if not args.images and not args.refit:
        raise WingbarError("name the images to index: a folder, a CSV file or image files")
    if args.refit and args.images:
        raise WingbarError("--refit learns from what is indexed already: run it without images")
    if args.refit:
        refuse_flags(args, ["--ray"], "encodes images, and --refit learns from what is encoded")
        refuse_flags(args, ["--also", "--model"], "is of no use with --refit, which keeps encoders")
        refuse_flags(args, _OF_IMAGES, "is about images, and --refit takes those of the index")
    if args.encoder is not None and not args.refit:
        raise WingbarError("images are added for both encoders: --with goes with --refit")
    if len(args.also) > 1:
        raise WingbarError("an index holds two encoders at most: name one model with --also")
    if args.also:
        refuse_flags(args, ["--ray"], "encodes for one encoder, and --also names a second one")
    if len(args.model) > 1 and args.purpose is None:
        raise WingbarError(
            "several models are candidates for a purpose: add --for copies, instances or classes, "
            "or name one model"
        )
    FitOptions(codes=args.codes, purpose=args.purpose, adapt=args.adapt)  # which checks itself


def _refit(args: argparse.Namespace, path: Place) -> int:
    from wingbar.index.index import Index

    args.stopped = "nothing was changed"  # what is read is kept until all of it is there
    with Index.open(path) as found:
        _check_features(args, found)
        before = found.encoder(args.encoder).model
        with progress_bars() as progress:
            refitted = found.encoder(args.encoder).refit(
                bits=args.bits,
                codes=args.codes,
                purpose=args.purpose,
                adapt=args.adapt,
                seed=args.seed,
                threads=args.threads,
                progress=progress,
            )
        lost = _lost_choice(before, found.encoder(args.encoder).model)
    print_result(args, asdict(refitted), "\n".join([_refit_text(path, refitted), *lost]))
    return 0


def _add(
    args: argparse.Namespace,
    found: Index,
    sources: Sequence[Images],
    also: Model | None,
    choice: Choice | None = None,
) -> int:
    """Bring an index up to date with images, and print what was done."""
    from wingbar.hamming import codes
    from wingbar.index.engine import Url

    path, total = found.path, sum(map(len, sources))
    if before := min(found.encoded_before(), total):
        print_message(
            f"continuing an interrupted run: {before:,} of {counted(total, 'image')} are encoded "
            "already"
        )
    try:
        with progress_bars() as progress:
            report = found.add(
                sources,
                bits=args.bits,
                codes=args.codes,
                purpose=args.purpose,
                adapt=args.adapt,
                seed=args.seed,
                threads=args.threads,
                progress=progress,
                rehash=args.rehash,
                restore=args.restore,
                is_whole=args.sync,
                unproven=args.unproven,
                ray=args.ray,
                also=also,
            )
    except KeyboardInterrupt:
        if encoded := min(found.encoded_before(), total):
            args.stopped = (
                f"{encoded:,} of {counted(total, 'image')} are encoded, which is kept; the same "
                "command continues from there and then learns the codes"
            )
        elif len(found) or args.ray:
            args.stopped = CONTINUES
        raise
    args.stopped = CONTINUES
    print_failures(report.failed)
    text = "\n".join([*_choice_lines(choice), _add_text(path, len(found), report)])
    print_result(args, _add_record(path, len(found), report, choice), text)
    if len(found) >= codes.COMPILED_FROM and not isinstance(path, Url):
        for name in found.encoders:
            model = found.encoder(name).model
            if model.gives_codes:
                _warm_up(model.bits)
    if not len(found):
        raise WingbarError(
            f"none of the images could be used, {path} is empty: the reasons are above"
        )
    return 0


INDEX = Verb(
    name="index",
    summary="Create an index from images, or update it.",
    examples="wingbar index photos.wb photos/\n"
    "wingbar index photos.wb catalogue.csv --split gallery --bits 48\n"
    "wingbar index shop.wb catalogue.csv --sync\n"
    "wingbar index photos.wb photos/ --also models/dinov2-small\n"
    "wingbar index photos.wb photos/ --for copies --model general --model models/dinov2-small",
    flags=index_flags,
    run=index,
    stopped=NOTHING_YET,
)


# -- info


def info_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `info`."""
    from wingbar import methods
    from wingbar.networks import BACKBONES

    parser.add_argument(
        "path",
        metavar="PATH",
        nargs="?",
        help="an index (file or URL), a model directory, the name of an installed model, or "
        "general",
    )
    add_all_flag(parser)
    parser.add_argument(
        "--system",
        action="store_true",
        help="show this machine instead, and whether it computes the features and codes that the "
        "maker of the model (default general) did",
    )
    parser.add_argument(
        "--method",
        choices=methods.NAMES,
        help="show the cost of this method's network instead: parameters and operations",
    )
    parser.add_argument(
        "--backbone",
        default="resnet50",
        help=f"with --method: {', '.join(BACKBONES)}, or timm:NAME (default resnet50)",
    )
    parser.add_argument(
        "--bits", type=code_length, default=48, help="with --method: code length (default 48)"
    )
    parser.add_argument(
        "--classes",
        type=positive_number,
        default=100,
        help="with --method: number of classes (default 100)",
    )
    parser.add_argument(
        "--size",
        type=positive_number,
        default=224,
        help="with --method: side of the input image in pixels (default 224)",
    )


def info(args: argparse.Namespace) -> int:
    """Print what an index or a model is, or the cost of a method's network."""
    from wingbar.index.index import Index
    from wingbar.model.installed import directory_of
    from wingbar.model.model import Model

    if args.method is None:
        flags = ("--backbone", "--bits", "--classes", "--size")
        refuse_flags(args, flags, "is for the cost of a method's network, with --method")
    if args.method is not None or args.system:
        refuse_flags(args, ["--all"], "is about an index or a model")
    if args.system:
        return _system(args)
    if (args.path is None) == (args.method is None):
        raise WingbarError(
            "name an index or a model, or a method to show its cost: wingbar info --method cmbh "
            "--backbone resnet50"
        )
    if args.method is not None:
        record = _cost(args)
        text = table_text(record)
    elif args.path == "general" or (directory_of(args.path) / "model.json").is_file():
        model = Model.load(args.path)
        record = model_record(model)
        text = _model_text(args.path, model, record)
    else:
        with Index.open(args.path) as found:
            info = found.info()
            text = _index_text(found, info)
        record = asdict(info)
    if args.all and args.method is None:
        table = chosen_table(record["chosen"]) if record.get("chosen") else ""
        shown = {key: value for key, value in record.items() if key != "chosen"}
        text = "\n".join([text, *([table] if table else []), table_text(shown)])
    print_result(args, record, text)
    return 0


def _system(args: argparse.Namespace) -> int:
    from wingbar.cli.system import system_record, system_text
    from wingbar.index.index import model_at
    from wingbar.model import proof

    if args.method is not None:
        raise WingbarError("--system is about this machine: leave --method out")
    model = model_at(args.path or "general")
    record = system_record(model)
    problem = proof.problem(model) if model.has_network else None
    print_result(args, record, system_text(record, problem))
    return 0


INFO = Verb(
    name="info",
    summary="Describe an index, a model or this machine, or show what a method costs.",
    examples="wingbar info photos.wb --json\n"
    "wingbar info photos.wb --system\n"
    "wingbar info --method cmbh --backbone resnet50 --bits 48 --classes 200",
    flags=info_flags,
    run=info,
)


# -- verify


def verify_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `verify`."""
    parser.add_argument("index", metavar="INDEX", help="the index, a file or a URL")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="keep everything that can be read, list what is dropped, and put the damaged file "
        "aside",
    )


def verify(args: argparse.Namespace) -> int:
    """Print what is wrong with an index, or with this machine for it; exit code 1 when anything is.
    With --repair, make it whole."""
    from wingbar.index.checks import verify
    from wingbar.index.engine import Url, place_of
    from wingbar.index.sqlite_file import repair_of

    place = place_of(args.index)  # which is shown without the password
    if args.repair:
        if isinstance(place, Url):
            raise WingbarError(
                f"{place} is on a server, and only files are repaired: restore a copy of it"
            )
        return _repair(args)

    problems = verify(place)
    if len(problems) == 1 and problems[0].startswith(f"{place} "):
        text = visible(problems[0])  # about the file as a whole, such as a picture that is no index
    elif not problems and (others := _otherwise(args.index)):
        problems = others
        text = f"{place} is intact, but {'; '.join(others)}"
    elif problems:
        count = counted(len(problems), "problem")
        text = "\n".join([*map(visible, problems), f"{place}: {count}; {repair_of(place)}"])
    else:
        text = f"{place} is intact"
    print_result(args, {"index": str(place), "problems": problems}, text)
    return 1 if problems else 0


def _otherwise(name: str) -> list[str]:
    """What is missing in an intact index, and what this machine computes otherwise than the one
    that made it."""
    from wingbar.index.index import Index, store_of
    from wingbar.model import proof

    with Index.open(name) as index:
        found = [_HALF_COPIED] if store_of(index).is_half_copied() else []
        models = [index.encoder(encoder).model for encoder in index.encoders]
    problems = [proof.problem(model) for model in models if model.has_network]
    return found + [problem for problem in problems if problem is not None][:1]


def _repair(args: argparse.Namespace) -> int:
    from wingbar.index.repair import repair

    with progress_bars() as progress:
        done = repair(args.index, progress=progress)
    if done.half_copied:
        text = (
            f"{args.index} is an index of its own now, with the {counted(done.items, 'image')} "
            "that the stopped copy brought"
        )
    elif done.damaged is None:
        text = f"{args.index} is intact: nothing to repair"
    else:
        lines = [f"{args.index} is whole again: {counted(done.items, 'image')} kept"]
        if done.made_again:
            were = "image was" if done.made_again == 1 else "images were"
            lines.append(f"{done.made_again:,} {were} encoded again.")
        if done.unchecked:
            lines.append(
                f"{counted(done.unchecked, 'code')} could not be checked: a bit of one is wrong."
            )
        lines += [f"dropped: {visible(line)}" for line in done.dropped[:LISTED]]
        if len(done.dropped) > LISTED:
            lines.append(f"and {len(done.dropped) - LISTED:,} more; --json lists them all")
        lines.append(f"The damaged file is {done.damaged} now; delete it when all is well.")
        text = "\n".join(lines)
    print_result(args, asdict(done), text)
    return 0


VERIFY = Verb(
    name="verify",
    summary="Check an index, its checksums and its model's proof; exit code 1 if one is wrong.",
    examples="wingbar verify photos.wb && echo intact\nwingbar verify photos.wb --repair",
    flags=verify_flags,
    run=verify,
)


# -- the steps of `index`


def _images(args: argparse.Namespace, name: str) -> Images:
    """The part of a source to index. Raises WingbarError where a new index would stay empty."""
    from wingbar.data.readers import read_images
    from wingbar.index.place import exists

    chosen = read_images(
        name, args.split, protocol=args.protocol, seed=args.seed, exclude=args.exclude
    )
    if not len(chosen) and not exists(args.index):
        others = f", only {counted(len(chosen.others), 'other file')}" if chosen.others else ""
        raise WingbarError(f"{name} has no images{others}")
    return chosen


def _check_new(
    args: argparse.Namespace,
    path: Place,
    first: Model | None,
    models: Sequence[Model],
    also: Model | None,
) -> None:
    """Raise WingbarError where an index cannot be made as it is asked for, before any image is
    read. Its `first` model is None where it will be chosen, which checks the candidates."""
    from wingbar.index.index import require_two
    from wingbar.index.place import require_kept
    from wingbar.index.settings import require_possible
    from wingbar.model.fitting import FitOptions

    require_kept(path, args.features or "float16")
    if first is not None:
        first.require_network()
    if also is not None:
        for model in models or [also]:
            require_two(path, model, also)
    known = [model for model in (first, also) if model is not None]
    if first is None:
        known = [model for model in known if not model.gives_codes]
    if known:
        options = FitOptions(codes=args.codes, purpose=args.purpose, adapt=args.adapt)
        require_possible(known, args.bits, options)


def _require_readable(args: argparse.Namespace, path: Place, sources: Sequence[Images]) -> None:
    """Raise WingbarError, and say why for each image, where a new index would stay empty since none
    can be read: it would keep a model that nothing was in favour of."""
    from wingbar.index.sources import files, why_none
    from wingbar.index.sync import AddReport
    from wingbar.parallel import cores

    with progress_bars() as progress:
        failed = why_none(sources, cores(), progress)
    if failed:
        print_failures(failed)
        if args.json:
            report = AddReport(failed=tuple(failed), ignored=tuple(files(sources).ignored))
            print_result(args, _add_record(path, 0, report, None), "")
        raise WingbarError(
            f"none of the images could be read, and {path} was not made: the reasons are above"
        )


def _check_features(args: argparse.Namespace, found: Index) -> None:
    """Raise WingbarError where --features is not how an index that was there keeps them."""
    if args.features not in (None, found.kept):
        raise WingbarError(
            f"{found.path} keeps features as {found.kept}: leave --features out, or make a copy "
            f"with wingbar copy {found.path} NEW.wb --features {args.features}"
        )


def _check_models(args: argparse.Namespace, found: Index, models: Sequence[Model]) -> None:
    """Raise WingbarError where --model is not the model of an index that was there. Several are
    candidates, and were tried when it was made: by the same command, which goes on with it."""
    from wingbar.index.index import is_same_model

    own = found.model
    others = [model for model in models if not is_same_model(model, own)]
    if len(models) > 1 and (others == models or own.chosen.get("for") != args.purpose):
        raise WingbarError(
            f"{found.path} was made with {own} and keeps it: leave --model out, or name a new "
            "index to have candidates tried"
        )
    if others == models:
        raise WingbarError(
            f"{found.path} was made with {own}, not with {models[0]}: leave --model out, or name a "
            "new index"
        )
    tried = {candidate["fingerprint"] for candidate in own.chosen.get("candidates", ())}
    if untried := [model for model in others if model.fingerprint not in tried]:
        raise WingbarError(
            f"{found.path} was made with {own}, and {untried[0]} was not among what was tried "
            "then: leave --model out, or name a new index to have candidates tried"
        )


def _chosen(args: argparse.Namespace, sources: Sequence[Images], models: Sequence[Model]) -> Choice:
    """What suits the images of a new index; said at once, as they may take long to index."""
    from wingbar.evaluation.choosing import choose_model

    with progress_bars() as progress:
        choice = choose_model(
            sources,
            models or None,
            purpose=args.purpose,
            bits=args.bits,
            codes=args.codes,
            adapt=args.adapt,
            seed=args.seed,
            threads=args.threads,
            progress=progress,
        )
    for note in choice.notes:
        print_message(note)
    if found := taken_text(choice.chosen):
        print_message(f"in {choice.seconds:.1f} s chose {found}, for {args.purpose}")
    return choice


def _add_record(
    path: Place, items: int, report: AddReport, choice: Choice | None
) -> dict[str, Any]:
    return {
        "index": str(path),
        "items": items,
        **asdict(report),
        "chosen": None if choice is None else _choice_record(choice),
    }


def _choice_record(choice: Choice) -> dict[str, Any]:
    return {
        **choice.chosen,
        "images_per_second": dict(choice.images_per_second),
        "seconds": choice.seconds,
        "notes": list(choice.notes),
    }


def _choice_lines(choice: Choice | None) -> list[str]:
    """The table of what was tried, and what was taken."""
    if choice is None:
        return []
    table = chosen_table(choice.chosen, choice.images_per_second)
    return [*([table] if table else []), chosen_sentence(choice.chosen)]


def _warm_up(bits: int) -> None:
    """Compile the search loops now, once per machine, so that no search has to wait for it."""
    from wingbar.hamming import codes

    seconds = codes.warm_up(bits)
    if seconds > 2:
        print_message(f"compiled the search of large indexes for this machine in {seconds:.0f} s")


def _add_text(path: Place, items: int, report: AddReport) -> str:
    counts: dict[str, int] = {
        "added": report.added,
        "updated": report.updated,
        "unchanged": report.unchanged,
        "moved": report.moved,
        "removed": report.removed,
        "failed": len(report.failed),
    }
    parts = [f"{count:,} {name}" for name, count in counts.items() if count] or ["nothing to do"]
    speed = f", {report.images_per_second:,.0f} images/s" if report.images_per_second >= 0.5 else ""
    lines = [
        f"{path}: {counted(items, 'image')} ({', '.join(parts)}) in {report.seconds:.1f} s{speed}"
    ]
    if report.left_out:
        stay = "image stays" if report.left_out == 1 else "images stay"
        lines.append(
            f"{report.left_out:,} {stay} out: removed before and not changed since; --restore "
            "brings back."
        )
    if report.continued:
        lines.append(f"Continued with {counted(report.continued, 'image')} of an interrupted run.")
    if report.fitted_on:
        lines.append(
            f"Codes learned from {counted(report.fitted_on, 'image')}{_how(report.fitted)}."
        )
    lines += _also_lines(report.also, items)
    if report.ignored:
        lines.append(f"Skipped {counted(len(report.ignored), 'non-image file')}.")
    if report.skipped:
        names = sorted({Path(name).name for name in report.skipped})
        more = " and more" if len(names) > 5 else ""
        lines.append(
            f"Left out {counted(len(report.skipped), 'folder or file', 'folders or files')} by "
            f"name: {visible(', '.join(names[:5]))}{more}."
        )
    lines += [f"Note: {visible(note)}." for note in report.notes]
    if report.advice:
        lines.append(f"Note: {report.advice}.")
    return "\n".join(lines)


def _also_lines(report: AlsoReport | None, items: int) -> list[str]:
    """What was done for the second encoder."""
    if report is None:
        return []
    lines = []
    if report.fitted_on:
        images = counted(report.fitted_on, "image")
        lines.append(f"Codes of {report.name} learned from {images}{_how(report.fitted)}.")
    if report.encoded:
        lines.append(f"{report.name} encoded {counted(report.encoded, 'image')} of before.")
    if report.waiting:
        lines.append(f"{_encoded_text(report.name, items - report.waiting, items)}.")
    return lines


def _encoded_text(name: str, encoded: int, items: int) -> str:
    return f"{encoded:,} of {counted(items, 'image')} encoded by {name}: run wingbar index again"


def _index_text(found: Index, info: IndexInfo) -> str:
    """What an index holds, how good its codes are, and its model."""
    from wingbar.data.download import size_text
    from wingbar.index.engine import Url

    labels = f" with {counted(info.labels, 'label')}" if info.labels else ""
    as_int8 = " as int8" if info.features == "int8" else ""
    kept = f" in {found.engine}" if isinstance(found.path, Url) else ""
    noun = "image" if found.model.has_network else "item"
    lines = [f"{found.path}: {counted(info.items, noun)}{labels}, {size_text(info.bytes)}{kept}"]
    if info.half_copied:
        lines.append(f"Warning: {_HALF_COPIED}.")
    if info.items:
        constant = _constant_bits(found)
        lines.append(
            f"Codes of {info.bits} bits: {info.unique_codes:,} of {info.items:,} are unique; "
            f"{constant_bits_text(constant)}."
        )
        shared = 2 * info.unique_codes < info.items
        if shared and found.model.averages and not constant:
            lines.append(
                "Images of one kind share codes, as they should in an index for classes; features "
                "order them."
            )
        elif info.items > 1 and (constant or shared):
            lines.append(
                "Warning: these codes tell the pictures badly apart; other codes or more bits may "
                "do better: wingbar index --help shows --bits, --codes and --refit."
            )
    if how := _how(found.model.record.get("fitted", {})):
        sample = found.model.record["fitted"].get("sample", 0)
        lines.append(f"Codes learned from {counted(sample, noun)}{how}.")
    if info.chosen:
        lines.append(chosen_sentence(info.chosen))
    lines.append(
        f"Model: {found.model}, features of {info.dim:,} numbers{as_int8}; searches use "
        f"fine={info.fine}."
    )
    if found.model.preprocessing.mirrored:
        lines.append("Each image and its mirror image are encoded, and averaged.")
    if info.also is not None:
        name, also = found.encoders[1], found.encoder(found.encoders[1]).model
        sees = "; it encodes mirror images too" if also.preprocessing.mirrored else ""
        lines.append(
            f"Second encoder: {also}, features of {info.also.dim:,} numbers; search --with {name} "
            f"asks it, with fine={info.also.fine}{sees}."
        )
        if how := _how(also.record.get("fitted", {})):
            sample = also.record["fitted"].get("sample", 0)
            lines.append(f"Its codes were learned from {counted(sample, 'image')}{how}.")
        if info.also.items < info.items and not info.half_copied:
            lines.append(f"{_encoded_text(name, info.also.items, info.items)}.")
    return "\n".join(lines)


def _constant_bits(found: Index) -> list[int]:
    """The bits that are the same in the codes of all items."""
    import numpy as np

    from wingbar.hamming.codes import unpack

    packed = found.codes()
    ends = np.stack([np.bitwise_and.reduce(packed), np.bitwise_or.reduce(packed)])
    all_ones, any_ones = unpack(ends, found.model.bits)
    return [int(bit) for bit in np.flatnonzero(all_ones == any_ones)]


def _model_text(path: str, model: Model, record: Mapping[str, Any]) -> str:
    """What a model is, what it costs, and how good it was on what it was not trained with."""
    from wingbar.model.model import method_text

    code = "codes learned from the images of each index"
    if record["bits"] is not None:
        code = f"codes of {counted(record['bits'], 'bit')}"
    classes = record["classes"]
    trained = f", trained on {counted(classes, 'class', 'classes')}" if classes else ""
    made = f"{method_text(record['method'])}, {record['fingerprint'][:12]}"
    lines = [
        f"{path}: {record['name']} ({made}){trained}",
        f"Gives {code} and features of {record['dim']:,} numbers.",
    ]
    if "parameters" in record:
        int8 = ", int8" if model.is_int8 else ""
        size = counted(record["parameters"], "parameter")
        lines.append(f"Network: {record['backbone']}, {size}{int8}")
    if model.has_network:
        lines.append(f"Sees {seen_text(model.preprocessing)}.")
    if unfinished := unfinished_text(record.get("trained", {})):
        lines.append(f"{unfinished}.")
    searched = record.get("held_out", {})
    if record.get("held_out_map"):
        of = f"{searched['queries']:,} " if "queries" in searched else ""
        scores = value_text(record["held_out_map"])
        lines.append(f"MAP of {of}held-out training images: {scores}.")
    if warning := codes_warning(searched):
        lines.append(f"{warning}.")
    if "int8_agreement" in record:
        agreed = agreement_text(record["int8_agreement"])
        lines.append(f"{agreed[0].upper()}{agreed[1:]}.")
    return "\n".join(lines)


def _how(fitted: Mapping[str, Any]) -> str:
    """How codes were learned, after a colon; nothing where that is not known."""
    from wingbar.model.fitting import description

    text = description(fitted)
    return f": {text}" if text else ""


def _refit_text(path: Place, report: RefitReport) -> str:
    return (
        f"{path}: {report.bits}-bit codes (before: {report.bits_before}) learned again from "
        f"{counted(report.sample, 'image')}; {report.codes_changed:,} of "
        f"{counted(report.items, 'code')} changed.\n"
        f"Codes{_how(report.fitted)}.\n"
        f"{_refit_consequence(report)}"
    )


def _refit_consequence(report: RefitReport) -> str:
    if report.fingerprint == report.fingerprint_before:
        return f"The model is the same as before, {report.fingerprint[:12]}."
    return (
        f"The model is now {report.fingerprint[:12]} (before: {report.fingerprint_before[:12]}); "
        "embeddings made before no longer match it."
    )


def _lost_choice(before: Model, after: Model) -> list[str]:
    """What a refit for another purpose than a model was chosen for has undone."""
    if not before.chosen or after.chosen:
        return []
    return [
        f"{before.name} was chosen for {before.chosen['for']}, and nothing was measured for "
        f"another purpose: searches use its own fine={after.fine} (before: {before.fine})."
    ]


# -- the costs that `info` shows


def _cost(args: argparse.Namespace) -> dict[str, Any]:
    """Parameters and multiply-accumulates of a method's network, before there is a model."""
    from wingbar import methods
    from wingbar.networks import backbones
    from wingbar.training import export

    method = methods.get(args.method)
    backbone = backbones.create(args.backbone)
    net = method.Net(backbone, method.Config(bits=args.bits), args.classes)
    described = {name: getattr(args, name) for name in ("method", "backbone", "bits", "classes")}
    return {**described, "size": args.size, **export.cost(net, args.size)}
