"""A model of any image encoder in an ONNX file: its preprocessing, normalisation and pooling become
part of the graph, so that it takes pixels and gives a unit feature as every model does. An encoder
of images and texts brings its text tower along (text.py).

Needs the onnx package (extra `import`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.errors import ModelError, one_line
from wingbar.model import proof, runtime
from wingbar.model.model import MAX_BYTES, Float32, Model, preprocessing_record, with_record
from wingbar.model.text import TOKENIZER, TOWER, TextEncoder, TextForm
from wingbar.parallel import cores

if TYPE_CHECKING:
    import onnx

Pool = Literal["", "cls", "mean"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)

# Outputs by the names that exporters of encoders give them, the first that is there is taken.
OUTPUTS = ("image_embeds", "pooler_output", "last_hidden_state")
TEXT_OUTPUTS = ("text_embeds", "pooler_output")  # of text towers, likewise
PARITY = 1e-4  # by which a number of a feature may differ from what the graph gives by itself
_INEXACT = 0.02  # where it computes in 8 or 16 bits: a step of rounding more or less is no mistake
_INTEGER_KINDS = ("Quant", "Integer")  # parts of the names of operators of 8 bits
_INT64, _FLOAT16 = 7, 10  # of TensorProto; integers are shapes and axes, and no parameters
_OLDEST = 11  # opset: of what is put into a graph
_LARGEST_PART = 2**31 - 1  # bytes of a serialised graph
_OWN = "wingbar."  # begins the names of what is put into a graph
_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


@dataclass(frozen=True, kw_only=True)
class Form:
    """What an encoder wants and what is taken of it.

    preprocessing: how pictures become squares of pixels
    scale: what pixels from 0 to 255 are multiplied with
    mean, std: of the scaled pixels, by channel: the network gets (scale * pixel - mean) / std. One
        that takes uint8 gets the pixels themselves, and normalises them itself.
    layout: "nchw" or "nhwc", "" to tell it by the input's shape
    output: name of the output, "" for the first of OUTPUTS, or the only one
    pool: of an output with a vector for each token, "cls" for the first, "mean" for the mean of the
        patches; of a map of features, "mean"; "" for an output that is one vector
    skip: tokens before those of the patches, which the mean leaves out
    """

    preprocessing: images.Preprocessing
    scale: float = 1 / 255
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    layout: Literal["", "nchw", "nhwc"] = ""
    output: str = ""
    pool: Pool = ""
    skip: int = 1

    def __post_init__(self) -> None:
        numbers = (self.scale, *self.mean, *self.std)
        if not all(map(math.isfinite, numbers)) or min(self.std) <= 0 or self.scale <= 0:
            raise ModelError(f"scale and std are above 0, and all numbers finite, not {self}")
        if self.preprocessing.whole:
            raise ModelError("an imported encoder sees squares, not whole pictures")


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The text tower that an encoder brings.

    network: its ONNX file, which may be that of the images.
    tokenizer: a tokenizer.json.
    form: how texts become tokens; an `output` of "" is the first of TEXT_OUTPUTS, or the only one.
    """

    network: Path
    tokenizer: Path
    form: TextForm


def from_onnx(
    path: str | os.PathLike[str],
    form: Form,
    name: str,
    source: Mapping[str, Any] | None = None,
    texts: Texts | None = None,
) -> Model:
    """The model of the encoder in an ONNX file, with a proof of what this machine computes.

    Weights in files beside it are taken in. Of a file with several towers, the one that the output
    is made by is taken. `name` is what the model is called; `source` is kept in its record: where
    it is from, its licence. Raises ModelError for a graph that does not take one batch of pictures,
    whose output is not as `form` says, or that is larger than an index takes; and for `texts` whose
    features are not as long as those of images.
    """
    graph = _tower_of(_read(Path(path)), form.output, OUTPUTS)
    given = _encoder_of(graph, form)
    network = _wrapped(graph, form, given)
    if len(network) > MAX_BYTES:
        raise ModelError(
            f"{path} holds {len(network):,} bytes with its weights, over the limit of "
            f"{MAX_BYTES:,}: import a smaller version of it, as float16 or int8"
        )
    parameters = sum(
        math.prod(tensor.dims) for tensor in graph.graph.initializer if tensor.data_type != _INT64
    )
    record = {
        "name": name,
        "method": "itq",
        "backbone": name,
        "dim": given.dim,
        "classes": [],
        "parameters": parameters,
        "preparation": preprocessing_record(form.preprocessing),
        "fine": "pool",
        "imported": {
            **(source or {}),
            "layout": given.layout,
            "input": str(np.dtype(given.type)),
            "output": given.output,
            "pool": form.pool,
            "scale": form.scale,
            "mean": list(form.mean),
            "std": list(form.std),
        },
    } | ({"batch": given.batch} if given.batch else {})
    model = proof.proven(Model(with_record({"model.onnx": network}, record)))
    _check_parity(model, graph, form, given)
    return model if texts is None else _with_texts(model, texts)


def read_preprocessor(path: str | os.PathLike[str]) -> Form:
    """The Form that a preprocessor_config.json of Hugging Face describes, but for the output.
    Raises ModelError for a way to prepare pictures that wingbar does not have."""
    try:
        config = json.loads(Path(path).read_bytes())
        if not isinstance(config, dict):
            raise ValueError("it is no JSON object")
        return _form_of(config)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(
            f"{path} does not say how to prepare pictures ({one_line(error)}): give --size, "
            "--mean and --std in its place"
        ) from None


# -- the preprocessing of Hugging Face


def _form_of(config: Mapping[str, Any]) -> Form:
    known = {2: False, 3: True}  # Pillow's numbers of bilinear and bicubic
    if config.get("do_resize", True) and config.get("resample") not in known:
        raise ValueError(f"resample is {config.get('resample')!r}, not 2 or 3")
    seen = _preprocessing_of(config, known.get(config.get("resample", 2), False))
    scale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if config.get("do_normalize", True):
        mean, std = (_three(config[key]) for key in ("image_mean", "image_std"))
    return Form(preprocessing=seen, scale=scale, mean=mean, std=std)


def _preprocessing_of(config: Mapping[str, Any], bicubic: bool) -> images.Preprocessing:
    size, crop = config.get("size", 224), config.get("crop_size", config.get("size", 224))
    crops = config.get("do_center_crop", "crop_size" in config)
    if isinstance(size, dict) and "shortest_edge" in size:
        edge = int(size["shortest_edge"])
        if "crop_pct" in config:  # ConvNeXt's own way
            share = config["crop_pct"] or 224 / 256
            return images.Preprocessing(size=edge, edge=int(edge / share), bicubic=bicubic)
        if not crops:
            raise ValueError("it keeps the shape of the picture")
        return images.Preprocessing(size=_side(crop), edge=edge, bicubic=bicubic)
    side = _side(size)
    if crops and isinstance(size, int):
        return images.Preprocessing(size=_side(crop), edge=side, bicubic=bicubic)
    if crops and _side(crop) != side:
        raise ValueError("it crops a picture that was squeezed into a square")
    return images.Preprocessing(size=side, squash=True, bicubic=bicubic)


def _side(size: Any) -> int:
    """The side of a square that is given as a number, or as height and width."""
    if isinstance(size, dict):
        height, width = size["height"], size["width"]
        if height != width:
            raise ValueError(f"{width} x {height} is no square")
        return int(height)
    return int(size)


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


# -- texts


def _with_texts(model: Model, texts: Texts) -> Model:
    """The model with a text tower. Raises ModelError when it cannot be used."""
    graph = _tower_of(_read(texts.network), texts.form.output, TEXT_OUTPUTS)
    output = _output_of([one.name for one in graph.graph.output], texts.form.output, TEXT_OUTPUTS)
    form = replace(texts.form, output=output)
    network = _serialised(graph)
    runtime.check_network(network, TOWER)
    try:
        tokenizer = texts.tokenizer.read_bytes()
    except OSError as error:
        raise ModelError(f"{texts.tokenizer} cannot be read ({error.strerror})") from None
    for name, data in ((texts.network, network), (texts.tokenizer, tokenizer)):
        if len(data) > MAX_BYTES:
            raise ModelError(f"{name} holds {len(data):,} bytes, over the limit of {MAX_BYTES:,}")
    found = TextEncoder(network, tokenizer, form, model.name, cores()).encode("a photo of a cat")
    if len(found) != model.dim:
        raise ModelError(
            f"the features of texts have {len(found):,} numbers and those of images {model.dim:,}: "
            "take the projected outputs of both (image_embeds and text_embeds)"
        )
    return model.altered({TOWER: network, TOKENIZER: tokenizer}, {"text": form.record()})


# -- graphs


@dataclass(frozen=True)
class _Encoder:
    """What a graph was found to be. input, output: their names. type: of the numbers it takes.
    layout: "nchw" or "nhwc". batch: 1 for a graph of one picture, else 0. rank: of its output.
    dim: length of the feature."""

    input: str
    type: type[np.generic]
    layout: str
    batch: int
    output: str
    rank: int
    dim: int


def _read(path: Path) -> onnx.ModelProto:
    """A graph with all of its weights inside. Raises ModelError."""
    onnx = _onnx()
    try:
        graph = onnx.load(str(path), load_external_data=False)
        # onnx takes in no file from outside of the folder
        onnx.load_external_data_for_model(graph, str(path.parent))
        if not graph.graph.node:
            raise ModelError(f"{path} is not an ONNX network: it has no nodes")
    except ModelError:
        raise
    except OSError as error:
        missing = error.filename or path
        raise ModelError(f"{missing} cannot be read ({error.strerror or error})") from None
    except Exception as error:  # protobuf and onnx raise kinds of their own
        raise ModelError(f"{path} is not an ONNX network ({one_line(error)})") from None
    return graph


def _onnx() -> Any:
    try:
        import onnx
        import onnx.compose
    except ImportError:
        raise ModelError("importing needs onnx: run pip install 'wingbar[import]'") from None
    return onnx


def _encoder_of(graph: onnx.ModelProto, form: Form) -> _Encoder:
    """What a graph takes and gives, found by running it on one black picture."""
    network = _serialised(graph)
    runtime.check_network(network)
    session = runtime.open_session(network, cores(), "this encoder")
    if len(session.get_inputs()) != 1:
        names = ", ".join(one.name for one in session.get_inputs())
        raise ModelError(
            f"the network takes {names}, not a batch of pictures alone: import the part of it that "
            "encodes images"
        )
    taken = session.get_inputs()[0]
    if len(taken.shape) != 4 or taken.type not in _TYPES:
        raise ModelError(
            f"the network takes {taken.type} of shape {taken.shape}, not pictures [B, 3, H, W] or "
            "[B, H, W, 3] of float, float16 or uint8"
        )
    size = form.preprocessing.size
    layout = form.layout or ("nhwc" if taken.shape[3] == 3 else "nchw")
    wanted = (3, size, size) if layout == "nchw" else (size, size, 3)
    for has, wants in zip(taken.shape[1:], wanted, strict=True):
        if isinstance(has, int) and has not in (wants, -1):
            raise ModelError(
                f"the network takes pictures of shape {taken.shape[1:]}, not {list(wanted)}: give "
                "its --size, and --layout where that is not told by its shape"
            )
    batch = taken.shape[0] if isinstance(taken.shape[0], int) and taken.shape[0] > 0 else 0
    if batch > 1:
        raise ModelError(
            f"the network takes batches of {batch} only: export it for one picture, or for any "
            "number"
        )
    output = _output_of([one.name for one in session.get_outputs()], form.output)
    black = np.zeros((1, *wanted), _TYPES[taken.type])
    found = _run(session, output, taken.name, black)
    rank, dim = _pooled_length(output, found.shape, form, layout)
    return _Encoder(taken.name, _TYPES[taken.type], layout, batch, output, rank, dim)


def _tower_of(graph: onnx.ModelProto, wanted: str, known: Sequence[str]) -> onnx.ModelProto:
    """The part of a graph of several inputs that one of its outputs is made by; the graph itself
    where it has one input, or that part needs all of them."""
    inside = graph.graph
    weights = {tensor.name for tensor in inside.initializer}
    inputs = [one.name for one in inside.input if one.name not in weights]
    if len(inputs) == 1:
        return graph
    output = _output_of([one.name for one in inside.output], wanted, known)
    maker = {name: i for i, node in enumerate(inside.node) for name in node.output}
    waiting, needed = [output], {output}
    while waiting:
        place = maker.get(waiting.pop())
        new = set() if place is None else _taken_by(inside.node[place]) - needed
        needed |= new
        waiting += new
    part = type(graph)()
    part.CopyFrom(graph)
    for field in ("node", "initializer", "input", "output", "value_info"):
        del getattr(part.graph, field)[:]
    part.graph.node.extend(node for node in inside.node if needed & set(node.output))
    for field in ("initializer", "input"):
        getattr(part.graph, field).extend(
            one for one in getattr(inside, field) if one.name in needed
        )
    part.graph.output.extend(one for one in inside.output if one.name == output)
    return part


def _taken_by(node: onnx.NodeProto) -> set[str]:
    """The names of the tensors that a node takes, and those that graphs inside of it do."""
    taken = set(node.input) - {""}
    for attribute in node.attribute:
        for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            taken |= {name for one in inner.node for name in _taken_by(one)}
            taken |= {one.name for one in inner.output}
    return taken


def _output_of(names: Sequence[str], wanted: str, preferred: Sequence[str] = OUTPUTS) -> str:
    if wanted and wanted not in names:
        raise ModelError(f"the network has no output {wanted!r}: it has {', '.join(names)}")
    if wanted or len(names) == 1:
        return wanted or names[0]
    known = next((name for name in preferred if name in names), None)
    if known is None:
        raise ModelError(f"name the output to --take, one of {', '.join(names)}")
    return known


def _pooled_length(output: str, shape: tuple[int, ...], form: Form, layout: str) -> tuple[int, int]:
    """The rank of an output, and the length of the feature that is taken of it. Raises ModelError
    when the form does not fit it."""
    rank, pool = len(shape), form.pool
    if rank == 2 and not pool:
        return rank, shape[1]
    if rank == 3 and pool and shape[1] > (form.skip if pool == "mean" else 0):
        return rank, shape[2]
    if rank == 4 and pool == "mean":
        return rank, shape[1] if layout == "nchw" else shape[3]
    advice = {
        2: "it is one vector already: leave --pool out",
        3: "it has a vector for each token: add --pool cls, or --pool mean with as many --skip as "
        "there are tokens before the patches",
        4: "it is a map of features: add --pool mean",
    }.get(rank, "--take another")
    raise ModelError(f"the output {output} of one picture has the shape {list(shape)}: {advice}")


def _wrapped(graph: onnx.ModelProto, form: Form, given: _Encoder) -> bytes:
    """The graph from pixels [B, H, W, 3] uint8 to unit features [B, d] float32."""
    onnx = _onnx()
    if _opset(graph) < _OLDEST:
        raise ModelError(
            f"the network is of opset {_opset(graph)}: export it as {_OLDEST} or later"
        )
    wrapped = onnx.ModelProto()
    wrapped.CopyFrom(graph)
    wrapped.ir_version = max(wrapped.ir_version, 4)  # where weights are no longer inputs
    entry, exit_ = given.input, given.output
    if any(name in ("pixels", "feature") or name.startswith(_OWN) for name in _names(wrapped)):
        wrapped = onnx.compose.add_prefix(wrapped, prefix="encoder.")
        entry, exit_ = f"encoder.{entry}", f"encoder.{exit_}"
    inside, builder = wrapped.graph, _Builder()
    builder.before(form, given, entry)
    before = builder.taken()
    builder.after(form, given, exit_, _opset(wrapped))
    nodes = [*before, *inside.node, *builder.taken()]
    del inside.node[:]
    inside.node.extend(nodes)
    inside.initializer.extend(builder.constants)
    del inside.input[:]
    size = form.preprocessing.size
    types, info = onnx.TensorProto, onnx.helper.make_tensor_value_info
    inside.input.append(info("pixels", types.UINT8, [given.batch or "B", size, size, 3]))
    del inside.output[:]
    inside.output.append(info("feature", types.FLOAT, [given.batch or "B", given.dim]))
    return _serialised(wrapped)


class _Builder:
    """Nodes and constants that are put before and after a graph, under names of their own."""

    def __init__(self) -> None:
        self.constants: list[onnx.TensorProto] = []
        self._nodes: list[onnx.NodeProto] = []

    def taken(self) -> list[onnx.NodeProto]:
        """The nodes since the last call."""
        nodes, self._nodes = self._nodes, []
        return nodes

    def before(self, form: Form, given: _Encoder, entry: str) -> None:
        """From pixels to what the graph takes, `entry`."""
        types = _onnx().TensorProto
        last = "pixels"
        if given.type is not np.uint8:
            std = np.array(form.std, np.float64)
            factor, offset = form.scale / std, -np.array(form.mean) / std
            last = self._node("Cast", [last], to=types.FLOAT)
            last = self._node("Mul", [last, self._constant(factor.astype(np.float32))])
            last = self._node("Add", [last, self._constant(offset.astype(np.float32))])
        if given.layout == "nchw":
            last = self._node("Transpose", [last], perm=[0, 3, 1, 2])
        if given.type is np.float16:
            last = self._node("Cast", [last], to=types.FLOAT16)
        self._node("Identity", [last], name=entry)

    def after(self, form: Form, given: _Encoder, exit_: str, opset: int) -> None:
        """From an output of the graph to "feature"."""
        last = self._node("Cast", [exit_], to=_onnx().TensorProto.FLOAT)
        if form.pool == "cls":
            last = self._node("Gather", [last, self._constant(np.array(0, np.int64))], axis=1)
        elif form.pool == "mean" and given.rank == 3:
            ends = [np.array([number], np.int64) for number in (form.skip, 2**31 - 1, 1)]
            last = self._node("Slice", [last, *map(self._constant, ends)])
            last = self._mean(last, [1], opset)
        elif form.pool == "mean":
            last = self._mean(last, [2, 3] if given.layout == "nchw" else [1, 2], opset)
        self._node("LpNormalization", [last], name="feature", axis=1, p=2)

    def _mean(self, last: str, axes: list[int], opset: int) -> str:
        if opset < 18:  # where axes became an input
            return self._node("ReduceMean", [last], axes=axes, keepdims=0)
        return self._node("ReduceMean", [last, self._constant(np.array(axes))], keepdims=0)

    def _node(self, kind: str, inputs: list[str], name: str = "", **attributes: Any) -> str:
        name = name or f"{_OWN}{kind}.{len(self._nodes)}.{inputs[0].removeprefix(_OWN)}"
        self._nodes.append(_onnx().helper.make_node(kind, inputs, [name], **attributes))
        return name

    def _constant(self, value: NDArray[Any]) -> str:
        name = f"{_OWN}constant.{len(self.constants)}"
        self.constants.append(_onnx().numpy_helper.from_array(value, name))
        return name


def _names(graph: onnx.ModelProto) -> set[str]:
    """The names of all tensors of a graph."""
    inside = graph.graph
    named = (*inside.initializer, *inside.input, *inside.output)
    outputs = (name for node in inside.node for name in node.output)
    return {one.name for one in named} | set(outputs)


def _opset(graph: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a graph uses."""
    own = (one.version for one in graph.opset_import if one.domain in ("", "ai.onnx"))
    return next(own, 0)


def _serialised(graph: onnx.ModelProto) -> bytes:
    if graph.ByteSize() > _LARGEST_PART:
        raise ModelError("the network has more than 2 GB of weights: import a smaller version")
    return graph.SerializeToString()


def _run(session: Any, output: str, name: str, batch: NDArray[Any]) -> Float32:
    try:
        return np.asarray(session.run([output], {name: batch})[0])
    except Exception as error:  # ONNX Runtime has an exception for each of its status codes
        raise ModelError(f"the network cannot be run ({one_line(error)})") from None


def _check_parity(model: Model, graph: onnx.ModelProto, form: Form, given: _Encoder) -> None:
    """Raise ModelError unless the model gives for pictures what the graph itself gives for pixels
    that NumPy normalised and whose output NumPy pooled."""
    session = runtime.open_session(_serialised(graph), cores(), model.name)
    expected = []
    pixels = [images.load(one, form.preprocessing) for one in proof.draw_pictures()]
    for one in pixels:
        x = one.astype(np.float64)
        if given.type is not np.uint8:
            x = (x * form.scale - form.mean) / form.std
        x = x.transpose(2, 0, 1) if given.layout == "nchw" else x
        found = _run(session, given.output, given.input, x[None].astype(given.type))
        expected.append(_pool(found[0].astype(np.float64), form, given))
    difference = float(np.abs(model.run(pixels) - np.stack(expected)).max())
    if not difference <= (PARITY if _is_exact(graph) else _INEXACT):
        raise ModelError(
            f"the imported network differs from the file's by {difference:.2g}: please report it"
        )


def _is_exact(graph: onnx.ModelProto) -> bool:
    """Whether a graph computes in float32 throughout."""
    is_integer = any(kind in node.op_type for node in graph.graph.node for kind in _INTEGER_KINDS)
    types = {tensor.data_type for tensor in graph.graph.initializer}
    types |= {one.type.tensor_type.elem_type for one in graph.graph.input}
    return not is_integer and _FLOAT16 not in types


def _pool(found: NDArray[np.float64], form: Form, given: _Encoder) -> NDArray[np.float64]:
    """The unit feature [d] of one picture's output."""
    if given.rank == 4:
        found = found.mean((1, 2) if given.layout == "nchw" else (0, 1))
    elif form.pool == "cls":
        found = found[0]
    elif form.pool == "mean":
        found = found[form.skip :].mean(0)
    return found / max(float(np.linalg.norm(found)), 1e-12)
