"""The verbs `train` and `export`."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wingbar.cli.options import (
    Verb,
    add_field_flags,
    add_multi_label_flag,
    add_protocol_flag,
    flag_of,
    from_field_flags,
    refuse_flags,
    whole_number,
)
from wingbar.cli.output import (
    LISTED,
    agreement_text,
    codes_warning,
    model_record,
    print_failures,
    print_result,
    progress_bars,
    require_folder,
    require_new_model,
    seen_text,
    unfinished_text,
)
from wingbar.errors import ImageError, WingbarError, counted

if TYPE_CHECKING:
    from wingbar.images import Preprocessing
    from wingbar.model.model import Model

CALIBRATION_IMAGES = 384  # of --calibrate, drawn with seed 0

# -- train


def train_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `train` that do not depend on the method."""
    from wingbar import methods
    from wingbar.networks import BACKBONES

    parser.add_argument(
        "method",
        metavar="METHOD",
        nargs="?",
        help=f"{', '.join(methods.NAMES)}; each has flags of its own, as --bits, --epochs and "
        f"--backbone ({', '.join(BACKBONES)}, or timm:NAME): wingbar train {methods.NAMES[0]} "
        "--help lists them",
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="labelled images; of a data set with parts only train is used",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="the model directory to create"
    )
    parser.add_argument("--split", help="learn from this part of DATA, or from all, instead")
    add_protocol_flag(parser)
    add_multi_label_flag(parser)
    parser.add_argument(
        "--split-seed",
        type=whole_number,
        default=0,
        help="seed of a random split, as --seed of index and evaluate (default 0)",
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="MODEL",
        help="start from a trained model with the same backbone",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in the output directory; without METHOD and DATA "
        "by the settings recorded there",
    )
    parser.add_argument(
        "--repeat",
        metavar="RUN",
        help="repeat the run recorded in this directory, with all its settings",
    )


class _Recipe(argparse.Action):
    """Sets the flags that its `const` names."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        for name, value in self.const.items():
            setattr(namespace, name, value)


def method_flags(parser: argparse.ArgumentParser, name: str) -> None:
    """The flags of the method `name` and of the run: the fields of its Config and of Run."""
    if name in ("-h", "--help"):
        return
    from wingbar import methods
    from wingbar.training import run

    its_own = {other: _flags_of(methods.get(other).Config) for other in methods.NAMES}
    if name not in methods.NAMES:
        said = (
            "is a flag of a method, which comes first, as in wingbar train dlbhc photos/ -o m; "
            "--resume and --repeat alone take the recorded settings"
        )
        if not name.startswith("-") and not Path(name).exists():
            said = f"is a flag of methods, and none is named {name!r}: {', '.join(methods.NAMES)}"
        of_all = set().union(_flags_of(run.Run), *its_own.values())
        parser.set_defaults(elsewhere=dict.fromkeys(of_all, said))
        return
    elsewhere: dict[str, str] = {}
    for other, flags in its_own.items():
        for flag in flags - its_own[name]:
            said = f"{elsewhere[flag]}, {other}" if flag in elsewhere else f"is a flag of {other}"
            elsewhere[flag] = said
    parser.set_defaults(elsewhere=elsewhere)
    method = methods.get(name)
    parser.epilog = f"example:\n  wingbar train {name} photos/ -o models/photos48 --bits 48"
    parser.usage = f"wingbar train {name} DATA -o DIR [flags]"
    parser.add_argument(
        "--recipe",
        choices=("paper",),
        action=_Recipe,
        const=method.PAPER,
        help="the settings of the paper where they differ from the defaults; flags after it "
        "change them",
    )
    add_field_flags(parser.add_argument_group(f"flags of {name}"), method.Config, {})
    add_field_flags(parser.add_argument_group("flags of the run"), run.Run, method.RECIPE)


def _flags_of(record: Any) -> set[str]:
    """The flags of the fields of a dataclass."""
    flags = {flag_of(field.name) for field in fields(record)}
    return flags | {flag_of(f"no-{f.name}") for f in fields(record) if isinstance(f.default, bool)}


def train(args: argparse.Namespace) -> int:
    """Train a method on labelled images, or repeat a recorded run."""
    from wingbar import methods
    from wingbar.data.readers import read_images
    from wingbar.training import loop, run

    require_folder(args.output)
    again = "--repeat" if args.repeat else "--resume" if args.resume and not args.method else None
    if again:
        if args.method or args.data or (args.repeat and args.resume):
            raise WingbarError(
                "--repeat takes all settings from the recorded run: leave METHOD, DATA and "
                "--resume out"
            )
        flags = ("--split", "--protocol", "--multi-label", "--split-seed", "--from")
        why = f"is of no use with {again}, which takes all settings from the recorded run"
        refuse_flags(args, flags, why)
        chosen = run.recorded(args.repeat or args.output)
    elif args.method and args.resume and not args.data:
        raise WingbarError(
            "name DATA too, or leave METHOD out: --resume alone takes all settings from the "
            "recorded run"
        )
    elif not args.method or not args.data:
        raise WingbarError(
            f"name a method ({', '.join(methods.NAMES)}) and labelled images, as in wingbar train "
            "dlbhc photos/ -o m"
        )
    else:
        method = methods.get(args.method)
        part = _training_part(args.data, args.split, args.protocol)
        data = read_images(
            args.data,
            part,
            protocol=args.protocol,
            seed=args.split_seed,
            multi_label=args.multi_label,
        )
        chosen = run.Recorded(
            method,
            from_field_flags(method.Config, args),
            from_field_flags(run.Run, args),
            data,
            args.start,
        )
    with progress_bars() as progress:
        model = loop.train(
            chosen.method,
            chosen.data,
            args.output,
            chosen.config,
            chosen.run,
            resume=args.resume,
            start=chosen.start,
            progress=progress,
        )
    print_failures(run.failures(args.output), f"{args.output}/train/run.json")
    print_result(args, model_record(model), _trained_text(model, args.output))
    return 0


TRAIN = Verb(
    name="train",
    summary="Train a method on labelled images.",
    examples="wingbar train dlbhc photos/ -o models/photos48 --bits 48 --epochs 20\n"
    "wingbar train dlbhc --help",
    flags=train_flags,
    run=train,
    stopped="wingbar train --resume -o DIR continues from the last checkpoint, if there is one",
    method_flags=method_flags,
)


# -- export


def export_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `export`."""
    parser.add_argument(
        "path",
        metavar="MODEL",
        help="a training run with a checkpoint; for the flags below a model directory",
    )
    parser.add_argument(
        "--open",
        action="store_true",
        help="leave the codes open: each index learns them from its own images, for classes that "
        "training did not see",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="quantise the model to 8 bits: several times smaller and faster",
    )
    parser.add_argument(
        "--calibrate",
        metavar="DIR",
        help="with --int8: a folder of typical images, from which value ranges are measured",
    )
    parser.add_argument(
        "--see",
        metavar="HOW",
        help="change the preprocessing: 'square 224' for square crops, 'whole 224' for whole "
        "images, 'whole 224 0.7,1,1.4' for whole images at several scales",
    )
    parser.add_argument(
        "--mirrored",
        action="store_true",
        help="encode each image and its mirror image, and average: mirrored copies are found like "
        "the picture itself, and it takes twice as long",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="with --open, --int8, --see and --mirrored: the model directory to create",
    )


def export(args: argparse.Namespace) -> int:
    """Make a model of a checkpoint, or a variant of a model: open codes, other preprocessing,
    mirror images too, or int8."""
    variants = {
        "open": _export_open,
        "see": _export_preprocessing,
        "mirrored": _export_preprocessing,
        "int8": _export_int8,
    }
    asked = [flag for flag in variants if getattr(args, flag)]
    if len(asked) > 1:
        named = " and ".join(f"--{flag}" for flag in asked)
        raise WingbarError(f"{named} make one model each: run them one after the other")
    if args.calibrate and not args.int8:
        raise WingbarError("--calibrate is for --int8: leave it out, or add --int8")
    if not asked:
        if args.output:
            raise WingbarError(
                "-o is for --open, --int8, --see and --mirrored; a checkpoint is exported to its "
                "own folder: leave -o out"
            )
        return _export_checkpoint(args)
    if not args.output:
        raise WingbarError(f"--{asked[0]} needs -o NEW, the model directory to create")
    output = Path(args.output)
    require_new_model(output)
    if output.is_dir() and any(output.iterdir()):
        raise WingbarError(f"{output} is not empty: name another directory")
    return variants[asked[0]](args)


EXPORT = Verb(
    name="export",
    summary="Export a checkpoint as a model, or a variant of a model: quantised, with another "
    "preprocessing, with mirror images too, or with open codes.",
    examples="wingbar export models/photos48\n"
    "wingbar export models/photos48 --open -o models/open\n"
    "wingbar export models/photos48 --mirrored -o models/mirrored\n"
    "wingbar export models/photos48 --int8 --calibrate photos/ -o models/small",
    flags=export_flags,
    run=export,
)


# -- what they do


def _training_part(data: str, split: str | None, protocol: str) -> str:
    """The part of a data set to learn from: the one asked for, else train if there is one, else
    all."""
    from wingbar.data.readers import has_part

    return split or ("train" if protocol != "own" or has_part(data, "train") else "all")


def _export_checkpoint(args: argparse.Namespace) -> int:
    from wingbar.training import loop, run

    with progress_bars() as progress:
        model = loop.export_checkpoint(args.path, progress)
    print_failures(run.failures(args.path), f"{args.path}/train/run.json")
    print_result(args, model_record(model), _trained_text(model, args.path))
    return 0


def _export_open(args: argparse.Namespace) -> int:
    from wingbar.model import proof
    from wingbar.model.model import Model

    opened = proof.proven(Model.load(args.path).opened())
    opened.save(args.output)
    print_result(args, model_record(opened), f"{args.output}: {opened}")
    return 0


def _export_preprocessing(args: argparse.Namespace) -> int:
    from wingbar.model import proof
    from wingbar.model.model import Model

    model = Model.load(args.path)
    before = model.preprocessing
    if args.mirrored and before.mirrored:
        raise WingbarError(f"{args.path} sees mirror images already")
    seen = _parse_preprocessing(args.see, before) if args.see else replace(before, mirrored=True)
    if seen == before:
        raise WingbarError(f"{args.path} sees {seen_text(before)} already")
    changed = proof.proven(model.with_preprocessing(seen))
    changed.save(args.output)
    text = f"{args.output}: {changed}, which sees {seen_text(changed.preprocessing)}"
    print_result(args, model_record(changed), text)
    return 0


def _parse_preprocessing(text: str, before: Preprocessing) -> Preprocessing:
    """`before` with what "square 224", "whole 224" or "whole 224 0.7,1,1.4" changes."""
    from wingbar.model.model import MAX_SIZE

    whole = replace(before, whole=True, scales=(1.0,), keep=1.0, edge=0, squash=False)
    try:
        match text.split():
            case ["square", given]:
                size = int(given)
                if size > MAX_SIZE:
                    raise ValueError(f"the side is at most {MAX_SIZE:,} pixels")
                edge = round(before.edge * size / before.size)
                square = replace(before, whole=False, scales=(1.0,), squash=False)
                return replace(square, size=size, edge=edge)
            case ["whole", size]:
                return replace(whole, size=int(size))
            case ["whole", size, scales]:
                return replace(whole, size=int(size), scales=tuple(map(float, scales.split(","))))
    except ValueError as error:
        raise WingbarError(f"--see {text!r} is not possible ({error})") from None
    raise WingbarError(
        f"--see must be 'square 224', 'whole 224' or 'whole 224 0.7,1,1.4', not {text!r}"
    )


def _export_int8(args: argparse.Namespace) -> int:
    import numpy as np

    from wingbar import images
    from wingbar.model.model import Model
    from wingbar.training.int8 import int8_model, require_quantisable

    if not args.calibrate:
        raise WingbarError("--int8 needs --calibrate DIR, a folder of typical images")
    model = Model.load(args.path)
    require_quantisable(model)
    paths = images.find(args.calibrate).images
    drawn = np.random.default_rng(0).permutation(len(paths))[:CALIBRATION_IMAGES]
    loaded, failures = [], []
    for path in (paths[i] for i in drawn):
        try:
            loaded.append(images.load(path, model.preprocessing))
        except ImageError as error:
            failures.append(images.Failure(str(path), str(error)))
    size = model.preprocessing.size
    pixels = np.stack(loaded) if loaded else np.empty((0, size, size, 3), np.uint8)
    print_failures(failures[:LISTED])
    small, agreed = int8_model(model, pixels)
    small.save(args.output)
    text = f"{args.output}: {small}; {agreement_text(agreed)}"
    print_result(args, model_record(small), text)
    return 0


def _trained_text(model: Model, path: str) -> str:
    lines = [f"{path}: {model}, {counted(len(model.record['classes']), 'class', 'classes')}"]
    trained = model.record["trained"]
    if trained["failed"]:
        lines.append(
            f"{counted(trained['failed'], 'image')} could not be read and took no part; "
            f"{path}/train/run.json lists them."
        )
    if unfinished := unfinished_text(trained):
        lines.append(f"{unfinished}. wingbar train --resume -o {path} continues it.")
    if searched := model.record["held_out"]:
        each = model.record["held_out_map"].items()
        scores = ", ".join(f"{mode} {value:.3f}" for mode, value in each)
        lines.append(
            f"MAP of {counted(searched['queries'], 'held-out training image')} by fine mode: "
            f"{scores}; searches use {model.fine}."
        )
        if warning := codes_warning(searched):
            lines.append(f"{warning}: train for longer, or at another --lr.")
    lines.append(f"Next: wingbar index photos.wb photos/ --model {path}")
    return "\n".join(lines)
