from __future__ import annotations

import builtins
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from wingbar import demo
from wingbar.cli import main
from wingbar.data.toy import write_digits
from wingbar.errors import WingbarError
from wingbar.index.sync import AddReport


def few_digits(folder: Path) -> Path:
    """300 of the digits; `.ci/run` runs the demo with all of them."""
    write_digits(folder)
    for digit in folder.iterdir():
        for path in sorted(digit.iterdir())[30:]:
            path.unlink()
    return folder


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demo.Demo]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "write_digits", few_digits)
        yield demo.run(tmp_path_factory.mktemp("demo"), None, bits=48)


@pytest.mark.slow
def test_the_digits_are_found(shown: demo.Demo) -> None:
    assert shown.report.added == 240
    label_free, trained = shown.evaluations["label-free"], shown.evaluations["trained"]
    assert label_free.queries == trained.queries == 60
    assert label_free.feature_map is not None
    assert label_free.feature_map > 0.35
    assert label_free.feature_top1 is not None
    assert label_free.feature_top1 > 0.7
    assert trained.map > 0.6
    text = demo.text(shown)
    assert str(shown.page) in text
    assert "MAP of trained 48-bit codes" in text


@pytest.mark.slow
def test_the_page_stands_alone(shown: demo.Demo) -> None:
    page = shown.page.read_text(encoding="utf-8")
    assert page.count("<section>") == demo.QUERIES_SHOWN
    assert page.count(">trained codes<") == page.count(">label-free codes<") == demo.QUERIES_SHOWN
    assert page.count("data:image/jpeg;base64,") == demo.QUERIES_SHOWN * (1 + 3 * demo.NEIGHBOURS)
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in page
    assert all(f'alt="query: {digit}"' in page for digit in range(10))


@pytest.mark.slow
def test_without_pytorch_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        demo, "find_spec", lambda name: None if name == "torch" else find_spec(name)
    )
    monkeypatch.setattr(demo, "write_digits", few_digits)
    shown = demo.run(tmp_path, None, bits=16)
    assert list(shown.evaluations) == ["label-free"]
    assert "pip install 'wingbar[demo]'" in demo.text(shown)


def test_nothing_encoded_has_no_speed() -> None:
    kept = AddReport(added=1, images_per_second=0.0)
    shown = demo.Demo(Path("demo.wb"), Path("index.html"), kept, {}, [], 1.0)
    assert demo.text(shown).startswith("demo.wb: 1 image indexed\n")


@pytest.mark.slow
def test_one_image_a_class_is_shown_without_numbers(tmp_path: Path, shared_photos: Path) -> None:
    for label in ("red", "green", "blue"):
        (tmp_path / "p" / label).mkdir(parents=True)
        (tmp_path / "p" / label / "1.jpg").write_bytes(
            (shared_photos / label / "001.jpg").read_bytes()
        )
    assert demo.run(tmp_path / "out", tmp_path / "p", bits=8).evaluations == {}


def test_a_page_that_is_not_ours_is_left_alone(tmp_path: Path, shared_photos: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(WingbarError, match="name another folder"):
        demo.run(tmp_path, shared_photos, bits=8)
    assert (tmp_path / "index.html").read_text() == "mine"


@pytest.mark.slow
def test_own_images_without_labels(
    shared_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main.main(
            [
                "demo",
                "--images",
                str(shared_photos / "red"),
                "-o",
                str(tmp_path),
                "--bits",
                "16",
                "--json",
            ]
        )
        == 0
    )
    assert '"evaluations": {}' in capsys.readouterr().out
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "✓" not in page
    assert page.count("<section>") == 12
    assert (
        main.main(["demo", "--images", str(shared_photos), "-o", str(tmp_path), "--bits", "16"])
        == 0
    )  # a second time
    assert "✓" in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_names_from_files_are_escaped(tmp_path: Path, shared_photos: Path) -> None:
    folder = tmp_path / "<b>bold"
    folder.mkdir()
    for i in range(3):
        data = (shared_photos / "red" / f"{i:03}.jpg").read_bytes()
        (folder / f'"><script>{i}.jpg').write_bytes(data)
    page = demo.run(tmp_path / "out", folder, bits=8).page.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>" not in page


def test_without_scikit_learn_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: object) -> object:
        if name.startswith("sklearn"):
            raise ModuleNotFoundError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(WingbarError, match=r"pip install 'wingbar\[demo\]'"):
        demo.run(tmp_path, None, bits=8)


def test_without_jinja_it_says_what_to_do(
    shared_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(WingbarError, match=r"needs Jinja2: pip install 'wingbar\[demo\]'"):
        demo.run(tmp_path / "out", shared_photos, bits=8)
    assert not (tmp_path / "out").exists()


def test_nothing_usable(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.jpg").write_text("no")
    with pytest.raises(WingbarError, match="none of the images"):
        demo.run(tmp_path / "out", tmp_path / "p", bits=8)
