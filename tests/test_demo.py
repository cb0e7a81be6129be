from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from wingbar import demo
from wingbar.cli import main
from wingbar.data.garden import BIRDS, write_garden
from wingbar.errors import WingbarError
from wingbar.evaluation.verdict import verdict
from wingbar.index.sync import AddReport
from wingbar.parallel import Progress


def few_birds(folder: Path, *, progress: Progress) -> Path:
    """36 of the birds; `.ci/run` indexes all of them, and measures how well they are found."""
    return write_garden(folder, train=2, queries=1, progress=progress)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demo.Demo]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "write_garden", few_birds)
        yield demo.run(tmp_path_factory.mktemp("demo"), None, bits=16)


def test_the_birds_are_indexed_and_evaluated(shown: demo.Demo) -> None:
    assert shown.report.added == 24
    assert shown.evaluation is not None
    assert shown.evaluation.queries == 12
    text = demo.text(shown)
    assert f"{shown.index}: 24 images of drawn birds of 12 species indexed" in text
    assert verdict(shown.evaluation).headline in text
    assert str(shown.page) in text


def test_it_says_what_to_run_next(shown: demo.Demo) -> None:
    serve, train = demo.text(shown).split("Next:\n")[1].splitlines()[:2]
    assert serve == f"  wingbar serve {shown.index} --open"
    assert train.startswith(f"  wingbar train dlbhc {shown.source} -o ")
    assert train.endswith(demo.TRAINING)
    assert "train" not in demo.text(replace(shown, drawn=False))


def test_the_page_stands_alone(shown: demo.Demo) -> None:
    page = shown.page.read_text(encoding="utf-8")
    assert page.count("<section>") == demo.QUERIES_SHOWN
    assert page.count(">by code<") == page.count(">by code, then features<") == demo.QUERIES_SHOWN
    assert page.count("data:image/jpeg;base64,") == demo.QUERIES_SHOWN * (1 + 2 * demo.NEIGHBOURS)
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in page
    assert all(f'alt="query: {name}"' in page for name in BIRDS)
    assert shown.evaluation is not None
    assert verdict(shown.evaluation).headline in page


def test_nothing_encoded_has_no_speed() -> None:
    kept = AddReport(added=1, images_per_second=0.0)
    shown = demo.Demo(Path("a"), False, Path("demo.wb"), Path("i.html"), kept, None, [], 1.0)
    assert demo.text(shown).startswith("demo.wb: 1 image of a indexed\n")


def test_one_image_a_class_is_shown_without_numbers(tmp_path: Path, shared_photos: Path) -> None:
    for label in ("red", "green", "blue"):
        (tmp_path / "p" / label).mkdir(parents=True)
        (tmp_path / "p" / label / "1.jpg").write_bytes(
            (shared_photos / label / "001.jpg").read_bytes()
        )
    assert demo.run(tmp_path / "out", tmp_path / "p", bits=8).evaluation is None


def test_a_page_that_is_not_ours_is_left_alone(tmp_path: Path, shared_photos: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(WingbarError, match="name another folder"):
        demo.run(tmp_path, shared_photos, bits=8)
    assert (tmp_path / "index.html").read_text() == "mine"


def test_own_images_without_labels(
    shared_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for path in sorted((shared_photos / "red").iterdir())[:4]:
        (own / path.name).write_bytes(path.read_bytes())
    arguments = ["demo", "--images", str(own), "-o", str(tmp_path), "--bits", "16"]
    assert main.main([*arguments, "--json"]) == 0
    assert '"evaluation": null' in capsys.readouterr().out
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "✓" not in page
    assert page.count("<section>") == 4
    assert main.main(arguments) == 0  # a second time
    assert "4 images of " in capsys.readouterr().out


def test_names_from_files_are_escaped(tmp_path: Path, shared_photos: Path) -> None:
    folder = tmp_path / "<b>bold"
    folder.mkdir()
    for i in range(3):
        data = (shared_photos / "red" / f"{i:03}.jpg").read_bytes()
        (folder / f'"><script>{i}.jpg').write_bytes(data)
    page = demo.run(tmp_path / "out", folder, bits=8).page.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>" not in page


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
