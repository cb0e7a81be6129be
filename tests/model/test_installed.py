from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_network import small_general
from wingbar.errors import ModelError
from wingbar.model import installed
from wingbar.model.model import Model


def test_where_models_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINGBAR_MODELS", str(tmp_path))
    assert installed.folder() == tmp_path
    monkeypatch.delenv("WINGBAR_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert installed.folder() == tmp_path / "data" / "wingbar" / "models"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert installed.folder() == Path.home() / ".local" / "share" / "wingbar" / "models"


def test_what_is_installed_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    monkeypatch.setenv("WINGBAR_MODELS", str(folder))
    assert installed.installed() == []  # there is no such folder
    for name in ("b", "a"):
        small_general(name).save(folder / name)
    (folder / "empty").mkdir()
    (folder / "file").write_text("no model")
    assert [one.name for one in installed.installed()] == ["a", "b"]
    assert Model.load("a").name == "a"
    with pytest.raises(ModelError, match="no model in nothing: a model is a directory"):
        Model.load("nothing")
    with pytest.raises(ModelError, match="no model in x/a"):
        Model.load("x/a")  # a path, and no name
    monkeypatch.chdir(tmp_path)
    small_general("here").save(tmp_path / "a")
    assert Model.load("a").name == "here"  # what is here comes first
    assert Model.load("general").name == "general"


def test_why_the_folder_cannot_be_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WINGBAR_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert installed.problem_with_folder() is None  # nothing was ever installed
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "wingbar").write_text("in the way")
    assert installed.problem_with_folder() == (
        f"the models in {installed.folder()} cannot be read (Not a directory)"
    )
    monkeypatch.setenv("WINGBAR_MODELS", str(tmp_path / "models"))
    assert installed.problem_with_folder() == (
        f"WINGBAR_MODELS names {tmp_path / 'models'}, which cannot be read "
        "(No such file or directory)"
    )
    (tmp_path / "models").mkdir()
    assert installed.problem_with_folder() is None
