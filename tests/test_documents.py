"""The documents: links lead somewhere, and the files, modules and definitions they name exist."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / ".github").rglob("*.md")]
)
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
STEP = re.compile(r"`([\w/]+\.py): ([\w.]+)`")


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """A document without its blocks of code."""
    return FENCED.sub("", text_of(path))


def anchors(path: Path) -> set[str]:
    """What a link can name in a document after #, as GitHub makes it from the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def resolves(dotted: str) -> bool:
    """Whether `a.b.C.d` is a module or something in one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            if not hasattr(thing, name):
                return False
            thing = getattr(thing, name)
        return True
    return False


def is_defined(tree: ast.AST, dotted: str) -> bool:
    """Whether `Class.method`, `function` or `function.inner` is defined in a module."""
    scope = tree
    for name in dotted.split("."):
        inside = [
            node
            for node in ast.walk(scope)
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and node is not scope
            and node.name == name
        ]
        if not inside:
            return False
        scope = inside[0]
    return True


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{path.name} links to {target}"
        assert there.is_relative_to(ROOT), f"{path.name} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_in_documents_exist(path: Path) -> None:
    if path.name == "CHANGELOG.md":
        return  # it names what there once was
    text = text_of(path)
    for dotted in re.findall(r"`(wingbar(?:\.\w+)+)[^\w.`]?[^`]*`", text):
        if not dotted.endswith(".html"):
            assert resolves(dotted), f"{path.name} names {dotted}"
    for name in re.findall(
        r"(?<![\w/])((?:benchmarks|docs|scripts|tests|wingbar)/[\w/]+\.\w+)", text
    ):
        assert "NAME" in name or (ROOT / name).exists(), f"{path.name} names {name}"


def test_every_document_is_in_the_index_of_documents() -> None:
    index = text_of(ROOT / "docs" / "README.md")
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"]({path.name})" in index, path.name


def test_the_steps_of_the_walks_exist() -> None:
    steps = STEP.findall(text_of(ROOT / "ARCHITECTURE.md"))
    assert len(steps) >= 40
    missing = [
        f"{file}: {name}"
        for file, name in steps
        if not (ROOT / file).is_file() or not is_defined(ast.parse(text_of(ROOT / file)), name)
    ]
    assert not missing, "\n".join(missing)


def test_every_layer_of_the_contract_is_described() -> None:
    settings = tomllib.loads(text_of(ROOT / "pyproject.toml"))["tool"]["importlinter"]
    (contract,) = [c for c in settings["contracts"] if c["type"] == "layers"]
    described = text_of(ROOT / "ARCHITECTURE.md")
    for module in re.findall(r"wingbar\.(\w+)", " ".join(contract["layers"])):
        folder = (ROOT / "wingbar" / module).is_dir()
        assert f"`{module}/`" in described if folder else f"`{module}.py`" in described, module


def test_the_hamming_example_runs() -> None:
    block = re.search(r"```python\n(.*?)```", text_of(ROOT / "docs" / "hamming.md"), re.DOTALL)
    assert block is not None
    few = block.group(1).replace("100_000", "1_000")  # answered by NumPy: nothing is compiled
    exec(compile(few, "docs/hamming.md", "exec"), {})


def test_every_extra_that_is_named_is_there_and_brings_what_is_missing() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    files = [*DOCUMENTS, *sorted((ROOT / "wingbar").rglob("*.py"))]
    hints = re.compile(r"wingbar\[([a-z,]+)\]")
    named = {
        extra for path in files for one in hints.findall(text_of(path)) for extra in one.split(",")
    }
    assert {"report", "text", "train"} <= named <= set(extras)
    # "a page needs Jinja2: pip install 'wingbar[report]'"
    needs = re.compile(r"needs? ([A-Za-z][\w, -]{2,50}): (?:run )?pip install '?wingbar\[([a-z]+)")
    called = {"pytorch": "torch", "milvus": "pymilvus"}
    told = 0
    for path in files[len(DOCUMENTS) :]:
        text = re.sub(r'"\s*\n\s*f?"', "", text_of(path))
        for libraries, extra in needs.findall(text):
            brought = " ".join(extras[extra]).lower()
            for one in re.split(r", | and ", libraries.lower()):
                library = one.split(" to ")[0].strip()
                assert called.get(library, library) in brought, (path, library, extra)
                told += 1
    assert told >= 8
