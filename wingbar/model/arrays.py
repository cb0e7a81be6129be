"""Named arrays as the bytes of one .npz file: equal arrays give equal bytes, and the bytes of
strangers are checked before they are believed."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# what reading a damaged zip file or array raises
DAMAGED = (
    ValueError,
    KeyError,
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zlib.error,
    zipfile.BadZipFile,
)


def to_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The content of an .npz file with these arrays."""
    out = io.BytesIO()
    # np.savez writes the time of day, which would change the fingerprint
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return out.getvalue()


def from_bytes(data: bytes, types: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """The arrays of what `to_bytes` wrote, by name, where `types` gives the dtype of each. Raises
    one of DAMAGED for anything else."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: _array(archive, name, np.dtype(kind)) for name, kind in types.items()}


def _array(archive: zipfile.ZipFile, name: str, wanted: np.dtype[Any]) -> NDArray[Any]:
    """One array. What its header promises is compared with what there is first."""
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError("it is compressed")
    stored = io.BytesIO(archive.read(member))
    if np.lib.format.read_magic(stored) != (1, 0):
        raise ValueError("an array of another format")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stored)
    if dtype != wanted or is_fortran:
        raise ValueError(f"an array of {dtype}")
    return np.frombuffer(stored.read(), wanted).reshape(shape)
