"""Mutation testing: small faults put into the code one by one, and whether its tests notice.

    pip install cosmic-ray
    python benchmarks/mutants.py wingbar/methods wingbar/hamming [--sample 100] [--seed 0] -o FILE

Draws `--sample` of all the faults that cosmic-ray's operators make in the files (another operator,
number or comparison, a loop that never runs), leaves out those that change annotations only, and
runs each against the tests of the file's mirror, for methods the contract too, in a copy of the
project. FILE has one JSON record a fault; a second run with the same FILE continues.
"""

from __future__ import annotations

import argparse
import ast
import collections
import difflib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 600  # seconds; a fault that makes the tests endless is noticed as well
NO_FAULTS = ("core/RemoveDecorator", "core/Exception", "core/NoOp", "core/Variable")


class Mutant(NamedTuple):
    """One fault: `operator` applied to its place number `occurrence` in the source of `file`."""

    file: str
    operator: str
    occurrence: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", help="files or folders below wingbar/")
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    files = sorted({found for path in args.paths for found in sources(ROOT / path)})
    every = [mutant for path in files for mutant in mutants(path)]
    random.Random(args.seed).shuffle(every)
    drawn = list(itertools.islice(filter(changes_something, every), args.sample))
    done = [json.loads(line) for line in args.output.open()] if args.output.exists() else []
    tested = {Mutant(d["file"], d["operator"], d["occurrence"]) for d in done}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "wingbar"
        skipped = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=skipped)
        for mutant in drawn:
            if mutant not in tested:
                done.append(tried(mutant, copy))
                with args.output.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
                print(f"{done[-1]['outcome']:9} {mutant.file} {mutant.operator}", flush=True)
    for record in done:
        if record["outcome"] == "survived":
            print(record["diff"])
    print(f"{len(every)} faults are possible, {len(done)} were tried")
    by_file: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for record in done:
        by_file[record["file"]][record["outcome"]] += 1
    for name, counts in sorted(by_file.items()):
        noticed = counts.total() - counts["survived"]
        print(f"{name}: {noticed} of {counts.total()} noticed")


def sources(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def mutants(path: Path) -> Iterator[Mutant]:
    """Every fault that cosmic-ray's operators make in the file."""
    nodes = list(ast_nodes(get_ast(path.read_text())))
    for name in operator_names():
        if name.startswith(NO_FAULTS):
            continue
        operator = get_operator(name)()
        count = sum(len(list(operator.mutation_positions(node))) for node in nodes)
        for occurrence in range(count):
            yield Mutant(str(path.relative_to(ROOT)), name, occurrence)


def mutated(mutant: Mutant) -> tuple[str, str]:
    """The source of the file, and what the fault makes of it."""
    source = (ROOT / mutant.file).read_text()
    return source, mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence) or source


def changes_something(mutant: Mutant) -> bool:
    """Whether the fault is in code that runs, not in an annotation, and leaves it Python: the
    asterisks of an unpacked mapping are no operator."""
    try:
        before, after = (_without_annotations(source) for source in mutated(mutant))
    except SyntaxError:
        return False
    return before != after


def _without_annotations(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def tests_of(file: str) -> list[str]:
    """The test file that mirrors a file of wingbar, and the contract of the methods."""
    folder, name = Path(file).relative_to("wingbar").parent, Path(file).name
    wanted = [f"tests/{folder}/test_{name}"]
    if file.startswith("wingbar/methods"):
        wanted.append("tests/methods/test_contract.py")
    return [path for path in wanted if (ROOT / path).exists()] or [f"tests/{folder}"]


def tried(mutant: Mutant, copy: Path) -> dict[str, object]:
    """Run the tests with the fault in the copy, the quick ones first."""
    before, after = mutated(mutant)
    (copy / mutant.file).write_text(after)
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    outcome = "survived"
    try:
        for tier in ("not slow", "slow"):
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-m", tier]
            code = subprocess.run(
                [*command, *tests_of(mutant.file)],
                cwd=copy,
                env=environment,
                capture_output=True,
                timeout=LIMIT,
            ).returncode
            if code not in (0, 5):  # 5: no test in this tier
                outcome = "noticed"
                break
    except subprocess.TimeoutExpired:
        outcome = "endless"
    finally:
        (copy / mutant.file).write_text(before)
    diff = difflib.unified_diff(before.splitlines(), after.splitlines(), mutant.file, n=1)
    return {
        **mutant._asdict(),
        "outcome": outcome,
        "seconds": round(time.monotonic() - started, 1),
        "diff": "\n".join(diff),
    }


if __name__ == "__main__":
    main()
