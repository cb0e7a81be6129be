"""The verbs `train` and `export`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from wingbar.errors import WingbarError

if TYPE_CHECKING:
    from wingbar.images import Preprocessing
    from wingbar.model.model import Model

from wingbar.cli.options import METHODS, _from_flags
from wingbar.cli.output import _model_record, _print, _progress


def train(args: argparse.Namespace) -> int:
    """Train a method on labelled images; name a method to see its flags."""
    from wingbar import methods
    from wingbar.data.readers import read_images
    from wingbar.training import loop, run

    if args.repeat:
        if args.method or args.data or args.resume:
            raise WingbarError(
                "--repeat takes everything from the run that it repeats: leave METHOD, DATA and "
                "--resume out"
            )
        found = run.recorded(args.repeat)
    elif not args.method or not args.data:
        raise WingbarError(
            f"name a method ({', '.join(METHODS)}) and labelled images, as in wingbar train dlbhc "
            "photos/ -o m"
        )
    else:
        method = methods.get(args.method)
        part = _training_part(args.data, args.split, args.protocol)
        data = read_images(args.data, part, protocol=args.protocol, seed=args.split_seed)
        found = run.Recorded(
            method, _from_flags(method.Config, args), _from_flags(run.Run, args), data, args.start
        )
    with _progress() as progress:
        model = loop.train(
            found.method,
            found.data,
            args.output,
            found.config,
            found.run,
            resume=args.resume,
            start=found.start,
            progress=progress,
        )
    return _print(args, _model_record(model), _trained_text(model, args.output))


def export(args: argparse.Namespace) -> int:
    """Make a model of a run's last checkpoint, an int8 version of a model, or one that sees
    pictures in another way."""
    import numpy as np

    from wingbar import images
    from wingbar.model.model import Model
    from wingbar.training import export, loop

    if args.see:
        if not args.output:
            raise WingbarError("--see needs -o NEW, where to write")
        model = Model.load(args.path)
        other = model.with_preprocessing(_seen(args.see, model.preprocessing))
        other.save(args.output)
        return _print(
            args, _model_record(other), f"{args.output}: {other}, seeing {other.preprocessing}"
        )
    if not args.int8:
        with _progress() as progress:
            model = loop.export_checkpoint(args.path, progress)
        return _print(args, _model_record(model), _trained_text(model, args.path))
    if not args.calibrate or not args.output:
        raise WingbarError(
            "--int8 needs --calibrate DIR, a folder of typical pictures, and -o NEW, where to write"
        )
    model = Model.load(args.path)
    paths = images.find(args.calibrate).images
    chosen = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))[:384]]
    small, agreed = export.int8_model(
        model, np.stack([images.load(path, model.preprocessing) for path in chosen])
    )
    small.save(args.output)
    return _print(
        args,
        _model_record(small),
        f"{args.output}: {small}; agreement with the exact model: {agreed}",
    )


def _seen(text: str, before: Preprocessing) -> Preprocessing:
    """A preprocessing from "square 224" or "whole 224 0.7,1,1.4"."""
    from wingbar.images import Preprocessing

    try:
        match text.split():
            case ["square", size]:
                return Preprocessing(size=int(size), keep=before.keep)
            case ["whole", size]:
                return Preprocessing(size=int(size), whole=True)
            case ["whole", size, scales]:
                return Preprocessing(
                    size=int(size), whole=True, scales=tuple(map(float, scales.split(",")))
                )
    except ValueError as error:
        raise WingbarError(f"--see {text!r} cannot be ({error})") from None
    raise WingbarError(f"--see is 'square 224', 'whole 224' or 'whole 224 0.7,1,1.4', not {text!r}")


def _trained_text(model: Model, path: str) -> str:
    scores = ", ".join(
        f"{mode} {value:.3f}" for mode, value in model.record.get("held_out_map", {}).items()
    )
    lines = [f"{path}: {model}, {len(model.record['classes'])} classes"]
    if scores:
        lines.append(
            f"MAP of held-out training images by fine mode: {scores}; searches use {model.fine}."
        )
    lines.append(f"Next: wingbar index photos.wb photos/ --model {path}")
    return "\n".join(lines)


def _training_part(data: str, split: str | None, protocol: str) -> str:
    """The part of a data set to learn from: the one asked for, or train where there is one, or
    all."""
    from wingbar.data.readers import has_part

    return split or ("train" if protocol != "own" or has_part(data, "train") else "all")
