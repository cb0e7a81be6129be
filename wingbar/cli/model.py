"""The verbs `model import` and `model list`."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wingbar.cli.options import Group, Verb, positive_number, refuse_flags, whole_number
from wingbar.cli.output import (
    model_record,
    print_message,
    print_result,
    progress_bars,
    require_new_model,
)
from wingbar.errors import ModelError, WingbarError

if TYPE_CHECKING:
    from wingbar.data.encoders import KnownEncoder
    from wingbar.model.imported import Form, Texts
    from wingbar.model.model import Model

# flags that only one kind of source has a use for
_OF_NAMES = ("--accept-licence", "--hub", "--revision", "--sha256", "--no-text")
_OF_FILES = (
    "--preprocessor",
    "--size",
    "--edge",
    "--squash",
    "--bicubic",
    "--mean",
    "--std",
    "--to-255",
    "--layout",
    "--take",
    "--pool",
    "--text",
    "--tokenizer",
    "--tokens",
    "--pad-token",
    "--lower",
    "--take-text",
)

# -- model import


def import_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `model import`."""
    parser.add_argument(
        "source",
        metavar="NAME|FILE",
        nargs="?",
        help="a name from wingbar model list, an ONNX file, or a TorchScript file (.pt)",
    )
    parser.add_argument(
        "--torch",
        metavar="NAME",
        help="a network of timm or torchvision instead, as timm:NAME or torchvision:NAME; the "
        "library fetches its weights",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="the model directory to create (default: one of the model's name in the folder of "
        "models, where --model NAME finds it and index --for tries it)",
    )
    parser.add_argument("--name", help="what the model is called (default: the name of the source)")
    fetched = parser.add_argument_group("of encoders by name")
    fetched.add_argument(
        "--accept-licence",
        action="store_true",
        help="you have read and accept a licence that is not permissive",
    )
    fetched.add_argument("--hub", metavar="URL", help="a mirror of the hub")
    fetched.add_argument("--revision", help="another commit or branch than the known one")
    fetched.add_argument(
        "--sha256", default="", help="checksum that the network's file must have, or its beginning"
    )
    fetched.add_argument(
        "--no-text", action="store_true", help="leave the text tower out, where there is one"
    )
    seen = parser.add_argument_group("how a file wants its pictures")
    seen.add_argument(
        "--preprocessor",
        metavar="FILE",
        help="a preprocessor_config.json of Hugging Face (default: one beside the file, or in the "
        "folder above)",
    )
    seen.add_argument("--size", type=positive_number, help="side of the square in pixels")
    seen.add_argument(
        "--edge",
        type=positive_number,
        help="length to which the short side is scaled before the square is cut out (default: "
        "--size)",
    )
    seen.add_argument(
        "--squash", action="store_true", help="squeeze the picture into the square, without a cut"
    )
    seen.add_argument("--bicubic", action="store_true", help="scale bicubic, not bilinear")
    seen.add_argument(
        "--mean", metavar="R,G,B", help="of pixels from 0 to 1 (default ImageNet's), 0,0,0 for none"
    )
    seen.add_argument("--std", metavar="R,G,B", help="the same; 1,1,1 for none")
    seen.add_argument(
        "--to-255", action="store_true", help="the network takes pixels from 0 to 255, not to 1"
    )
    seen.add_argument(
        "--layout", choices=("nchw", "nhwc"), help="order of the input's axes (default: by shape)"
    )
    taken = parser.add_argument_group("what is taken of a file")
    taken.add_argument("--take", metavar="OUTPUT", help="name of the output (default: by its name)")
    taken.add_argument(
        "--pool",
        choices=("cls", "mean"),
        help="of a vector for each token: the first, or the mean of the patches",
    )
    taken.add_argument(
        "--skip",
        type=whole_number,
        default=1,
        help="tokens before the patches, which --pool mean leaves out (default 1)",
    )
    texts = parser.add_argument_group("texts, of a file's own tower for them")
    texts.add_argument(
        "--text", metavar="FILE", help="the ONNX file of the text tower, perhaps the same file"
    )
    texts.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="its tokenizer.json (default: one beside the file, or in the folder above)",
    )
    texts.add_argument(
        "--tokens", type=positive_number, help="number of tokens that it takes (CLIP: 77)"
    )
    texts.add_argument(
        "--pad-token", metavar="TOKEN", help="what fills them up (default: as in the tokenizer)"
    )
    texts.add_argument("--lower", action="store_true", help="make texts lower case first")
    texts.add_argument(
        "--take-text", metavar="OUTPUT", help="name of the output (default: by its name)"
    )


def import_model(args: argparse.Namespace) -> int:
    """Make a model directory of an encoder that was made elsewhere."""
    if (args.source is None) == (args.torch is None):
        raise WingbarError(
            "name an encoder (wingbar model list) or a file, or a network by --torch"
        )
    output = _default_output(args) if args.output is None else Path(args.output)
    try:
        require_new_model(output)
    except WingbarError as error:
        if args.output is not None:
            raise
        raise WingbarError(
            f"{error} by -o, or a folder for installed models by WINGBAR_MODELS"
        ) from None
    if args.torch is not None:
        refuse_flags(args, (*_OF_NAMES, *_OF_FILES), "is of no use with --torch")
        model = _foreign().from_library(args.torch, args.name or "")
    elif Path(args.source).suffix in (".onnx", ".pt"):
        refuse_flags(args, _OF_NAMES, "is for encoders by name")
        path = Path(args.source)
        if not path.is_file():
            raise WingbarError(f"there is no file {path}")
        form, texts = _form_from_flags(args, path), _texts_from_flags(args)
        model = _imported(path, form, args.name or path.stem, {}, texts)
    else:
        refuse_flags(args, _OF_FILES, "is for files")
        model = _fetched(args, output)
    model.save(output)
    record = {**model_record(model), "directory": str(output)}
    print_result(args, record, _imported_text(model, output, args.output is None))
    return 0


IMPORT = Verb(
    name="import",
    summary="Make a model of an image encoder: by name, of an ONNX file, of timm or torchvision.",
    examples="wingbar model import dinov2-small\n"
    "wingbar index photos.wb photos/ --model dinov2-small\n"
    "wingbar model import model.onnx --size 224 --pool cls -o models/own",
    flags=import_flags,
    run=import_model,
)


# -- model list


def list_flags(parser: argparse.ArgumentParser) -> None:
    """`model list` has no flags of its own."""


def list_encoders(args: argparse.Namespace) -> int:
    """Print what is known about each encoder, and which models are installed."""
    from wingbar.data.encoders import ENCODERS
    from wingbar.model import installed

    known = list(ENCODERS.values())
    there = [one.name for one in installed.installed()]
    record = {
        "encoders": [{**asdict(one), "urls": one.urls()} for one in known],
        "folder": str(installed.folder()),
        "installed": there,
    }
    found = installed.problem_with_folder() or (
        f"In {installed.folder()}: {', '.join(there) or 'no models'}"
    )
    lines = [*map(_line, known), found]
    print_result(args, record, "\n".join(lines))
    return 0


LIST = Verb(
    name="list",
    summary="List the encoders that can be imported by name, and the models that are installed.",
    examples="wingbar model list",
    flags=list_flags,
    run=list_encoders,
)


# -- both of them

MODEL = Group(
    name="model",
    summary="Import an image encoder that was made elsewhere, or list those that are known.",
    examples="wingbar model list\nwingbar model import dinov2-small -o models/dinov2",
    verbs=(IMPORT, LIST),
)


def _default_output(args: argparse.Namespace) -> Path:
    """The directory of a model's own name in the folder of models."""
    from wingbar.model.installed import folder

    source = Path(args.source or args.torch.split(":")[-1])
    is_file = source.suffix in (".onnx", ".pt")
    name: str = args.name or (source.stem if is_file else source.name)
    if Path(name).name != name or name in ("general", ".."):
        raise WingbarError(f"{name!r} cannot be the name of a directory: name one by -o")
    return folder() / name


def _line(encoder: KnownEncoder) -> str:
    text = f"; texts, {encoder.text.about} more" if encoder.text else ""
    return f"{encoder.name:13}  {encoder.title}; {encoder.about}{text}; {encoder.licence}"


def _fetched(args: argparse.Namespace, output: Path) -> Model:
    """The model of an encoder by name, whose files are fetched and then removed."""
    from wingbar.data import encoders

    encoder = encoders.get(args.source)
    hub = args.hub or encoders.HUB
    url = encoder.urls(hub, args.revision or "")[0]
    told = f"{encoder.name}: {encoder.title}, under {encoder.licence}"
    if not encoder.is_permissive and not args.accept_licence:
        raise WingbarError(
            f"{told}, which does not allow every use: read it at {encoder.page}, and add "
            "--accept-licence if you accept it"
        )
    takes_text = encoder.text is not None and not args.no_text
    more = f", and {encoder.text.about} for texts" if encoder.text and takes_text else ""
    print_message(f"{told}; fetching {encoder.about} from {url}{more}")
    folder = output / "fetched"
    with progress_bars() as progress:
        found = encoders.fetch(
            encoder,
            folder,
            hub=hub,
            revision=args.revision or "",
            sha256=args.sha256,
            texts=takes_text,
            progress=progress,
        )
    if not args.sha256 and not encoder.sha256:
        print_message(
            f"no checksum of this file was known; it has sha256 {found.sha256}, which --sha256 "
            "compares the next time"
        )
    source = {
        "from": found.url,
        "bytes": found.size,
        "sha256": found.sha256,
        "licence": encoder.licence,
    }
    texts = _texts_of(encoder, found.text, found.tokenizer)
    model = _imported(found.path, _form_of(encoder), args.name or encoder.name, source, texts)
    shutil.rmtree(folder)
    return model


def _imported(
    path: Path, form: Form, name: str, source: dict[str, Any], texts: Texts | None
) -> Model:
    if path.suffix == ".pt":
        if texts is not None:
            raise WingbarError("--text goes with an ONNX file, not with a TorchScript file")
        return _foreign().from_torchscript(path, form, name, source)
    from wingbar.model.imported import from_onnx

    return from_onnx(path, form, name, source, texts)


def _foreign() -> Any:
    """The module of the extra `train`."""
    try:
        from wingbar.training import foreign
    except ImportError as error:
        raise WingbarError(f"this needs {error.name}: run pip install 'wingbar[train]'") from None
    return foreign


def _form_of(encoder: KnownEncoder) -> Form:
    from wingbar.model.imported import Form

    return Form(
        preprocessing=encoder.preprocessing,
        mean=encoder.mean,
        std=encoder.std,
        output=encoder.output,
        pool=encoder.pool,
    )


def _texts_of(encoder: KnownEncoder, network: Path | None, tokenizer: Path | None) -> Texts | None:
    """The text tower of an encoder by name, whose files were fetched."""
    from wingbar.model.imported import Texts
    from wingbar.model.text import TextForm

    known = encoder.text
    if known is None or network is None or tokenizer is None:
        return None
    form = TextForm(
        tokens=known.tokens,
        pad=known.pad,
        lower=known.lower,
        attends=known.attends,
        output=known.output,
    )
    return Texts(network=network, tokenizer=tokenizer, form=form)


def _texts_from_flags(args: argparse.Namespace) -> Texts | None:
    """The text tower that flags name."""
    from wingbar.model.imported import Texts
    from wingbar.model.text import TOKENIZER, TextForm, default_pad

    if args.text is None:
        flags = ("--tokenizer", "--tokens", "--pad-token", "--lower", "--take-text")
        refuse_flags(args, flags, "goes with --text")
        return None
    network = Path(args.text)
    beside = [folder / TOKENIZER for folder in (network.parent, network.parent.parent)]
    tokenizer = Path(args.tokenizer or next((one for one in beside if one.is_file()), ""))
    if args.tokens is None or not tokenizer.is_file():
        raise WingbarError(
            "--text needs the tower's --tokens (CLIP: 77, SigLIP: 64), and a tokenizer.json beside "
            "it or a --tokenizer"
        )
    pad = args.pad_token or default_pad(tokenizer.read_bytes())
    form = TextForm(tokens=args.tokens, pad=pad, lower=args.lower, output=args.take_text or "")
    return Texts(network=network, tokenizer=tokenizer, form=form)


def _form_from_flags(args: argparse.Namespace, path: Path) -> Form:
    """How a file wants its pictures, by a preprocessor_config.json, and by what flags say beyond
    it."""
    from wingbar.images import Preprocessing
    from wingbar.model.imported import Form, read_preprocessor

    beside = [folder / "preprocessor_config.json" for folder in (path.parent, path.parent.parent)]
    config = args.preprocessor or next((one for one in beside if one.is_file()), "")
    if args.size is None and not config:
        raise WingbarError(
            f"how {path} wants its pictures is not known: put its preprocessor_config.json beside "
            "it, or give --size, and what else is not as usual"
        )
    if args.size is None and (args.edge or args.squash or args.bicubic):
        raise WingbarError("--edge, --squash and --bicubic go with --size")
    try:
        if args.size is None:
            form = read_preprocessor(config)
        else:
            edge = args.edge or (0 if args.squash else args.size)
            form = Form(
                preprocessing=Preprocessing(
                    size=args.size, edge=edge, squash=args.squash, bicubic=args.bicubic
                )
            )
    except ValueError as error:
        raise ModelError(str(error)) from None
    return replace(
        form,
        scale=1.0 if args.to_255 else form.scale,
        mean=_three(args.mean, "--mean") or form.mean,
        std=_three(args.std, "--std") or form.std,
        layout=args.layout or "",
        output=args.take or "",
        pool=args.pool or "",
        skip=args.skip,
    )


def _three(text: str | None, flag: str) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        raise WingbarError(f"{flag} is three numbers, as 0.5,0.5,0.5, not {text!r}") from None
    return red, green, blue


def _imported_text(model: Model, path: Path, is_installed: bool) -> str:
    from wingbar.model.fitting import BITS

    name = path.name if is_installed else path
    lines = [f"{path}: {model}, features of {model.dim:,} numbers"]
    if model.batch == 1:
        lines.append(
            "Pictures are encoded one by one, since the network takes one, or what it gives "
            "depends on the others in a batch."
        )
    if model.has_text:
        lines.append('It knows texts: wingbar search photos.wb --text "red dress"')
    few = f" --bits {model.longest_code}" if model.longest_code < BITS else ""
    lines.append(f"Next: wingbar index photos.wb photos/ --model {name}{few}")
    return "\n".join(lines)
