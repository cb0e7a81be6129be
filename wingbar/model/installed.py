"""Models that are there for every index of this user, in one folder, each in a directory of its own
name: where `wingbar model import` puts them, and what `wingbar index --for` chooses among."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """Where they are: $WINGBAR_MODELS, or wingbar/models below $XDG_DATA_HOME or ~/.local/share. It
    need not exist."""
    if own := os.environ.get("WINGBAR_MODELS"):
        return Path(own)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "wingbar" / "models"


def installed() -> list[Path]:
    """Their directories, by name."""
    try:
        inside = list(folder().iterdir())
    except OSError:
        return []
    return sorted(one for one in inside if (one / "model.json").is_file())


def problem_with_folder() -> str | None:
    """Why the folder cannot be looked through, in words; None where it can, and where it is not
    there and $WINGBAR_MODELS does not say that it should be."""
    try:
        next(folder().iterdir(), None)
    except OSError as error:
        if "WINGBAR_MODELS" in os.environ:
            return f"WINGBAR_MODELS names {folder()}, which cannot be read ({error.strerror})"
        if not isinstance(error, FileNotFoundError):
            return f"the models in {folder()} cannot be read ({error.strerror})"
    return None


def unfinished_run(directory: Path) -> str | None:
    """What to say of a directory that holds a training run and no model; None of any other."""
    if (directory / "model.json").exists() or not (directory / "train" / "run.json").is_file():
        return None
    return (
        f"{directory} is a training run that was not finished: wingbar train --resume -o "
        f"{directory} continues it, wingbar export {directory} makes a model of its checkpoint"
    )


def directory_of(name: str | os.PathLike[str]) -> Path:
    """The directory that `name` means: itself, or where there is none and it is a plain name, that
    of the model of this name in the folder."""
    given = Path(name)
    if given.name == os.fspath(name) and not given.exists():
        return folder() / given
    return given
