"""The command line: one short function a verb. Heavy modules are imported inside them, so that --help is quick."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wingbar import __version__
from wingbar.errors import ImageError, WingbarError

if TYPE_CHECKING:
    from wingbar.data.catalogue import DataSet, Report
    from wingbar.data.readers import Dataset
    from wingbar.evaluation.labelled import Evaluation
    from wingbar.images import Preparation
    from wingbar.index.index import Hits, Index
    from wingbar.index.sync import AddReport, Failure, Progress, RefitReport
    from wingbar.model.model import Model
    from wingbar.model.saliency import Explained, Look


METHODS = ("cmbh", "dlbhc", "dolg")  # as in methods/__init__.py, which imports PyTorch
PEERS = "flat,multihash,ivf,hnsw,usearch,numpy"  # as in bench.py
PROTOCOLS = ("own", "10k-50k", "1k-5k-54k", "1k-5k-59k", "unseen")  # as in datasets.py
IN_BYTES = ("fetching", "checking", "unpacking")  # stages of download.py, which count bytes
FINE = ("none", "ties", "pool", "asymmetric")  # as in index.py, which is not imported for --help
SHOWN = 20  # bad files named on the terminal; --json names all


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 good, 1 something is wrong with the index, 2 wrong usage, 130 stopped."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser(arguments).parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    warnings.filterwarnings("ignore", module="PIL")  # what matters of its remarks is said in the list of failures
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print("wingbar: stopped; what was stored stays, and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone; flushing at exit must not fail too
        return 0
    except WingbarError as error:
        return _failed(args, str(error))
    except OSError as error:
        return _failed(args, f"{error.filename or 'a file'}: {error.strerror or error}")
    except Exception as error:
        return _failed(args, f"a bug in wingbar ({type(error).__name__}: {error}): please report it with what --debug prints")


def _failed(args: argparse.Namespace, message: str) -> int:
    if args.debug:
        raise  # noqa: PLE0704  # only called while an exception is being handled
    print(f"wingbar: {message}", file=sys.stderr)
    return 2


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
    opened = Index.open(path) if path.exists() or args.refit else Index.create(path, args.model or "general")
    with opened as found, _progress() as progress:
        if args.model:
            _check_model(args.model, found)
        if args.refit:
            refitted = found.refit(bits=args.bits, seed=args.seed, threads=args.threads, progress=progress)
            return _print(args, asdict(refitted), _refit_text(path, refitted))
        report = found.add(sources, bits=args.bits, seed=args.seed, threads=args.threads, progress=progress)
        _list_failures(report.failed)
        _print(args, {"index": str(path), "items": len(found), **asdict(report)}, _add_text(path, len(found), report))
        if len(found) >= codes.COMPILED_FROM:
            _warm_up(found.model.bits)
        if not len(found):
            raise WingbarError(f"none of the images could be used, {path} is empty: the reasons are above")
        return 0


def _warm_up(bits: int) -> None:
    """Compile the search loops now, once on a machine, so that no search has to wait for it."""
    from wingbar.hamming import codes

    seconds = codes.warm_up(bits)
    if seconds > 2:
        print(f"wingbar: the search of large indexes was compiled for this machine in {seconds:.0f} s", file=sys.stderr)


def search(args: argparse.Namespace) -> int:
    """Find the images most like the given ones."""
    from wingbar.images import parse_box
    from wingbar.index.index import Index

    code = 0
    box = None if args.box is None else parse_box(args.box)
    with Index.open(args.index) as found:
        for name in args.images:
            try:
                hits = found.search(
                    name, args.k, radius=args.radius, fine=args.fine, shortlist=args.shortlist, where=args.where, box=box
                )
            except ImageError as error:  # the other queries still get their answers
                print(f"wingbar: {error}", file=sys.stderr)
                code = 2
                continue
            if args.json or not sys.stdout.isatty():
                for hit in hits:
                    print(json.dumps({"query": name, **asdict(hit)}, ensure_ascii=False))
            else:
                print(_hits_text(name, hits))
    return code


def explain(args: argparse.Namespace) -> int:
    """Show what a search looked at: places and characteristics, and the bits that agree with each hit."""
    from wingbar.images import Part, parse_box
    from wingbar.index.index import Index
    from wingbar.model.saliency import explain

    source = args.image if args.box is None else Part(args.image, parse_box(args.box))
    with Index.open(args.index) as found:
        hits = found.search(source, args.k, fine=args.fine, shortlist=args.shortlist)
        explained = explain(found, source, hits)
    if args.output:
        _write_looks(Path(args.output), source, explained)
    return _print(args, _explained_record(explained), _explained_text(args.image, explained))


def _write_looks(folder: Path, source: Any, explained: Explained) -> None:
    """An overlay (PNG) of the query and of each hit, and the map of numbers on it (.npy)."""
    import numpy as np

    from wingbar import images

    folder.mkdir(parents=True, exist_ok=True)
    looks = [("query", source, explained.query)]
    looks += [(f"hit{hit.rank}", hit.path, look) for hit, look in zip(explained.hits, explained.looks, strict=True) if look]
    for name, picture, look in looks:
        (folder / f"{name}.png").write_bytes(images.overlay(images.upright(picture), look.heat, look.area, look.regions))
        if look.heat is not None:
            np.save(folder / f"{name}.npy", look.heat)


def _explained_record(explained: Explained) -> dict[str, Any]:
    def look(one: Look | None) -> dict[str, Any] | None:
        if one is None:
            return None
        heat = None if one.heat is None else one.heat.round(6).tolist()
        return {**asdict(one), "heat": heat}

    hits = [
        {**asdict(hit), "agree": _bit_text(agree), "look": look(there)}
        for hit, agree, there in zip(explained.hits, explained.agree, explained.looks, strict=True)
    ]
    return {"code": _bit_text(explained.code), "query": look(explained.query), "hits": hits}


def _explained_text(name: str, explained: Explained) -> str:
    look = explained.query
    lines = [f"{name}, {look.size[0]} x {look.size[1]}", f"code {_bit_text(explained.code)}"]
    if look.heat is None:
        lines.append("this method shows no places: DOLG has attention, CMBH characteristics and regions")
    else:
        row, column = divmod(int(look.heat.argmax()), look.heat.shape[1])
        height, width = look.heat.shape
        x, y = (column + 0.5) / width * look.area[2] + look.area[0], (row + 0.5) / height * look.area[3] + look.area[1]
        lines.append(f"looks most at {x:.0f},{y:.0f} (map of {width} x {height})")
    lines += [f"region {i}: {_box_text(box)}" for i, box in enumerate(look.regions, start=1)]
    lines += [f"characteristic {c.number} of {c.label}: cosine {c.cosine:.3f}, class {c.probability:.1%}" for c in look.fired]
    for hit, agree in zip(explained.hits, explained.agree, strict=True):
        marks = "".join("." if same else "x" for same in agree)
        lines.append(f"{hit.rank:4}  {int((~agree).sum()):3} of {len(agree)} bits differ  {marks}  {hit.label or ''}  {hit.path}")
    return "\n".join(lines)


def _bit_text(bits: Iterable[bool]) -> str:
    return "".join("1" if bit else "0" for bit in bits)


def _box_text(box: Sequence[float]) -> str:
    return ",".join(f"{value:.0f}" for value in box)


def evaluate(args: argparse.Namespace) -> int:
    """Measure an index with the labelled queries of a data set, or compare two such measurements."""
    from wingbar.data.readers import read_dataset, read_images
    from wingbar.evaluation.labelled import evaluate
    from wingbar.index.index import Index

    if args.compare:
        return _compare(args)
    if args.index is None or args.data is None:
        raise WingbarError("name an index and a data set, as in wingbar evaluate birds.wb birds/, or --compare A.json B.json")
    if args.solution:
        return _evaluate_landmarks(args)
    if args.report:
        from wingbar.evaluation import charts, report

        charts.check_installed()
    with Index.open(args.index) as found, _progress() as progress:
        if args.split:
            queries = read_images(args.data, args.split, protocol=args.protocol, seed=args.seed)
            protocol = f"{queries.protocol} as queries, the index as gallery"
        else:
            data = read_dataset(args.data, protocol=args.protocol, seed=args.seed)
            queries, protocol = data.query, data.protocol
            if data.truth:
                return _evaluate_revisited(args, found, data, progress)
        result = evaluate(
            found,
            queries,
            protocol=protocol,
            fine=args.fine,
            shortlist=args.shortlist,
            gallery_codes=args.gallery_codes,
            exhaustive=args.exhaustive,
            keep_constant_bits=args.keep_constant_bits,
            progress=progress,
        )
        if args.report:
            _write(Path(args.report), report.evaluation_page(found, queries, result))
    _list_failures(result.failed)
    return _print(args, asdict(result), _evaluation_text(result))


def _evaluate_revisited(args: argparse.Namespace, found: Index, data: Dataset, progress: Progress) -> int:
    from wingbar.evaluation.landmarks import evaluate_revisited

    result = evaluate_revisited(
        found, data, fine=args.fine, shortlist=args.shortlist, whole_queries=args.whole_queries, progress=progress
    )
    _list_failures(result.failed)
    lines = [result.protocol, f"{'':8}  {'setup':6}  {'MAP':>6}  {'mP@1':>6}  {'mP@5':>6}  {'mP@10':>6}  queries"]
    for name, setups in (("features", result.features), ("search", result.search)):
        for setup, s in setups.items():
            values = "  ".join(f"{value:6.4f}" for value in (s.map, s.mp_at_1, s.mp_at_5, s.mp_at_10))
            lines.append(f"{name:8}  {setup:6}  {values}  {s.queries:7,}")
    lines += [f"Note: {note}." for note in result.notes]
    return _print(args, asdict(result), "\n".join(lines))


def _evaluate_landmarks(args: argparse.Namespace) -> int:
    from wingbar.evaluation.landmarks import evaluate_landmarks
    from wingbar.images import find
    from wingbar.index.index import Index

    with Index.open(args.index) as found, _progress() as progress:
        paths = find(args.data).images
        result = evaluate_landmarks(
            found, paths, Path(args.solution), fine=args.fine, shortlist=args.shortlist, progress=progress
        )
    _list_failures(result.failed)
    shown = {key: value for key, value in asdict(result).items() if key != "failed" and value is not None}
    return _print(args, asdict(result), "\n".join(f"{key:10}  {_number(value)}" for key, value in shown.items()))


def _evaluation_text(result: Evaluation) -> str:
    shown = {
        field.name: getattr(result, field.name)
        for field in fields(result)
        if field.name not in ("failed", "notes", "curves", "per_query")
    }
    width = max(map(len, shown))
    lines = [f"{key:{width}}  {_number(value)}" for key, value in shown.items()]
    return "\n".join([*lines, *(f"Note: {note}." for note in result.notes)])


def _compare(args: argparse.Namespace) -> int:
    from wingbar.evaluation.compare import compare

    records = [_read_json(Path(name)) for name in args.compare]
    found = compare(records[0], records[1], seed=args.seed)
    lines = [f"{name}: {protocol}" for name, protocol in zip(args.compare, found.protocols, strict=True)]
    lines.append(f"{found.queries:,} queries in both; the interval of the difference holds {found.level:.0%} (paired bootstrap)")
    lines.append(f"{'':12}  {'first':>7}  {'second':>7}  {'difference':>10}")
    lines += [
        f"{d.measure:12}  {d.first:7.4f}  {d.second:7.4f}  {d.difference:+10.4f}  ({d.low:+.4f} to {d.high:+.4f})"
        for d in found.differences
    ]
    lines += [f"Note: {note}." for note in found.notes]
    return _print(args, asdict(found), "\n".join(lines))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WingbarError(f"{path} is not JSON ({error}): write it with wingbar evaluate INDEX DATA --json > {path}") from None


def _write(path: Path, text: str) -> None:
    """A whole file or none."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def info(args: argparse.Namespace) -> int:
    """Say what an index or a model is, or what a method would cost."""
    from wingbar.index.index import Index
    from wingbar.model.model import Model

    if (args.path is None) == (args.method is None):
        raise WingbarError("name an index or a model, or a method to be costed: wingbar info --method cmbh --backbone resnet50")
    if args.method is not None:
        record = _cost(args)
    elif args.path == "general" or Path(args.path).is_dir():
        record = _model_record(Model.load(args.path))
    else:
        with Index.open(args.path) as found:
            record = asdict(found.info())
    width = max(map(len, record))
    return _print(args, record, "\n".join(f"{key:{width}}  {_number(value)}" for key, value in record.items()))


def _cost(args: argparse.Namespace) -> dict[str, Any]:
    """Parameters and multiply-accumulates of a method's net, before there is a model."""
    from wingbar import methods
    from wingbar.networks import backbones
    from wingbar.training import export

    method = methods.get(args.method)
    backbone = backbones.create(args.backbone)
    net = method.Net(backbone, method.Config(bits=args.bits), args.classes)
    about = {"method": args.method, "backbone": args.backbone, "bits": args.bits, "classes": args.classes, "size": args.size}
    return {**about, **export.cost(net, args.size)}


def verify(args: argparse.Namespace) -> int:
    """Check an index, down to the checksums; exit code 1 when something is wrong."""
    from wingbar.index.index import verify

    problems = verify(args.index)
    text = "\n".join(problems) if problems else f"{args.index} is whole"
    if problems:
        text += f"\n{args.index}: {len(problems)} problems; make it anew with wingbar index, or bring back a copy"
    _print(args, {"index": args.index, "problems": problems}, text)
    return 1 if problems else 0


def train(args: argparse.Namespace) -> int:
    """Train a method on labelled images; name a method to see its flags."""
    from wingbar import methods
    from wingbar.data.readers import read_images
    from wingbar.training import loop

    if args.repeat:
        if args.method or args.data or args.resume:
            raise WingbarError("--repeat takes everything from the run that it repeats: leave METHOD, DATA and --resume out")
        found = loop.recorded(args.repeat)
    elif not args.method or not args.data:
        raise WingbarError(f"name a method ({', '.join(METHODS)}) and labelled images, as in wingbar train dlbhc photos/ -o m")
    else:
        method = methods.get(args.method)
        part = _training_part(args.data, args.split, args.protocol)
        data = read_images(args.data, part, protocol=args.protocol, seed=args.split_seed)
        found = loop.Recorded(method, _from_flags(method.Config, args), _from_flags(loop.Run, args), data, args.start)
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
    """Make a model of a run's last checkpoint, an int8 version of a model, or one that sees pictures in another way."""
    import numpy as np

    from wingbar import images
    from wingbar.model.model import Model
    from wingbar.training import export, loop

    if args.see:
        if not args.output:
            raise WingbarError("--see needs -o NEW, where to write")
        model = Model.load(args.path)
        other = model.seeing(_seen(args.see, model.preparation))
        other.save(args.output)
        return _print(args, _model_record(other), f"{args.output}: {other}, seeing {other.preparation}")
    if not args.int8:
        with _progress() as progress:
            model = loop.export_checkpoint(args.path, progress)
        return _print(args, _model_record(model), _trained_text(model, args.path))
    if not args.calibrate or not args.output:
        raise WingbarError("--int8 needs --calibrate DIR, a folder of typical pictures, and -o NEW, where to write")
    model = Model.load(args.path)
    paths = images.find(args.calibrate).images
    chosen = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))[:384]]
    small, agreed = export.int8_model(model, np.stack([images.load(path, model.preparation) for path in chosen]))
    small.save(args.output)
    return _print(args, _model_record(small), f"{args.output}: {small}; agreement with the exact model: {agreed}")


def _seen(text: str, before: Preparation) -> Preparation:
    """A preparation from "square 224" or "whole 224 0.7,1,1.4"."""
    from wingbar.images import Preparation

    try:
        match text.split():
            case ["square", size]:
                return Preparation(size=int(size), keep=before.keep)
            case ["whole", size]:
                return Preparation(size=int(size), whole=True)
            case ["whole", size, scales]:
                return Preparation(size=int(size), whole=True, scales=tuple(map(float, scales.split(","))))
    except ValueError as error:
        raise WingbarError(f"--see {text!r} cannot be ({error})") from None
    raise WingbarError(f"--see is 'square 224', 'whole 224' or 'whole 224 0.7,1,1.4', not {text!r}")


def bench(args: argparse.Namespace) -> int:
    """Measure encoding, Hamming search or a server, beside peers in the same run."""
    from wingbar.bench import hamming

    if args.what == "encode":
        record = hamming.encode(args.model, args.images)
    elif args.what == "search":
        record = hamming.search(args.index, args.images, clients=args.clients, seconds=args.seconds)
    else:
        record = hamming.hamming(
            args.items,
            args.bits,
            centres=args.centres,
            flip=args.flip,
            k=args.k,
            radius=args.radius,
            threads=args.threads,
            peers=tuple(args.peers.split(",")) if args.peers else (),
            seed=args.seed,
        )
    return _print(args, record, "\n".join(_record_lines(record)))


def serve(args: argparse.Namespace) -> int:
    """Serve an index: an HTTP API, and a page to search with."""
    _serve(
        Path(args.index),
        host=args.host,
        port=args.port,
        token=args.token or os.environ.get("WINGBAR_TOKEN"),
        read_token=args.read_token or os.environ.get("WINGBAR_READ_TOKEN"),
        public=args.public,
        hosts=tuple(args.allow_host),
        cors=tuple(args.cors),
        open_page=args.open,
        as_json=args.json,
    )
    return 0


def _serve(
    path: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    read_token: str | None = None,
    public: bool = False,
    hosts: tuple[str, ...] = (),
    cors: tuple[str, ...] = (),
    open_page: bool = False,
    as_json: bool = False,
) -> None:
    """Serve until stopped; says where on standard output."""
    try:
        from wingbar.serving import app
        from wingbar.serving.middleware import Settings
    except ImportError as error:
        raise WingbarError(f"serving needs {error.name}: run pip install 'wingbar[serve]'") from None

    def started(url: str) -> None:
        text = json.dumps({"url": url}) if as_json else f"wingbar serves {path} at {url}   (Ctrl-C stops it)"
        print(text, flush=True)
        if open_page:
            import webbrowser

            webbrowser.open(url)

    settings = Settings(
        index=path, host=host, port=port, token=token, read_token=read_token, public=public, hosts=hosts, cors=cors
    )
    with suppress(KeyboardInterrupt):  # the way to stop it
        app.run(settings, started)


def _record_lines(record: dict[str, Any]) -> list[str]:
    """One line for each value; a record inside a record in one line of its own."""
    flat: dict[str, object] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            for name, inner in value.items():
                one = inner.items() if isinstance(inner, dict) else [("", inner)]
                flat[f"{key} {name}"] = ", ".join(f"{k} {_number(v)}".strip() for k, v in one)
        else:
            flat[key] = value
    width = max(map(len, flat))
    return [f"{key:{width}}  {_number(value)}" for key, value in flat.items()]


def data(args: argparse.Namespace) -> int:
    """List the data sets that wingbar knows, say what one is, or fetch it."""
    from wingbar.data import catalogue

    if args.what == "list":
        known = list(catalogue.DATA_SETS.values())
        return _print(args, {"data_sets": [asdict(one) for one in known]}, "\n".join(map(_data_line, known)))
    if args.what == "info":
        one = catalogue.get(args.name)
        return _print(args, asdict(one), _data_text(one))
    with _progress() as progress:
        report = catalogue.fetch(args.name, args.output, url=args.url, progress=progress)
    return _print(args, asdict(report), _data_report(report))


def _data_line(one: DataSet) -> str:
    from wingbar.data.download import gigabytes

    how = "by hand" if one.by_hand else gigabytes(one.size) if one.size else "fetch"
    return f"{one.name:14}  {one.images:>9,} images  {one.classes or '':>6} {'classes' if one.classes else '':7}  {how}"


def _data_text(one: DataSet) -> str:
    from wingbar.data.download import gigabytes

    lines = [f"{one.title}: {one.images:,} images" + (f", {one.classes:,} classes" if one.classes else "")]
    lines += [f"page      {one.page}", f"licence   {one.licence}", f"unpacked  about {gigabytes(one.disk)}"]
    for file in one.files:
        lines.append(f"file      {file.url}" + (f", {file.size:,} bytes" if file.size else ""))
        sums = (("sha256", file.sha256), ("md5", file.md5))
        known = next((f"{kind} {value}" for kind, value in sums if value), "no sum is known")
        lines.append(f"          {known}")
    lines += [f"note      {text}" for text in (one.note, one.by_hand) if text]
    return "\n".join(lines)


def _data_report(report: Report) -> str:
    lines = [f"{report.folder}: {report.images:,} images" + (f", {report.classes:,} classes" if report.classes else "")]
    if not report.fetched:
        lines[0] += ", there already"
    if report.images != report.official_images:
        lines[0] += f" (officially {report.official_images:,} images)"
    for file in report.files:
        how = f"{file.checked} as published" if file.checked else "no published sum to compare it with: keep this one"
        lines.append(f"{file.url}\n  sha256 {file.sha256} ({how})")
    lines.append(f"Next: wingbar index {report.name}.wb {report.folder} --split gallery")
    return "\n".join(lines)


def demo(args: argparse.Namespace) -> int:
    """Index, search and evaluate real handwritten digits, or your own images, and serve them."""
    from wingbar import demo

    with _progress() as progress:
        shown = demo.run(Path(args.output), Path(args.images) if args.images else None, bits=args.bits, progress=progress)
    _list_failures(shown.report.failed)
    code = _print(args, demo.record(shown), demo.text(shown))
    if not args.no_serve and not args.json and sys.stdout.isatty():
        try:
            _serve(shown.index, port=0)
        except WingbarError as error:  # the demo is done; the server is its last page
            print(f"wingbar: {error}", file=sys.stderr)
    return code


# -- what they share


def _model_record(model: Model) -> dict[str, Any]:
    """What `info` says of a model; `classes` is how many."""
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
        "protocol",
    )
    known = {key: model.record[key] for key in keys if key in model.record}
    bits = model.bits if model.gives_codes else None
    classes = len(model.record.get("classes", []))
    return {"name": model.name, **known, "bits": bits, "classes": classes, "fingerprint": model.fingerprint}


def _trained_text(model: Model, path: str) -> str:
    scores = ", ".join(f"{mode} {value:.3f}" for mode, value in model.record.get("held_out_map", {}).items())
    lines = [f"{path}: {model}, {len(model.record['classes'])} classes"]
    if scores:
        lines.append(f"MAP of held-out training images by fine mode: {scores}; searches use {model.fine}.")
    lines.append(f"Next: wingbar index photos.wb photos/ --model {path}")
    return "\n".join(lines)


def _training_part(data: str, split: str | None, protocol: str) -> str:
    """The part of a data set to learn from: the one asked for, or train where there is one, or all."""
    from wingbar.data.readers import has_part

    return split or ("train" if protocol != "own" or has_part(data, "train") else "all")


def _from_flags(kind: Any, args: argparse.Namespace) -> Any:
    return kind(**{field.name: getattr(args, field.name) for field in fields(kind)})


def _add_flags(parser: argparse._ArgumentGroup, kind: Any, recipe: Mapping[str, Any] = MappingProxyType({})) -> None:
    """A flag for each field of a dataclass: its name, type, default (the recipe's, where it has one) and help."""
    for field in fields(kind):
        default = recipe.get(field.name, field.default)
        flag, text = "--" + field.name.replace("_", "-"), f"{field.metadata['help']} (default {default})"
        if isinstance(field.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text)
        else:
            parser.add_argument(flag, type=type(field.default), default=default, help=text)


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
    theirs = {name: found.model.files.get(name) for name in ("model.onnx", "rotation.npz")}  # fitted codes may come later
    if wanted.files["model.onnx"] != theirs["model.onnx"] or wanted.files.get("rotation.npz") not in (
        None,
        theirs["rotation.npz"],
    ):
        raise WingbarError(f"{found.path} was made with {found.model}, not with {wanted}: leave --model out, or name a new index")


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar with images/s and the time left, on a terminal only."""
    from tqdm import tqdm

    bars: dict[str, tqdm[Any]] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            in_bytes = stage.split()[0] in IN_BYTES
            unit = "B" if in_bytes else " images"
            bars[stage] = tqdm(desc=stage, total=total, unit=unit, unit_scale=in_bytes, leave=False, disable=None, smoothing=0.1)
        bars[stage].total = total
        bars[stage].update(done - bars[stage].n)

    try:
        yield report
    finally:
        for bar in bars.values():
            bar.close()


def _print(args: argparse.Namespace, record: dict[str, Any], text: str) -> int:
    print(json.dumps(record, ensure_ascii=False) if args.json else text)
    return 0


def _list_failures(failed: Sequence[Failure]) -> None:
    for failure in failed[:SHOWN]:
        print(f"wingbar: left out {failure.path}: {failure.reason}", file=sys.stderr)
    if len(failed) > SHOWN:
        print(f"wingbar: left out {len(failed) - SHOWN:,} more; --json lists them all", file=sys.stderr)


def _add_text(path: Path, items: int, report: AddReport) -> str:
    counts = {name: getattr(report, name) for name in ("added", "updated", "unchanged", "moved", "removed")}
    counts["failed"] = len(report.failed)
    parts = [f"{count:,} {name}" for name, count in counts.items() if count] or ["nothing to do"]
    lines = [f"{path}: {items:,} images ({', '.join(parts)}) in {report.seconds:.1f} s, {report.images_per_second:.0f} images/s"]
    if report.fitted_on:
        lines.append(f"The codes were learnt from {report.fitted_on:,} of them.")
    if report.ignored:
        lines.append(f"{len(report.ignored):,} files that are no images by name were passed over.")
    if report.advice:
        lines.append(f"Note: {report.advice}.")
    return "\n".join(lines)


def _refit_text(path: Path, report: RefitReport) -> str:
    return (
        f"{path}: codes of {report.bits} bits (before: {report.bits_before}) learnt anew from {report.sample:,} images; "
        f"{report.codes_changed:,} of {report.items:,} codes changed.\n"
        f"The model is now {report.fingerprint[:12]}, it was {report.fingerprint_before[:12]}: "
        "embeddings made before do not fit any more."
    )


def _hits_text(name: str, hits: Hits) -> str:
    total = sum(hits.milliseconds.values())
    stages = " + ".join(f"{stage} {ms:.1f}" for stage, ms in hits.milliseconds.items())
    looked = f"; {hits.shortlist:,} in the shortlist" + (" (cut inside a tie)" if hits.cut else "") if hits.shortlist else ""
    lines = [f"{name}: {len(hits)} hits in {total:.0f} ms ({stages}){looked}"]
    label_width = max([len(hit.label or "") for hit in hits] + [5])
    lines.append(f"{'rank':>4}  {'bits':>4}  {'cosine':>6}  {'label':{label_width}}  path")
    for hit in hits:
        score = "" if hit.score is None else f"{hit.score:.3f}"
        lines.append(f"{hit.rank:>4}  {hit.distance:>4}  {score:>6}  {hit.label or '':{label_width}}  {hit.path}")
    return "\n".join(lines)


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


# -- flags


def _parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The flags of all verbs; those of `train METHOD` only when that is what `arguments` ask for, as they need PyTorch."""
    parser = argparse.ArgumentParser(
        prog="wingbar",
        description="Visual search for a folder of images, on an ordinary CPU.",
        epilog="Start with: wingbar demo\nThen: wingbar index photos.wb photos/ && wingbar search photos.wb query.jpg",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wingbar {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    p = _verb(verbs, index, "wingbar index photos.wb photos/\nwingbar index photos.wb catalogue.csv --split gallery --bits 48")
    p.add_argument("index", metavar="INDEX", help="the index file; made when it is not there")
    p.add_argument("images", metavar="IMAGES", nargs="*", help="a folder, a CSV file (path,label,split,...), or image files")
    p.add_argument("--model", help="a model directory, or general (the default): no labels, no training")
    p.add_argument("--bits", type=_bits, help="code length of a label-free index (default 64)")
    p.add_argument("--split", default="all", help="only this part of a data set: gallery, train, query, val, test (default all)")
    _protocol_flag(p)
    p.add_argument(
        "--seed", type=_count, default=0, help="draws the images that label-free codes are learnt from, and a split (default 0)"
    )
    p.add_argument("--threads", type=_positive, help="threads that decode pictures (default: one a core)")
    p.add_argument("--refit", action="store_true", help="learn label-free codes anew from all that is indexed")

    p = _verb(verbs, search, "wingbar search photos.wb query.jpg -k 5 --where label=monarch")
    p.add_argument("index", metavar="INDEX")
    p.add_argument("images", metavar="IMAGE", nargs="+", help="one or more query images")
    p.add_argument("-k", type=int, default=10, help="how many hits (default 10)")
    p.add_argument("--radius", type=int, help="only items at most so many bits away")
    p.add_argument("--box", metavar="X,Y,WIDTH,HEIGHT", help="look at this part of the query images only, in pixels")
    _ranking_flags(p)
    p.add_argument(
        "--where", action="append", default=[], metavar="FILTER", help="label=monarch, path=blue/* or price<20; may be repeated"
    )

    p = _verb(verbs, explain, "wingbar explain photos.wb query.jpg -o seen/")
    p.add_argument("index", metavar="INDEX")
    p.add_argument("image", metavar="IMAGE", help="the query")
    p.add_argument("-k", type=int, default=3, help="how many hits (default 3)")
    p.add_argument("-o", "--output", metavar="FOLDER", help="write here an overlay (PNG) and the map (.npy) of query and hits")
    p.add_argument("--box", metavar="X,Y,WIDTH,HEIGHT", help="look at this part of the query only, in pixels")
    _ranking_flags(p)

    p = _verb(verbs, evaluate, "wingbar evaluate birds.wb birds/ --json")
    p.add_argument("index", metavar="INDEX", nargs="?")
    p.add_argument(
        "data", metavar="DATA", nargs="?", help="a folder or CSV file with labels; its query, test or val part is searched for"
    )
    p.add_argument("--report", metavar="FILE", help="write a page (HTML) with curves, pictures and every label")
    p.add_argument(
        "--solution", metavar="CSV", help="score the images of the folder DATA by a solution file of Google Landmarks v2"
    )
    p.add_argument(
        "--whole-queries", action="store_true", help="revisited Oxford and Paris: do not cut the queries to their boxes"
    )
    p.add_argument("--compare", nargs=2, metavar="JSON", help="compare two measurements instead, each as --json printed it")
    p.add_argument(
        "--gallery-codes",
        choices=("network", "labels"),
        default="network",
        help="codes of the gallery: what the network gives, or one for each label as in much of the literature (default network)",
    )
    p.add_argument(
        "--exhaustive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="rank the whole gallery by features too, which are then all in memory (default yes)",
    )
    p.add_argument("--keep-constant-bits", action="store_true", help="score a code although some of its bits never change")
    p.add_argument("--split", help="use this part as queries instead")
    _protocol_flag(p)
    p.add_argument("--seed", type=_count, default=0, help="draws what is random in the split (default 0)")
    _ranking_flags(p)

    p = _verb(
        verbs, info, "wingbar info photos.wb --json\nwingbar info --method cmbh --backbone resnet50 --bits 48 --classes 200"
    )
    p.add_argument("path", metavar="PATH", nargs="?", help="an index, a model directory, or general")
    p.add_argument("--method", choices=METHODS, help="instead: what this method's network would cost")
    p.add_argument("--backbone", default="resnet50", help="of --method (default resnet50)")
    p.add_argument("--bits", type=_bits, default=48, help="code length, of --method (default 48)")
    p.add_argument("--classes", type=_positive, default=100, help="classes, of --method (default 100)")
    p.add_argument("--size", type=_positive, default=224, help="side of the picture in pixels, of --method (default 224)")

    p = _verb(verbs, verify, "wingbar verify photos.wb && echo fine")
    p.add_argument("index", metavar="INDEX")

    p = _verb(verbs, train, "wingbar train dlbhc photos/ -o models/photos48 --bits 48 --epochs 20")
    p.add_argument(
        "method", metavar="METHOD", nargs="?", help=f"{', '.join(METHODS)}; wingbar train METHOD --help lists its flags"
    )
    p.add_argument("data", metavar="DATA", nargs="?", help="labelled images; of a data set with parts only train is used")
    p.add_argument("-o", "--output", required=True, metavar="DIR", help="the model directory to make")
    p.add_argument("--split", help="learn from this part of DATA instead")
    _protocol_flag(p)
    p.add_argument("--split-seed", type=_count, default=0, help="draws the split, as --seed of index and evaluate (default 0)")
    p.add_argument("--from", dest="start", metavar="MODEL", help="begin from a trained model of the same backbone")
    p.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output directory")
    p.add_argument("--repeat", metavar="RUN", help="do the run in this directory again, with all it says")
    if list(arguments[:1]) == ["train"] and len(arguments) > 1 and arguments[1] in METHODS:
        from wingbar import methods
        from wingbar.training import loop

        p.usage = f"wingbar train {arguments[1]} DATA -o DIR [flags]"
        _add_flags(p.add_argument_group(f"flags of {arguments[1]}"), methods.get(arguments[1]).Config)
        _add_flags(p.add_argument_group("flags of the run"), loop.Run, methods.get(arguments[1]).RECIPE)

    p = _verb(
        verbs, export, "wingbar export models/photos48\nwingbar export models/photos48 --int8 --calibrate photos/ -o models/small"
    )
    p.add_argument("path", metavar="MODEL", help="a run with a checkpoint, or for --int8 a model directory")
    p.add_argument("--int8", action="store_true", help="write a version of 8 bits, several times faster and smaller")
    p.add_argument("--calibrate", metavar="DIR", help="typical pictures that set the ranges of --int8")
    p.add_argument("--see", metavar="HOW", help="see pictures in another way: 'square 224', or 'whole 224 0.7,1,1.4' with scales")
    p.add_argument("-o", "--output", metavar="DIR", help="where --int8 and --see write")

    p = _verb(
        verbs,
        bench,
        "wingbar bench encode general photos/ --json\nwingbar bench hamming --items 1000000 --bits 48 --centres 10000",
    )
    whats = p.add_subparsers(dest="what", metavar="WHAT", required=True)
    p = _sub(whats, "encode", "Images a second of decoding, encoding and both, beside PyTorch.")
    p.add_argument("model", metavar="MODEL", help="a model directory, or general")
    p.add_argument("images", metavar="IMAGES", help="a folder of pictures")
    p = _sub(whats, "search", "A server under load, beside what encoding alone can do.")
    p.add_argument("index", metavar="INDEX")
    p.add_argument("images", metavar="IMAGES", help="a folder of pictures that the clients search for")
    p.add_argument("--clients", type=_positive, default=32, help="clients that ask at the same time (default 32)")
    p.add_argument("--seconds", type=_positive, default=60, help="how long they ask (default 60)")
    p = _sub(whats, "hamming", "Exact Hamming search beside FAISS, usearch and NumPy, on synthetic codes.")
    p.add_argument("--items", type=_positive, default=1_000_000, help="codes in the gallery (default 1000000)")
    p.add_argument("--bits", type=_bits, default=48, help="code length (default 48)")
    p.add_argument("--centres", type=_count, default=0, help="codes fall around so many, as learned ones do (default 0: uniform)")
    p.add_argument("--flip", type=float, default=0.05, help="probability that a bit differs from its centre's (default 0.05)")
    p.add_argument("--k", type=_positive, default=10, help="neighbours (default 10)")
    p.add_argument("--radius", type=_count, default=2, help="of the radius search, inclusive (default 2)")
    p.add_argument("--threads", type=_positive, default=1, help="threads of every contestant (default 1)")
    p.add_argument("--peers", default=PEERS, help=f"comma list; those not installed are left out (default {PEERS})")
    p.add_argument("--seed", type=_count, default=0, help="draws the codes (default 0)")

    p = _verb(verbs, data, "wingbar data list\nwingbar data info cifar-10\nwingbar data fetch cifar-10 -o data/cifar-10")
    whats = p.add_subparsers(dest="what", metavar="WHAT", required=True)
    _sub(whats, "list", "The data sets that wingbar knows.")
    p = _sub(whats, "info", "Where a data set comes from, its licence, its files and their sums.")
    p.add_argument("name", metavar="NAME", help="as in wingbar data list")
    p = _sub(whats, "fetch", "Fetch a data set and unpack it; goes on where it was stopped.")
    p.add_argument("name", metavar="NAME", help="as in wingbar data list")
    p.add_argument("-o", "--output", metavar="DIR", help="the folder to make (default: NAME)")
    p.add_argument("--url", default="", help="a mirror: of the file, or of the folder with the files")

    p = _verb(
        verbs, serve, "wingbar serve photos.wb --open\nwingbar serve photos.wb --host 0.0.0.0 --token $(openssl rand -hex 16)"
    )
    p.add_argument("index", metavar="INDEX")
    p.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine only)")
    p.add_argument("--port", type=_port, default=8000, help="port; 0 takes a free one (default 8000)")
    p.add_argument("--token", help="whoever sends it may search and change the index (default: $WINGBAR_TOKEN)")
    p.add_argument("--read-token", help="whoever sends it may search only (default: $WINGBAR_READ_TOKEN)")
    p.add_argument("--public", action="store_true", help="anybody who reaches the server may search")
    p.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="another name of this server; may be repeated"
    )
    p.add_argument(
        "--cors", action="append", default=[], metavar="ORIGIN", help="pages from there may use the API; may be repeated"
    )
    p.add_argument("--open", action="store_true", help="open the page in a browser")

    p = _verb(verbs, demo, "wingbar demo\nwingbar demo --images photos/")
    p.add_argument("--no-serve", action="store_true", help="do not end in a server; it does so only on a terminal")
    p.add_argument("--images", metavar="DIR", help="show your own folder of images instead of the digits")
    p.add_argument("-o", "--output", default="wingbar-demo", metavar="DIR", help="where to write (default wingbar-demo)")
    p.add_argument("--bits", type=_bits, default=64, help="code length (default 64)")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def _positive(text: str) -> int:
    if _count(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _port(text: str) -> int:
    if _count(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _bits(text: str) -> int:
    if not 1 <= _count(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bits from 1 to 1024")
    return int(text)


def _verb(verbs: Any, run: Any, example: str) -> argparse.ArgumentParser:
    """A subcommand named after its function, described by its docstring, its help ending in an example."""
    text = run.__doc__.splitlines()[0]
    parser: argparse.ArgumentParser = verbs.add_parser(
        run.__name__,
        help=text,
        description=text,
        epilog="example:\n  " + example.replace("\n", "\n  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--debug", action="store_true", help="print a traceback when something goes wrong")
    parser.set_defaults(run=run)
    return parser


def _sub(whats: Any, name: str, text: str) -> argparse.ArgumentParser:
    """One thing that a verb does, with the flags that every verb has."""
    parser: argparse.ArgumentParser = whats.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--debug", action="store_true", help="print a traceback when something goes wrong")
    return parser


def _protocol_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--protocol", choices=PROTOCOLS, default="own", help="how the parts of a data set are made (default own)")


def _ranking_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fine", choices=FINE, help="second stage: none, ties, pool or asymmetric (default: what the model says)"
    )
    parser.add_argument("--shortlist", type=int, default=200, help="items that --fine pool orders anew (default 200)")
