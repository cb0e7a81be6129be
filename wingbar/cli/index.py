"""The verbs `index`, `info` and `verify`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wingbar.errors import WingbarError

if TYPE_CHECKING:
    from wingbar.index.refit import RefitReport
    from wingbar.index.sync import AddReport

from wingbar.cli.output import _list_failures, _model_record, _number, _print, _progress

# -- verbs


def index(args: argparse.Namespace) -> int:
    """Create an index from images, or bring it up to date with them."""
    from wingbar.hamming import codes
    from wingbar.index.index import Index

    path = Path(args.index)
    if not args.images and not args.refit:
        raise WingbarError("name the images to index: a folder, a CSV file or image files")
    if args.refit and args.images:
        raise WingbarError("--refit learns from what is indexed already: run it without images")
    sources = [_images(args, name) for name in args.images]  # before a file is made for nothing
    opened = (
        Index.open(path)
        if path.exists() or args.refit
        else Index.create(path, args.model or "general")
    )
    with opened as found, _progress() as progress:
        if args.model:
            _check_model(args.model, found)
        if args.refit:
            refitted = found.refit(
                bits=args.bits, seed=args.seed, threads=args.threads, progress=progress
            )
            return _print(args, asdict(refitted), _refit_text(path, refitted))
        report = found.add(
            sources, bits=args.bits, seed=args.seed, threads=args.threads, progress=progress
        )
        _list_failures(report.failed)
        _print(
            args,
            {"index": str(path), "items": len(found), **asdict(report)},
            _add_text(path, len(found), report),
        )
        if len(found) >= codes.COMPILED_FROM:
            _warm_up(found.model.bits)
        if not len(found):
            raise WingbarError(
                f"none of the images could be used, {path} is empty: the reasons are above"
            )
        return 0


def _warm_up(bits: int) -> None:
    """Compile the search loops now, once on a machine, so that no search has to wait for it."""
    from wingbar.hamming import codes

    seconds = codes.warm_up(bits)
    if seconds > 2:
        print(
            f"wingbar: the search of large indexes was compiled for this machine in {seconds:.0f} "
            "s",
            file=sys.stderr,
        )


def info(args: argparse.Namespace) -> int:
    """Say what an index or a model is, or what a method would cost."""
    from wingbar.index.index import Index
    from wingbar.model.model import Model

    if (args.path is None) == (args.method is None):
        raise WingbarError(
            "name an index or a model, or a method to be costed: wingbar info --method cmbh "
            "--backbone resnet50"
        )
    if args.method is not None:
        record = _cost(args)
    elif args.path == "general" or Path(args.path).is_dir():
        record = _model_record(Model.load(args.path))
    else:
        with Index.open(args.path) as found:
            record = asdict(found.info())
    width = max(map(len, record))
    return _print(
        args, record, "\n".join(f"{key:{width}}  {_number(value)}" for key, value in record.items())
    )


def _cost(args: argparse.Namespace) -> dict[str, Any]:
    """Parameters and multiply-accumulates of a method's net, before there is a model."""
    from wingbar import methods
    from wingbar.networks import backbones
    from wingbar.training import export

    method = methods.get(args.method)
    backbone = backbones.create(args.backbone)
    net = method.Net(backbone, method.Config(bits=args.bits), args.classes)
    about = {
        "method": args.method,
        "backbone": args.backbone,
        "bits": args.bits,
        "classes": args.classes,
        "size": args.size,
    }
    return {**about, **export.cost(net, args.size)}


def verify(args: argparse.Namespace) -> int:
    """Check an index, down to the checksums; exit code 1 when something is wrong."""
    from wingbar.index.checks import verify

    problems = verify(args.index)
    text = "\n".join(problems) if problems else f"{args.index} is whole"
    if problems:
        text += (
            f"\n{args.index}: {len(problems)} problems; make it anew with wingbar index, or "
            "bring back a copy"
        )
    _print(args, {"index": args.index, "problems": problems}, text)
    return 1 if problems else 0


def _images(args: argparse.Namespace, name: str) -> Any:
    from wingbar.data.readers import read_images

    chosen = read_images(name, args.split, protocol=args.protocol, seed=args.seed)
    if not len(chosen) and not Path(args.index).exists():
        others = f", only {len(chosen.others):,} other files" if chosen.others else ""
        raise WingbarError(f"{name} has no images{others}")
    return chosen


def _check_model(name: str, found: Any) -> None:
    """Refuse to add to an index with another model than its own, naming both."""
    from wingbar.model.model import Model

    wanted = Model.load(name)
    theirs = {
        name: found.model.files.get(name) for name in ("model.onnx", "rotation.npz")
    }  # fitted codes may come later
    if wanted.files["model.onnx"] != theirs["model.onnx"] or wanted.files.get(
        "rotation.npz"
    ) not in (
        None,
        theirs["rotation.npz"],
    ):
        raise WingbarError(
            f"{found.path} was made with {found.model}, not with {wanted}: leave --model out, or "
            "name a new index"
        )


def _add_text(path: Path, items: int, report: AddReport) -> str:
    counts = {
        name: getattr(report, name)
        for name in ("added", "updated", "unchanged", "moved", "removed")
    }
    counts["failed"] = len(report.failed)
    parts = [f"{count:,} {name}" for name, count in counts.items() if count] or ["nothing to do"]
    lines = [
        f"{path}: {items:,} images ({', '.join(parts)}) in {report.seconds:.1f} s, "
        f"{report.images_per_second:.0f} images/s"
    ]
    if report.fitted_on:
        lines.append(f"The codes were learnt from {report.fitted_on:,} of them.")
    if report.ignored:
        lines.append(f"{len(report.ignored):,} files that are no images by name were passed over.")
    if report.advice:
        lines.append(f"Note: {report.advice}.")
    return "\n".join(lines)


def _refit_text(path: Path, report: RefitReport) -> str:
    return (
        f"{path}: codes of {report.bits} bits (before: {report.bits_before}) learnt anew from "
        f"{report.sample:,} images; "
        f"{report.codes_changed:,} of {report.items:,} codes changed.\n"
        f"The model is now {report.fingerprint[:12]}, it was {report.fingerprint_before[:12]}: "
        "embeddings made before do not fit any more."
    )
