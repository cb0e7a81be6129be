from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import run
from tests.conftest import write_classes
from tests.model.test_model import trained_model
from wingbar.cli import main
from wingbar.data.readers import read_dataset

SEVERAL = {"red": "red|old", "green": "blue|green", "blue": "new"}


@pytest.mark.slow
def test_evaluate_has_the_keys(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.wb"
    run(capsys, "index", path, photos, "--split", "gallery", "--bits", 12)
    assert run(capsys, "info", path)[0] == 0
    code, out, _ = run(capsys, "evaluate", path, photos, "--json")
    assert code == 0
    record = json.loads(out)
    wanted = (
        "protocol queries gallery bits map map_low map_high map_at_1000 precision_radius_2 "
        "empty_radius_2 unique_codes "
        "feature_map feature_top1 rerank_map"
    )
    assert set(wanted.split()) <= set(record)
    assert (record["queries"], record["gallery"]) == (6, 18)
    code, out, _ = run(capsys, "evaluate", path, photos, "--all")
    assert "map_low" in out
    code, out, _ = run(capsys, "evaluate", path, photos, "--split", "all", "--json")
    record = json.loads(out)
    assert (record["queries"], record["queries_in_gallery"]) == (24, 18)


@pytest.mark.slow
def test_a_report_and_a_comparison(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, data = tmp_path / "a.wb", ("--split", "query")
    run(capsys, "index", index, photos, "--bits", 16, "--split", "gallery")
    records = []
    for name, more in (("a", ()), ("b", ("--gallery-codes", "labels", "--no-exhaustive"))):
        code, out, _ = run(
            capsys,
            "evaluate",
            index,
            photos,
            *data,
            *more,
            "--report",
            tmp_path / f"{name}.html",
            "--json",
        )
        assert code == 0
        records.append(tmp_path / f"{name}.json")
        records[-1].write_text(out)
        assert (tmp_path / f"{name}.html").read_text().startswith("<!doctype html>")
    assert json.loads(records[1].read_text())["feature_map"] is None
    code, out, _ = run(capsys, "evaluate", "--compare", *records)
    assert code == 0
    assert "gallery codes: network and labels" in out
    code, out, _ = run(capsys, "evaluate", "--compare", *records, "--json")
    assert [d["measure"] for d in json.loads(out)["differences"]] == ["map", "rerank_map"]
    code, _, err = run(capsys, "evaluate", "--compare", records[0], tmp_path / "a.html")
    assert (code, err.count("\n")) == (2, 1)
    assert "is not JSON" in err
    code, _, err = run(capsys, "evaluate", index)
    assert (code, err.count("\n")) == (2, 1)
    assert "name an index and a data set" in err
    code, out, _ = run(capsys, "evaluate", index, photos, *data)
    assert "per_query" not in out
    assert "the codes alone" in out


def test_an_evaluation_is_a_few_lines(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.wb"
    run(capsys, "index", path, photos, "--split", "gallery", "--bits", 12)
    code, out, _ = run(capsys, "evaluate", path, photos, "--split", "all")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"{path}: 24 queries searched for among 18 items, with codes of 12 bits"
    assert "at the nearest picture: it has the right label for " in lines[1]
    lines = lines[[line[:4] for line in lines].index("MAP ") :]  # after the verdict
    assert [line[2:20].strip() for line in lines[1:4]] == [
        "the codes alone",
        "the search, fine=p",
        "the features alone",
    ]
    assert "of 18 are unique; " in lines[4]
    assert lines[5].startswith("Protocol: ")
    assert lines[6:] == ["Note: 18 queries are in the gallery too: searched without their copies."]
    _, out, _ = run(capsys, "evaluate", path, photos, "--no-exhaustive", "--all")
    assert "features alone" not in out
    assert "constant_bits" in out
    assert not {"None", "()", "("} & {line.split()[-1] for line in out.splitlines()}


@pytest.mark.slow
def test_the_text_says_where_the_report_is(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wingbar.evaluation.report.evaluation_page", lambda *given: b"a page")
    run(capsys, "index", tmp_path / "a.wb", photos, "--split", "gallery", "--bits", 12)
    page = tmp_path / "out.html"
    _, out, _ = run(capsys, "evaluate", tmp_path / "a.wb", photos, "--report", page)
    assert page.exists()
    assert out.splitlines()[-1] == f"The report is {page}: open it in a browser."


@pytest.mark.slow
def test_the_parts_are_named(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "index", tmp_path / "a.wb", photos / "red", "--bits", 8)
    code, _, err = run(capsys, "evaluate", tmp_path / "a.wb", photos, "--split", "holdout")
    assert code == 2
    assert "train, query and gallery can be drawn from it; all is every image" in err
    with pytest.raises(SystemExit):
        main.main(["evaluate", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "query, gallery, train, val, test, or all" in shown


@pytest.mark.slow
def test_a_solution_of_landmarks(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "index", tmp_path / "a.wb", photos / "red", "--bits", 8)
    (tmp_path / "s.csv").write_text("id,images,Usage\n003,001 003,Public\n")
    code, out, _ = run(
        capsys,
        "evaluate",
        tmp_path / "a.wb",
        photos / "blue",
        "--solution",
        tmp_path / "s.csv",
        "--json",
    )
    assert code == 0
    assert 0 < json.loads(out)["map_at_100"] <= 1
    _, out, _ = run(
        capsys, "evaluate", tmp_path / "a.wb", photos / "blue", "--solution", tmp_path / "s.csv"
    )
    assert out.startswith(f"{tmp_path / 'a.wb'}: mAP@100 ")
    assert "of 1 query searched for among 8 items" in out


def test_one_picture_per_class_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_classes(tmp_path / "photos", 1)
    run(capsys, "index", tmp_path / "a.wb", data, "--bits", 8)
    code, _, err = run(capsys, "evaluate", tmp_path / "a.wb", data)
    assert (code, err.count("\n")) == (2, 1)
    assert "there are no queries" in err
    assert "a query needs a second image of its class in the gallery" in err


def test_several_labels_and_a_radius_are_flags(
    shared_index_path: Path,
    shared_photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [f"{shared_photos}/{name}/000.jpg,{label}" for name, label in SEVERAL.items()]
    (tmp_path / "q.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    asked = ("evaluate", shared_index_path, tmp_path / "q.csv", "--split", "all", "--no-exhaustive")
    code, out, _ = run(capsys, *asked, "--multi-label", "--radius", "3", "--json")
    assert code == 0
    record = json.loads(out)
    assert (record["queries"], record["queries_without_match"]) == (2, 1)
    assert (record["fine"], record["radius"], record["shortlist"]) == ("pool", 3, 60)
    code, _, err = run(capsys, *asked, "--radius", "3")
    assert (code, "has a match" in err) == (2, True)  # nothing is labelled red|old
    code, _, err = run(capsys, *asked, "--solution", "s.csv", "--radius", "3")
    assert (code, "--radius is for data sets with labels" in err) == (2, True)


def test_unseen_classes_that_the_model_was_trained_on_are_named(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluated(*classes: str) -> tuple[str, str]:
        """The protocol and what was said, of a model trained on `classes`."""
        trained_model().altered({}, {"classes": list(classes)}).save(tmp_path / "m")
        index = tmp_path / f"{len(classes)}.wb"
        part = ("--protocol", "unseen", "--split", "gallery") if len(classes) < 3 else ()
        run(capsys, "index", index, photos, "--model", tmp_path / "m", *part)
        _, out, err = run(capsys, "evaluate", index, photos, "--protocol", "unseen", "--json")
        return json.loads(out)["protocol"], err

    held_out = read_dataset(photos, protocol="unseen").query.labels[0]
    others = sorted({"red", "green", "blue"} - {held_out})
    protocol, said = evaluated(*others)
    assert "the 2 others for training" in protocol
    assert "was trained" not in protocol + said
    assert "searched among" not in protocol
    protocol, said = evaluated(*others, str(held_out))
    assert "; the model was trained on 1 of these 1 class" in protocol
    assert "; searched among 2 other classes too" in protocol
    assert "train with --protocol unseen and --split-seed 0" in said
