"""Read the numbers, texts and NumPy arrays of a pickle without running any code of the pickle."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import DataError, one_line


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of Python 2 or 3. Its arrays are to be unwrapped by `numbers`.

    Only plain containers, numbers, texts and arrays of these are accepted. Raises DataError for
    everything else, and for a file that is missing or damaged.
    """
    try:
        with path.open("rb") as file:
            found = _Unpickler(file, encoding="latin1").load()
        return dict(found)
    except FileNotFoundError:
        raise DataError(f"{path} is not there: unpack the archive again") from None
    except Exception as error:  # foreign bytes make a pickle raise nearly anything
        raise DataError(f"{path} cannot be read ({one_line(error)}): fetch it again") from None


def numbers(value: Any) -> Any:
    """The array behind a value of `read_pickle`; a list as it is."""
    return value.values if isinstance(value, _Array) else value


class _Unpickler(pickle.Unpickler):
    """An unpickler that finds the stand-ins below and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(
                f"it wants {module}.{name}, and only plain values and arrays are taken"
            )
        return _ALLOWED[module, name]


class _Type:
    """Stands for numpy.dtype: its code, such as "u1", and its byte order."""

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
    """Stands for an array; NumPy sees its bytes only once its dtype is known to be plain."""

    def __init__(self, *_: object) -> None:
        self.values: Any = ()

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, raw = state
        if isinstance(raw, list):
            self.values = raw
        else:
            self.values = _from_bytes(raw, kind, shape, "F" if by_columns else "C")


class _NDArray:
    """Stands for the type numpy.ndarray, which pickles name but never call."""


def _scalar(kind: _Type, raw: Any) -> Any:
    return _from_bytes(raw, kind, ()).item()


def _buffer(raw: Any, kind: _Type, shape: Any, order: str = "C") -> _Array:
    array = _Array()
    array.values = _from_bytes(raw, kind, shape, order)
    return array


def _from_bytes(raw: Any, kind: _Type, shape: Any, order: Any = "C") -> NDArray[Any]:
    data = raw.encode("latin-1") if isinstance(raw, str) else bytes(raw)
    values: NDArray[Any] = np.frombuffer(data, kind.dtype()).reshape(shape, order=order)
    return values


def _encoded(text: str, _: str = "latin1") -> bytes:
    """How old protocols write bytes."""
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """How old protocols write an empty bytes object."""
    return b""


_ALLOWED: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _buffer for core in ("core", "_core")},
    ("numpy", "ndarray"): _NDArray,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): _no_bytes,
}
