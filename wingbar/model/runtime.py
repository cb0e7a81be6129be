"""ONNX Runtime for private pictures and for networks of strangers: it sends nothing, and a network
reads no file but its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from wingbar.errors import ModelError, one_line

if TYPE_CHECKING:
    import onnxruntime

ACTIVATION = "wingbar_activation"  # the output that `with_activation` adds
POOLING = (b"GlobalAveragePool", b"GlobalMaxPool", b"ReduceMean")
PARTS = 500_000  # parts of a network that are looked at, at most; ResNet-50 has some 5,000

# ONNX Runtime resolves files of weights below this folder, which must not exist.
_NO_FOLDER = os.path.join(os.devnull, "no-files-beside-a-network")

# Which fields of ONNX's messages hold which messages (onnx.proto3), as far as tensors are in them.
MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL = (13, 14)  # the fields of a tensor that name a file: external_data, data_location


def open_session(
    network: bytes, threads: int, name: str, *, precise: bool = False
) -> onnxruntime.InferenceSession:
    """A session that runs an ONNX graph on `threads` CPU cores, with telemetry off. `name` is that
    of the model, for messages. With `precise`, int8 sums saturate on no CPU, which is slower.

    Raises ModelError for what ONNX Runtime cannot load. `check_network` must have passed.
    """
    # `import wingbar` has switched telemetry off. Where something else imported ONNX Runtime
    # before, this stops what can still be stopped.
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised as well
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", _NO_FOLDER
    )
    options.add_session_config_entry("session.x64quantprecision", "1" if precise else "0")
    try:
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has an exception for each of its status codes
        raise ModelError(
            f"the network of {name} cannot be loaded ({one_line(error)}): copy the model again"
        ) from None


def check_network(network: bytes, name: str = "model.onnx") -> None:
    """Raise ModelError unless an ONNX graph holds all of its weights itself.

    A graph may name files that hold its weights, and ONNX Runtime reads them: a network of a
    stranger could bring any file of this machine into the features that it gives. `name` is that
    of the file, for messages.
    """
    try:
        outside = _names_files(network)
    except (ValueError, IndexError) as error:
        raise ModelError(
            f"{name} is not an ONNX network ({one_line(error)}): copy the model again"
        ) from None
    if outside:
        raise ModelError(
            f"{name} reads its weights from other files, which wingbar does not allow: save it "
            "with its weights inside"
        )


def with_activation(network: bytes) -> bytes | None:
    """An ONNX graph with one more output, ACTIVATION: what its last pooling averages, which in a
    convolutional network is the map that the feature comes from. None for a graph without pooling.

    Raises ValueError or IndexError for bytes that are no protocol buffer.
    """
    pooled = None
    for place in _inside(network, _inside(network, (0, len(network)), 7)[0], 1):
        op = (_inside(network, place, 4) or [(0, 0)])[-1]
        if network[op[0] : op[1]] in POOLING:
            first = _inside(network, place, 1)[0]
            pooled = network[first[0] : first[1]]
    if pooled is None:
        return None
    # Messages that follow each other are merged: the graph gets a node that names the map, and an
    # output of this name.
    name = ACTIVATION.encode()
    node = _field(1, pooled) + _field(2, name) + _field(4, b"Identity")
    graph = _field(1, node) + _field(12, _field(1, name))
    return network + _field(7, graph)


def _inside(message: bytes, span: tuple[int, int], number: int) -> list[tuple[int, int]]:
    """Start and end of each field of that number in the protocol buffer message[start:end]."""
    fields = _fields(message, *span)
    return [
        (value, value + size)
        for field, value, size in fields
        if field == number and size is not None
    ]


def _field(number: int, data: bytes) -> bytes:
    """Bytes or a message as a field of a protocol buffer."""
    length, size = b"", len(data)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def _names_files(network: bytes) -> bool:
    """Whether any tensor in a serialized ModelProto has its data in a file. Raises ValueError or
    IndexError for bytes that are no protocol buffer."""
    waiting, count = [("model", 0, len(network))], 0
    while waiting:
        kind, start, end = waiting.pop()
        inside = MESSAGES[kind]
        for field, value, size in _fields(network, start, end):
            count += 1
            if count > PARTS:
                raise ValueError(f"more than {PARTS:,} parts")
            # data_location is 0 where the data is inside
            if kind == "tensor" and field in _EXTERNAL and (value or size is not None):
                return True
            if size is not None and field in inside:
                waiting.append((inside[field], value, value + size))
    return False


def _fields(message: bytes, at: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """The fields of the protocol buffer message[at:end]: number, value and None; of those that are
    not integers of variable length, the place of their bytes and how many."""
    while at < end:
        tag, at = _varint(message, at) if message[at] > 127 else (message[at], at + 1)
        field, kind = (tag & 0xFFFFFFFF) >> 3, tag & 7
        if kind == 0:
            value, at = _varint(message, at) if message[at] > 127 else (message[at], at + 1)
            size = None
        else:
            if kind == 2:
                size, at = _varint(message, at) if message[at] > 127 else (message[at], at + 1)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise ValueError(f"a field of the unknown type {kind}")
            value = at
            at += size
        if not field or at > end:
            raise ValueError("it ends too early")
        yield field, value, size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The integer of several bytes at a place of a protocol buffer, and the place behind it."""
    if message[at + 1] < 128:  # two bytes, as most are
        return message[at] & 127 | message[at + 1] << 7, at + 2
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
    raise ValueError("a number of more than 64 bits")
