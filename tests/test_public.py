"""The public surface: what can be imported, that it is documented, and what the README promises."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import shutil
from pathlib import Path

import pytest

import wingbar
from wingbar.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_exported_names() -> None:
    assert sorted(wingbar.__all__) == [
        "AddReport",
        "DataError",
        "Dataset",
        "Embeddings",
        "Evaluation",
        "Failure",
        "Hit",
        "Hits",
        "ImageError",
        "Images",
        "Index",
        "IndexInfo",
        "Model",
        "ModelError",
        "QueryError",
        "RefitReport",
        "Run",
        "StoreError",
        "TrainingError",
        "WingbarError",
        "evaluate",
        "expected_ap",
        "read_dataset",
        "read_images",
        "train",
        "verify",
    ]
    for name in wingbar.__all__:
        thing = getattr(wingbar, name)
        assert thing.__doc__, name
        assert thing.__module__.startswith("wingbar."), name
    assert set(wingbar.__all__) <= set(dir(wingbar))
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = wingbar.serach


def test_no_public_function_takes_what_it_does_not_name() -> None:
    for info in pkgutil.walk_packages(wingbar.__path__, "wingbar."):
        module = importlib.import_module(info.name)
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                kinds = {p.kind for p in inspect.signature(function).parameters.values()}
                assert inspect.Parameter.VAR_KEYWORD not in kinds, f"{module.__name__}.{name}"


def test_the_readme_example_runs(
    tmp_path: Path,
    shared_photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example is not None
    code = example.group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    shutil.copytree(shared_photos, tmp_path / "photos")
    shutil.copy(shared_photos / "red" / "000.jpg", tmp_path / "query.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "red" in capsys.readouterr().out


def test_every_command_in_the_documents_exists() -> None:
    texts = [README, *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))]
    lines = [
        line
        for text in texts
        for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    commands = [
        match.group(1).split()
        for line in lines
        if (
            match := re.search(
                r"(?:^|\s|/)wingbar ([a-z].*?)(?:\s*#.*|\s*&&.*|\s*\|.*|\s*>.*)?$", line
            )
        )
    ]
    assert len(commands) >= 6
    for command in commands:
        if "PATH" not in command:
            main.parser_for(command).parse_args(command)
