from __future__ import annotations

from pathlib import Path

from wingbar.hamming import compiling, kernels


def test_every_file_with_loops_counts() -> None:
    """A loop is compiled into others, so a change of its file must have those compiled again."""
    folder = Path(compiling.__file__).parent
    without_loops = {"__init__", "codes", "costs", "part"}
    assert {path.stem for path in folder.glob("*.py")} - without_loops == set(compiling.FILES)
    assert kernels.nearest._cache._cache_file._source_stamp == compiling.SOURCES
    assert len(compiling.SOURCES) == len(compiling.FILES)
