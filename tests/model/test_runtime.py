"""ONNX Runtime for private pictures and for networks of strangers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from wingbar.errors import ModelError
from wingbar.model import runtime
from wingbar.model.model import GENERAL

ROOT = Path(__file__).parent.parent.parent

ENCODE = """
import sys, time
{first}
import numpy as np
from wingbar.model.model import Model
Model.load().run([np.zeros((224, 224, 3), np.uint8)])
time.sleep({wait})
"""


class Proxy:
    """A listener on this machine that answers every caller with 403 and lets nothing out."""

    def __init__(self) -> None:
        self.callers: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def _listen(self) -> None:
        with suppress(OSError):  # closed
            while len(self.callers) < 100:
                caller, _ = self.listener.accept()
                with caller:
                    caller.settimeout(5)
                    self.callers.append(caller.recv(300))
                    caller.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.listener.close()


def left_by(script: str, home: Path, proxy: Proxy, **settings: str) -> list[str]:
    """Run Python in an empty home behind a proxy; the files that it left in that home."""
    home.mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if "proxy" not in name.lower() and name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    proxies = {n: proxy.url for name in names for n in (name, name.lower())}
    subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, **proxies, "HOME": str(home), "USERPROFILE": str(home), **settings},
        check=True,
        timeout=120,
    )
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize("set_before", ["", "0", "1"])
def test_encoding_leaves_no_id_and_calls_nobody(
    tmp_path: Path, proxy: Proxy, set_before: str
) -> None:
    script = ENCODE.format(first="import wingbar, onnxruntime", wait=0)
    assert left_by(script, tmp_path / "home", proxy, ORT_DISABLE_TELEMETRY=set_before) == []
    assert proxy.callers == []


@pytest.mark.slow
def test_nobody_is_called_later_either(tmp_path: Path, proxy: Proxy) -> None:
    """ONNX Runtime 1.32 reports after 10 to 20 s."""
    quiet = ENCODE.format(first="from wingbar.training import export", wait=25)
    assert left_by(quiet, tmp_path / "quiet", proxy) == []
    assert proxy.callers == []


@pytest.mark.parametrize("folder", ["scripts", "benchmarks"])
def test_nothing_outside_the_package_imports_onnx_runtime_first(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in ("", ".py", ".sh")]
    texts = {path: path.read_text() for path in files if path.is_file()}
    assert not [path for path, text in texts.items() if "import onnxruntime" in text]
    inside = [p for p in (ROOT / "wingbar").rglob("*.py") if "InferenceSession(" in p.read_text()]
    assert inside == [ROOT / "wingbar" / "model" / "runtime.py"]


# -- weights in other files


def external(name: str = "x") -> TensorProto:
    """A tensor of four bytes that lie in the file `secret`."""
    tensor = TensorProto(
        name=name, data_type=TensorProto.UINT8, dims=[4], data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", "secret"), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def inside(name: str = "x") -> TensorProto:
    return numpy_helper.from_array(np.arange(4, dtype=np.uint8), name)


def graph(**parts: Any) -> onnx.GraphProto:
    made = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [4])],
    )
    made.MergeFrom(onnx.GraphProto(**parts))
    return made


def network(made: onnx.GraphProto, **parts: Any) -> bytes:
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(made, opset_imports=opset, ir_version=8)
    model.MergeFrom(onnx.ModelProto(**parts))
    return bytes(model.SerializeToString())


def hidden(tensor: TensorProto) -> dict[str, bytes]:
    """Networks that hold a tensor in every place where there may be one."""
    sparse = onnx.SparseTensorProto(values=tensor, dims=[9])
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    several = onnx.NodeProto(op_type="Any")
    several.attribute.add(name="all", type=9).tensors.append(tensor)
    thin = onnx.NodeProto(op_type="Any")
    thin.attribute.add(name="thin", type=11).sparse_tensor.CopyFrom(sparse)
    deep = helper.make_node("If", ["x"], ["z"], then_branch=graph(node=[constant]))
    branches = onnx.NodeProto(op_type="Any")
    branches.attribute.add(name="all", type=10).graphs.append(graph(initializer=[tensor]))
    function = onnx.FunctionProto(name="f", node=[constant])
    preset = onnx.FunctionProto(name="f")
    preset.attribute_proto.add(name="a", type=4).t.CopyFrom(tensor)
    training = onnx.TrainingInfoProto(initialization=graph(initializer=[tensor]))
    nodes = {"constant": constant, "several": several, "thin": thin, "deep": deep, "all": branches}
    return {
        "initializer": network(graph(initializer=[tensor])),
        "sparse": network(graph(sparse_initializer=[sparse])),
        **{name: network(graph(node=[node])) for name, node in nodes.items()},
        "function": network(graph(), functions=[function]),
        "preset": network(graph(), functions=[preset]),
        "training": network(graph(), training_info=[training]),
    }


@pytest.mark.parametrize("place", sorted(hidden(inside())))
def test_weights_in_other_files_are_refused_wherever_they_are(place: str) -> None:
    runtime.check_network(hidden(inside())[place])
    with pytest.raises(ModelError, match="weights from other files"):
        runtime.check_network(hidden(external())[place])


def test_onnx_runtime_alone_would_not_read_them_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(b"\1\2\3\4")
    monkeypatch.chdir(tmp_path)
    whole = runtime.open_session(network(graph(initializer=[inside()])), 1, "whole")
    np.testing.assert_array_equal(whole.run(None, {})[0], np.arange(4))
    with pytest.raises(ModelError, match="the network of leak cannot be loaded") as refused:
        runtime.open_session(network(graph(initializer=[external()])), 1, "leak")
    assert "\n" not in str(refused.value)


def test_every_field_of_onnx_that_holds_tensors_is_known() -> None:
    """By ONNX's own description of its messages."""
    model = onnx.ModelProto.DESCRIPTOR
    holds = {onnx.TensorProto.DESCRIPTOR.full_name}

    def inner(message: Any) -> dict[int, str]:
        return {
            field.number: field.message_type.full_name
            for field in message.fields
            if field.message_type and field.message_type.full_name in holds
        }

    messages = model.file.message_types_by_name.values()
    for _ in messages:
        holds |= {message.full_name for message in messages if inner(message)}
    known: dict[str, Any] = {
        "model": onnx.ModelProto,
        "training": onnx.TrainingInfoProto,
        "function": onnx.FunctionProto,
        "graph": onnx.GraphProto,
        "node": onnx.NodeProto,
        "attribute": onnx.AttributeProto,
        "sparse": onnx.SparseTensorProto,
        "tensor": onnx.TensorProto,
    }
    names = {name: proto.DESCRIPTOR.full_name for name, proto in known.items()}
    assert set(names.values()) == holds
    for name, proto in known.items():
        ours = {number: names[kind] for number, kind in runtime.MESSAGES[name].items()}
        assert ours == inner(proto.DESCRIPTOR), name


@pytest.mark.parametrize(
    "data",
    [
        b"rubbish",
        b"\x3a",
        b"\x3a\xff",
        b"\x3a\x05abc",
        b"\xff" * 20,
        b"\x3b\x3c",  # a group
        b"\x3a" + b"\xff" * 9 + b"\x01",
        (GENERAL / "model.onnx").read_bytes()[:-5],
    ],
)
def test_bytes_that_are_no_network(data: bytes) -> None:
    with pytest.raises(ModelError, match="is not an ONNX network") as refused:
        runtime.check_network(data)
    assert "\n" not in str(refused.value)


def test_a_network_of_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "PARTS", 1000)
    runtime.check_network(b"\x08\x01" * 1000)
    with pytest.raises(ModelError, match="more than 1,000 parts"):
        runtime.check_network(b"\x08\x01" * 1001)


def test_the_built_in_network_is_whole() -> None:
    runtime.check_network((GENERAL / "model.onnx").read_bytes())


def test_a_network_shows_what_it_pools() -> None:
    network = (GENERAL / "model.onnx").read_bytes()
    shown = runtime.with_activation(network)
    assert shown is not None
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    session = runtime.open_session(shown, 1, "shown")
    feature, pooled = session.run(["feature", runtime.ACTIVATION], {"pixels": pixels})
    mean = pooled.mean((2, 3))
    assert feature == pytest.approx(mean / np.linalg.norm(mean, axis=1, keepdims=True), abs=1e-5)


def test_a_network_without_pooling_shows_nothing() -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([relu], "small", ends[:1], ends[1:])
    assert runtime.with_activation(helper.make_model(graph).SerializeToString()) is None
