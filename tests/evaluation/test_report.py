from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from tests.conftest import write_classes
from wingbar.data.readers import read_images
from wingbar.data.records import Entry, Images
from wingbar.errors import WingbarError
from wingbar.evaluation import report
from wingbar.evaluation.labelled import QueryResult, evaluate
from wingbar.evaluation.verdict import verdict
from wingbar.index.index import Index
from wingbar.index.ranking import Hit


def test_right_and_wrong_are_marked_and_lost_files_explained(shared_photos: Path) -> None:
    red = shared_photos / "red" / "000.jpg"
    hits = [
        Hit(1, 1, str(red), "red", 0, 1.0, {}),
        Hit(2, 2, str(shared_photos / "blue" / "000.jpg"), "blue", 5, None, {}),
        Hit(3, 3, "/gone/away.jpg", "red", 9, 0.25, {}),
    ]
    ranked = [report.RankedQuery(Entry(red, "red"), [report.Ranking("by code", hits)])]
    page = report.neighbours_page(
        "a <title>",
        "words",
        [report.Fact("images", "3", "of 4")],
        ranked,
        "note",
        kind="a kind",
        marked=True,
    )
    assert page.startswith("<!doctype html>")
    assert "a &lt;title&gt;" in page
    assert page.count('class="good"') == 2
    assert page.count('class="bad"') == 1
    assert "No such file or directory" in page
    assert "9 bits<br>cosine 0.25" in page
    assert "5 bits<" in page
    assert "<footer>note</footer>" in page
    unlabelled = [report.RankedQuery(Entry(Path("a<b_4444.jpg")), [])]
    named = report.neighbours_page("t", "i", [], unlabelled, "", kind="k", marked=False)
    assert 'a&lt;b_4444<wbr><span class="ending">.jpg</span></figcaption>' in named
    unmarked = report.neighbours_page("t", "i", [], ranked, "", kind="k", marked=False)
    assert "✓" not in unmarked
    assert "✓</span>&nbsp;" in page  # a mark does not stand alone on a line
    assert "<footer" not in unmarked


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return read_images(write_classes(tmp_path_factory.mktemp("queries") / "q", 5, first_seed=300))


@pytest.mark.slow
def test_the_report_of_an_evaluation(
    shared_index_path: Path, queries: Images, tmp_path: Path
) -> None:
    bad = tmp_path / "bad<b>.jpg"
    bad.write_text("no")
    asked = Images([*queries, Entry(bad, "red"), Entry(queries[0].path, "owl")], "mixed")
    with Index.open(shared_index_path) as index:
        result = evaluate(index, asked)
        page = report.evaluation_page(index, asked, result)
        assert page == report.evaluation_page(index, asked, result)  # nothing random is left
    for value in (
        result.map,
        result.map_at_r,
        result.rerank_map,
        result.feature_map,
        result.argmax_map,
    ):
        assert f"<td>{value:.4f}</td>" in page
    assert f"{result.map_low:.4f} to {result.map_high:.4f}" in page
    assert "the mean over all orders that the ties allow" in page
    assert "<script" not in page
    assert "1 label of queries has no item in the gallery: owl." in page
    assert "bad&lt;b&gt;.jpg" in page
    assert "<b>" not in page
    assert page.count("<circle") == 60
    assert verdict(result).headline in page
    assert page.index(verdict(result).headline) < page.index("Best queries")
    assert page.count("<section>") == 9  # three best, three median, three worst
    for label in ("red", "green", "blue"):
        assert f"<tr><td>{label}</td><td>5</td>" in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
    assert not re.findall(r"(?:src|href)=[\"']https?:", page)  # nothing is fetched
    aps = [float(ap) for ap in re.findall(r"fine mode \w+, AP ([0-9.]+)", page)]
    by_label: dict[str, list[float]] = {}
    for query in result.per_query:
        by_label.setdefault(query.label, []).append(query.rerank_map)
    assert aps[:3] == pytest.approx(
        sorted((max(some) for some in by_label.values()), reverse=True), abs=6e-4
    )
    assert aps[-3:] == pytest.approx(sorted(min(some) for some in by_label.values()), abs=6e-4)


def test_confusions_are_counted_and_spoken() -> None:
    def query(label: str, predicted: str) -> QueryResult:
        return QueryResult("q", label, 0.5, 0.5, 0.5, predicted, label == predicted)

    found = report._confusions(
        SimpleNamespace(  # type: ignore[arg-type]
            per_query=(
                *[query("grass_owl", "barn_owl")] * 2,
                query("barn_owl", "grass_owl"),
                query("grass_owl", "grass_owl"),
                query("robin", "robin"),
            )
        )
    )
    assert found == [("grass owl", "barn owl", 2, 3), ("barn owl", "grass owl", 1, 1)]


@pytest.mark.slow
def test_a_report_without_features(shared_index_path: Path, queries: Images) -> None:
    with Index.open(shared_index_path) as index:
        page = report.evaluation_page(
            index, queries, evaluate(index, queries, exhaustive=False, fine="none")
        )
    assert "MAP of features" not in page
    assert "no fine stage" in page


@pytest.mark.parametrize("library", ["jinja2", "matplotlib", "sklearn"])
def test_without_the_libraries_it_says_what_to_install(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(WingbarError, match=r"pip install 'wingbar\[report\]'"):
        report.check_installed()
