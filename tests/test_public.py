"""The public surface: what can be imported, that it is documented, and what the README promises."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import shutil
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import wingbar
from wingbar.cli import main
from wingbar.errors import StoreError
from wingbar.evaluation.metrics import Buckets

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_exported_names() -> None:
    assert sorted(wingbar.__all__) == [
        "AddReport",
        "Choice",
        "DataError",
        "Dataset",
        "DuplicateOptions",
        "Duplicates",
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
        "choose_model",
        "evaluate",
        "expected_ap",
        "find_duplicates",
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
        try:
            module = importlib.import_module(info.name)
        except StoreError:  # of a store whose extra is not installed
            continue
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                kinds = {p.kind for p in inspect.signature(function).parameters.values()}
                assert inspect.Parameter.VAR_KEYWORD not in kinds, f"{module.__name__}.{name}"


def test_no_private_name_is_imported_from_another_module() -> None:
    imported = [
        f"{path.relative_to(ROOT)}: {alias.name} from {node.module}"
        for path in sorted((ROOT / "wingbar").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wingbar")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert not imported, "\n".join(imported)


def classes_in(annotation: object) -> Iterator[type]:
    """The package's own public classes that a type names."""
    if isinstance(annotation, type):
        ours = annotation.__module__.startswith("wingbar.")
        if ours and not annotation.__name__.startswith("_"):
            yield annotation
    for part in typing.get_args(annotation):
        yield from classes_in(part)


@cache
def names_for_types(module: str) -> dict[str, Any]:
    """What a module imports for its annotations alone."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    return {
        alias.name: getattr(importlib.import_module(node.module or ""), alias.name)
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def types_named_by(thing: Any) -> Iterator[object]:
    """What a function, or the fields and public methods of a class, take and give."""
    functions = [thing]
    if inspect.isclass(thing):
        yield from typing.get_type_hints(thing, localns=names_for_types(thing.__module__)).values()
        yield from getattr(thing, "__orig_bases__", ())
        members = [member for name, member in vars(thing).items() if not name.startswith("_")]
        functions = [getattr(m, "fget", None) or getattr(m, "__func__", m) for m in members]
    for function in functions:
        if inspect.isfunction(function):
            names = names_for_types(function.__module__)
            yield from typing.get_type_hints(function, localns=names).values()


def public_classes() -> list[type]:
    """The classes of `wingbar.__all__` and those that their fields and signatures lead to."""
    found: set[type] = set()
    things: list[Any] = [getattr(wingbar, name) for name in wingbar.__all__]
    while things:
        thing = things.pop()
        if inspect.isclass(thing):
            if thing in found:
                continue
            found.add(thing)
        for annotation in types_named_by(thing):
            things += classes_in(annotation)
    return sorted(found, key=lambda kind: (kind.__module__, kind.__name__))


def fields_to_describe(kind: Any) -> list[str]:
    """The fields of a record that its docstring has to describe; none for other classes. A field
    with a help text is described by that."""
    if dataclasses.is_dataclass(kind):
        fields = [field for field in dataclasses.fields(kind) if not field.metadata.get("help")]
        return [field.name for field in fields if not field.name.startswith("_")]
    return list(getattr(kind, "_fields", ()))


def test_public_records_describe_every_field() -> None:
    classes = public_classes()
    assert {"SearchOptions", "Hit", "Evaluation", "Images", "Embeddings"} <= {
        kind.__name__ for kind in classes
    }
    missing = {}
    for kind in classes:
        lines = re.findall(r"^ *(\w+(?:, \w+)*): \S", inspect.getdoc(kind) or "", re.MULTILINE)
        described = {name for line in lines for name in line.split(", ")}
        if left := [name for name in fields_to_describe(kind) if name not in described]:
            missing[f"{kind.__module__}.{kind.__name__}"] = left
    assert not missing, "\n".join(f"{name}: {', '.join(left)}" for name, left in missing.items())


def test_public_records_are_frozen() -> None:
    classes = [kind for kind in public_classes() if dataclasses.is_dataclass(kind)]
    classes += [Buckets]
    assert [kind for kind in classes if not vars(kind)["__dataclass_params__"].frozen] == []


@pytest.mark.slow
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
