from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.commands import interrupted, run
from tests.model.test_model import trained_model
from wingbar.cli import main, options
from wingbar.index import transfer
from wingbar.index.index import Index


@pytest.mark.parametrize("verb", [verb.name for verb in main.VERBS])
def test_help_ends_in_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main([verb, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert out.rstrip().splitlines()[-1].strip().startswith(f"wingbar {verb}")
    assert "--json" in out


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from wingbar.cli import main as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'PIL', 'onnxruntime', 'numba', 'torch', 'tqdm', 'sqlite3'} & "
        "set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_no_help_but_that_of_a_method_imports_pytorch() -> None:
    script = (
        "import sys; from wingbar.cli import main as cli\n"
        "def help(*words):\n"
        "    try: cli.main([*words, '--help'])\n"
        "    except SystemExit as stopped: assert stopped.code == 0\n"
        "    return 'torch' in sys.modules\n"
        "verbs = [[verb.name] for verb in cli.VERBS]\n"
        "verbs += [[g.name, v.name] for g in cli.VERBS for v in getattr(g, 'verbs', ())]\n"
        "assert not [words for words in verbs if help(*words)]\n"
        "assert help('train', 'dlbhc')"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_only_the_verb_that_is_asked_for_has_its_flags_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []

    def noting(name: str) -> Callable[[argparse.ArgumentParser], None]:
        return lambda parser: made.append(name)

    verbs = [
        replace(verb, flags=noting(verb.name))
        for verb in main.VERBS
        if isinstance(verb, options.Verb)
    ]
    monkeypatch.setattr(main, "VERBS", verbs)
    main.parser_for(["--help"])
    assert made == []
    main.parser_for(["search", "--help"])
    assert made == ["search"]


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wingbar", "verify", "nowhere.wb"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("wingbar: no index at nowhere.wb")


def test_json_may_stand_before_or_after_the_verb_of_a_group(
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = [
        run(capsys, *arguments)[1]
        for arguments in (("data", "--json", "list"), ("data", "list", "--json"))
    ]
    assert texts[0] == texts[1]
    assert texts[0].startswith("{")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["search", "nowhere.wb", "q.jpg"], "no index at nowhere.wb: make one with wingbar index"),
        (["index", "a.wb", "nowhere"], "there is no nowhere"),
        (["index", "a.wb"], "name the images to index"),
        (["index", "a.wb", "photos", "--refit"], "run it without images"),
        (["index", "a.wb", "--refit"], "no index at a.wb"),
        (["index", "a.wb", "photos", "--model", "nowhere"], "no model in nowhere"),
        (["index", "a.wb", "photos", "--split", "holdout"], "no part 'holdout'"),
        (["index", "a.wb", "hollow"], "hollow has no images, only 1 other file$"),
        (["index", "no/such/folder.wb", "photos"], "cannot be"),
        (["info", "hollow"], "hollow is a folder, not an index"),
        (["verify", "nowhere.wb"], "no index at nowhere.wb"),
        (["demo", "--images", "hollow"], "hollow has no images"),
        (["evaluate", "photos.wb", "nowhere"], "there is no nowhere"),
        (["evaluate", "photos.wb", "photos/red"], "queries have no labels"),
        (["search", "photos.wb", "hollow/notes.txt"], "hollow/notes.txt: not an image"),
        (
            ["index", "photos.wb", "photos/red/000.jpg", "--split", "gallery"],
            "is one image and has no part",
        ),
        (
            ["search", "photos.wb", "photos/red/000.jpg", "-k", "0", "--shortlist", "3"],
            "^wingbar: k must be at least 1, not 0$",
        ),
        (
            ["search", "photos.wb", "photos/red/000.jpg", "--radius", "-1"],
            "^wingbar: radius must be at least 0, not -1$",
        ),
        (
            ["search", "photos.wb", "photos/red/000.jpg", "--radius", "25"],
            "^wingbar: radius must be from 0 to 24, .* not 25$",
        ),
        (
            ["search", "photos.wb", "photos/red/000.jpg", "--box", "1,2,3"],
            "^wingbar: a box is x,y,width,height in pixels",
        ),
        (
            ["search", "photos.wb", "photos/red/000.jpg", "--where", "shelf=3"],
            "no item has a column 'shelf'",
        ),
        (["index", "photos.wb", "photos", "--bits", "48"], "has codes of 24 bits, not 48"),
        (
            ["index", "photos.wb", "photos", "--model", "tiny"],
            r"was made with general \(label-free, 24 bits, .*\), not with tiny \(dlbhc",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str],
    reason: str,
    photos: Path,
    shared_index_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import re

    monkeypatch.chdir(photos.parent)
    Path("photos.wb").write_bytes(shared_index_path.read_bytes())
    Path("hollow").mkdir()
    Path("hollow/notes.txt").write_text("milk")
    trained_model().save("tiny")
    code, out, err = run(capsys, *arguments)
    assert code == 2, out
    assert re.search(reason, err), err
    assert err.startswith("wingbar: ")
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.slow
def test_names_that_are_not_utf8(photos: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"q\xe9.jpg")
    (photos / "red" / "000.jpg").rename(tmp_path / name)
    (photos / os.fsdecode(b"caf\xe9.txt")).touch()
    wingbar = [sys.executable, "-m", "wingbar"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "LC_ALL": "C.UTF-8"}
    indexed = ["index", "a.wb", "photos", "--bits", "8", "--json"]
    for arguments in (indexed, ["search", "a.wb", name, "-k", "1"], ["demo", "--images", "."]):
        done = subprocess.run(
            [*wingbar, *arguments], cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert b"bug" not in done.stderr


def test_a_traceback_only_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    from wingbar.errors import StoreError

    with pytest.raises(StoreError):
        main.main(["info", "nowhere.wb", "--debug"])


def test_a_bug_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, shared_index_path: Path
) -> None:
    monkeypatch.setattr(Index, "info", lambda self: 1 / 0)
    code, _, err = run(capsys, "info", shared_index_path)
    assert code == 2
    assert "a bug in wingbar (ZeroDivisionError" in err
    assert err.count("\n") == 1


def test_ctrl_c(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Index, "add", interrupted)
    monkeypatch.setattr(Index, "refit", interrupted)
    monkeypatch.setattr(Index, "info", interrupted)
    monkeypatch.setattr(transfer, "import_file", interrupted)
    path = tmp_path / "a.wb"
    for arguments, said in (
        (["index", path, photos], "stopped; nothing was stored yet; the same command begins again"),
        (["index", path, "--refit"], "stopped; nothing was changed\n"),
        (["info", path], "stopped\n"),
        (["import", "a.npz", "-o", path], "stopped; no index was made\n"),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (130, "")
        assert err.startswith(f"wingbar: {said}")


def test_ctrl_c_while_it_is_being_loaded_ends_it_without_a_word() -> None:
    script = (
        "import importlib.abc, runpy, signal, sys\n"
        "class Pressed(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'wingbar.cli.main': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Pressed())\n"
        "runpy.run_module('wingbar', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize("where", ["parser_for", "_messages_of_warnings"])
def test_an_extra_that_is_not_installed_is_named(
    where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*arguments: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(main, where, lacking)
    said = "wingbar: this needs torch: run pip install 'wingbar[train]'\n"
    assert run(capsys, "info", "a.wb") == (2, "", said)
    with pytest.raises(ModuleNotFoundError):
        main.main(["info", "a.wb", "--debug"])


def test_ctrl_c_before_the_verb_begins(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "parser_for", interrupted)
    assert run(capsys, "info", "a.wb") == (130, "", "")


def test_a_reader_that_leaves_early(shared_index_path: Path, shared_photos: Path) -> None:
    queries = [str(path) for path in sorted(shared_photos.rglob("*.jpg"))]
    search = [
        sys.executable,
        "-m",
        "wingbar",
        "search",
        str(shared_index_path),
        *queries,
        "-k",
        "60",
    ]
    process = subprocess.Popen(search, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0


def test_without_a_verb_it_says_how_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    commands = [line.split()[:2] for line in out.splitlines() if line.startswith("  ")]
    assert commands == [["wingbar", "demo"], ["wingbar", "index"], ["wingbar", "search"]]


def refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> tuple[str | int | None, str, str]:
    """Exit code, standard output and standard error of a command that cannot be meant."""
    with pytest.raises(SystemExit) as stopped:
        main.main(arguments)
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serach", "a.wb", "q.jpg"], "wingbar has no verb 'serach': did you mean search?"),
        (["--json", "evaluat"], "wingbar has no verb 'evaluat': did you mean evaluate?"),
        (["data", "lst"], "wingbar data has no verb 'lst': did you mean list?"),
        (["data", "q.jpg"], "wingbar data has no verb 'q.jpg': it has list, info, fetch"),
    ],
)
def test_a_verb_that_is_misspelled(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, arguments) == (2, "", f"wingbar: {said}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["search", "a", "q", "--raduis", "3"],
            "search has no flag --raduis: did you mean --radius?",
        ),
        (["data", "list", "--jsn"], "data list has no flag --jsn: did you mean --json?"),
        (["verify", "a", "--colour=red"], "verify has no flag --colour: --help lists those it has"),
        (["evaluate", "a", "b", "c"], "evaluate does not take 'c': --help shows what it takes"),
        (["search", "a", "q", "--k", "3"], "search has no flag --k: did you mean -k?"),
        (["search", "a", "-k", "3", "q", "--raduis", "3"], "search has no flag --raduis: did you"),
        (["data", "--nosuch"], "data has no flag --nosuch: --help lists those it has"),
    ],
)
def test_a_flag_that_is_misspelled(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = refused(capsys, arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"wingbar: wingbar {said}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--nosuch", "wingbar has no flag --nosuch: --help lists those it has"),
        ("--vresion", "wingbar has no flag --vresion: did you mean --version?"),
        ("--version extra", "wingbar --version takes nothing more: leave 'extra' out"),
        ("help index search", "wingbar help index takes nothing more: leave 'search' out"),
        ("help data list all", "wingbar help data list takes nothing more: leave 'all' out"),
        ("help --json", "wingbar help takes nothing more: leave '--json' out"),
    ],
)
def test_what_would_not_be_heeded_is_refused(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, arguments.split()) == (2, "", f"wingbar: {said}\n")


@pytest.mark.parametrize(
    ("words", "positional"),
    [
        ("search a.wb -k 3 q.jpg", {"index": "a.wb", "images": ["q.jpg"]}),
        ("search a.wb q.jpg -k 3 --distinct r.jpg", {"images": ["q.jpg", "r.jpg"]}),
        ("search a.wb -k 3 -- -q.jpg", {"images": ["-q.jpg"]}),
        ("search -- a.wb -q.jpg", {"images": ["-q.jpg"]}),
        ("index a.wb --bits 8 red --sync blue", {"images": ["red", "blue"]}),
        ("remove a.wb --dry-run red --yes blue", {"names": ["red", "blue"]}),
        ("serve a.wb --port 0 b.wb", {"index": ["a.wb", "b.wb"]}),
        ("data fetch --json cub-200-2011 --output there", {"name": "cub-200-2011"}),
        ("--json info a.wb", {"path": "a.wb", "json": True}),
    ],
)
def test_arguments_may_stand_between_flags(words: str, positional: dict[str, object]) -> None:
    args, unknown = main.parser_for(words.split()).parse_known_args(words.split())
    assert not unknown
    assert {name: getattr(args, name) for name in positional} == positional


def test_what_a_message_quotes_is_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["x" * 9000], ["search", "a", "q", "-" + "x" * 9000], ["info", "x" * 9000]):
        try:
            _, out, err = run(capsys, *arguments)
        except SystemExit:
            out, err = capsys.readouterr()
        assert not out
        assert err.count("\n") == 1
        assert len(err) <= 2100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("search", "search: INDEX and IMAGE are missing"),
        ("train cmbh", "train: --output is missing"),
        ("data", "data: VERB is missing"),
        ("data info", "data info: NAME is missing"),
        (
            "search a q --box -1,-1,5,5",
            "search: --box needs a value; one that begins with - is written --box=-1",
        ),
        ("search a q --distinct=3", "search: --distinct takes no value"),
        ("search a q -k many", "search: -k: 'many' is not a whole number"),
        ("duplicates a --min-score x", "duplicates: --min-score: 'x' is not a number"),
        (
            "search a q --fine asymmetrik",
            "search: --fine is one of none, ties, pool, asymmetric, not 'asymmetrik': did you mean "
            "asymmetric?",
        ),
        ("index a p --bits 0", "index: --bits: '0' is not a number of bits from 1 to 1024"),
    ],
)
def test_arguments_that_do_not_fit(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"wingbar {said}; see wingbar {said.split(':')[0]} --help\n"
    assert refused(capsys, arguments.split()) == (2, "", line)


@pytest.mark.parametrize("asked", ["help", "-h", "--help"])
def test_help_may_stand_before_the_verb(asked: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = refused(capsys, [asked, "verify"])
    assert (code, out.startswith("usage: wingbar verify")) == (0, True)
    code, out, _ = refused(capsys, [asked])
    assert (code, out.startswith("usage: wingbar [-h]")) == (0, True)
    code, _, err = refused(capsys, [asked, "serach"])
    assert (code, err) == (2, "wingbar: wingbar has no verb 'serach': did you mean search?\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["--version"])
    assert capsys.readouterr().out.startswith("wingbar 0.")
