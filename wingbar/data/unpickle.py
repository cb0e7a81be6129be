"""Read the NumPy arrays of CIFAR's pickled batches without running what a pickle could run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import DataError, one_line

# -- pickles, of which only plain containers and arrays are taken


class _Type:
    """Stands for a numpy dtype in a pickle: its code, such as "u1", and its order of bytes."""

    def __init__(self, code: str, align: object = None, copy: object = None) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])

    def dtype(self) -> np.dtype[Any]:
        found = np.dtype(("=" if self.order == "|" else self.order) + self.code)
        if found.kind not in "biufSU":
            raise ValueError(f"an array of {self.code}")
        return found


class _Array:
    """Stands for a numpy array in a pickle; nothing of numpy runs before its bytes are known to be
    numbers."""

    def __init__(self, *_: object) -> None:
        self.values: Any = ()

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, raw = state
        self.values = (
            raw
            if isinstance(raw, list)
            else _from_bytes(raw, kind, shape, "F" if by_columns else "C")
        )


def _from_bytes(raw: Any, kind: _Type, shape: Any, order: Any = "C") -> NDArray[Any]:
    data = raw.encode("latin-1") if isinstance(raw, str) else bytes(raw)
    values: NDArray[Any] = np.frombuffer(data, kind.dtype()).reshape(shape, order=order)
    return values


def _buffer(raw: Any, kind: _Type, shape: Any, order: str = "C") -> _Array:
    array = _Array()
    array.values = _from_bytes(raw, kind, shape, order)
    return array


def _scalar(kind: _Type, raw: Any) -> Any:
    return _from_bytes(raw, kind, ()).item()


def _encoded(text: str, _: str = "latin1") -> bytes:
    """How pickles of old protocols write bytes."""
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """How they write none."""
    return b""


class _NDArray:
    """Stands for the type numpy.ndarray, which is named but not made."""


_ALLOWED: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _buffer for core in ("core", "_core")},
    ("numpy", "ndarray"): _NDArray,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): _no_bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(
                f"it wants {module}.{name}, and only plain values and arrays are taken"
            )
        return _ALLOWED[module, name]


def _unpickled(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of Python 2 or 3; no code of the pickle is run."""
    try:
        with path.open("rb") as file:
            found = _Unpickler(file, encoding="latin1").load()
        return dict(found)
    except FileNotFoundError:
        raise DataError(f"{path} is not there: unpack the archive again") from None
    except Exception as error:  # foreign bytes make a pickle raise nearly anything
        raise DataError(f"{path} cannot be read ({one_line(error)}): fetch it again") from None


def _numbers(value: Any) -> Any:
    """The numbers of a list, or of an array in a pickle."""
    return value.values if isinstance(value, _Array) else value
