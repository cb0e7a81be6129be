"""How the loops of Hamming search are compiled, and the instructions that they are made of.

numba keeps the machine code beside these files or in NUMBA_CACHE_DIR, so each machine compiles it
once, for its own CPU.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

# The files that the machine code is made of.
FILES = (
    "building",
    "compiling",
    "found",
    "kernels",
    "planes",
    "probing",
    "records",
    "words",
)


def _sources() -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of each of them."""
    found = []
    for name in FILES:
        with suppress(OSError):
            stat = Path(__file__).with_name(f"{name}.py").stat()
            found.append((name, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


SOURCES = _sources()


def compiled(function):
    """Compile a function on its first call and cache the result, if a folder for it is writable."""
    try:
        dispatcher = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither this folder nor the user's cache folder is writable
        return numba.njit(nogil=True)(function)
    # numba compiles again when the function's own file has changed, but not when one has from
    # which loops were compiled into it.
    file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if hasattr(file, "_source_stamp"):
        file._source_stamp = (file._source_stamp, SOURCES)
    return dispatcher


def inlined(function):
    """Compile a function into its callers; passing arrays would cost more than what it does."""
    return numba.njit(nogil=True, forceinline=True)(function)


@intrinsic
def popcount(typing, word):
    """Count the ones of an unsigned word: LLVM's ctpop."""

    def emit(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return word(word), emit


@intrinsic
def trailing_zeros(typing, word):
    """Count the zeros below the lowest one of an unsigned word: LLVM's cttz."""

    def emit(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return word(word), emit


@intrinsic
def pointer(typing, address):
    """An address in memory, an integer, as what `numba.carray` makes an array of."""

    def emit(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), emit


@intrinsic
def prefetch(typing, array, index):
    """Start to read the element `index` of a contiguous array, counted through all its axes. No
    index is an error."""

    def emit(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        element = builder.gep(data, [arguments[1]])
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        start = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, number, number, number]),
            "llvm.prefetch.p0",
        )
        reading, into_all_caches, data_not_code = (ir.Constant(number, n) for n in (0, 3, 1))
        builder.call(
            start, [builder.bitcast(element, byte), reading, into_all_caches, data_not_code]
        )
        return context.get_dummy_value()

    return types.void(array, types.int64), emit
