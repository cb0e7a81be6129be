"""An index of images in one file: the front door, ranking, synchronising with folders, storage and
checks."""

TYPE_CHECKING = False  # the typing module need not be loaded for this
if TYPE_CHECKING:
    from typing import Any

    from wingbar.index.index import Index as Index

__all__ = ["Index"]


def __getattr__(name: str) -> "Any":
    """Import the front door when it is first used: most modules here need less."""
    if name == "Index":
        from importlib import import_module

        return import_module("wingbar.index.index").Index
    raise AttributeError(f"module 'wingbar.index' has no attribute {name!r}")
