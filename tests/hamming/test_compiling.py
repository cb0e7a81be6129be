from __future__ import annotations

from pathlib import Path

from wingbar.hamming import compiling, kernels
from wingbar.model import class_codes


def test_every_file_with_loops_counts() -> None:
    """A loop is compiled into others, so a change of its file must have those compiled again."""
    folder = Path(compiling.__file__).parent
    without_loops = {"__init__", "codes", "costs", "part"}
    assert {path.stem for path in folder.glob("*.py")} - without_loops == set(compiling.FILES)
    for function in (kernels.nearest, class_codes._values):
        own, others = function._cache._cache_file._source_stamp
        assert own == function._cache._impl.locator.get_source_stamp()
        assert others == compiling.SOURCES
    assert len(compiling.SOURCES) == len(compiling.FILES)
