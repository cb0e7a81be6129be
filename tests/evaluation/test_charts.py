from __future__ import annotations

from xml.etree import ElementTree

import numpy as np

from wingbar.evaluation import charts

SPACE = "{http://www.w3.org/2000/svg}"


def test_lines_and_bars_take_the_colour_of_the_text() -> None:
    curve = charts.lines(
        "a <b>",
        "recall",
        "precision",
        [charts.Line("one", [0, 1], [1, 0.5]), charts.Line("two", [0, 1], [0, 1])],
    )
    bars = charts.distances("c", [0.5, 0.5, 0], [0, 0.25, 0.75])
    for svg, name in ((curve, "a <b>"), (bars, "c")):
        tree = ElementTree.fromstring(svg)
        assert tree.get("aria-label") == name
        assert "currentColor" in svg
        assert "#010203" not in svg
    words = [element.text for element in ElementTree.fromstring(curve).iter(f"{SPACE}text")]
    assert {"recall", "precision", "one", "two"} <= set(words)


def test_points_are_inside_and_have_their_labels() -> None:
    points = np.array([[-3.0, 5.0], [0.0, 0.0], [4.0, 9.0]])
    tree = ElementTree.fromstring(charts.scatter("plane", points, ["a&b", None, "c"]))
    dots = list(tree.iter(f"{SPACE}circle"))
    assert [dot[0].text for dot in dots] == ["a&b", "no label", "c"]
    assert all(
        0 < float(dot.get("cx", -1)) < 640 and 0 < float(dot.get("cy", -1)) < 440 for dot in dots
    )
    assert len({dot.get("fill") for dot in dots}) == 3


def test_names_stand_in_the_middle_of_their_points_and_not_over_each_other() -> None:
    points = np.array([[0.0, 0.0], [0.0, 0.0], [0.01, 0.0], [1.0, 1.0], [0.5, 1.0]])
    tree = ElementTree.fromstring(
        charts.scatter("plane", points, ["red_admiral", "red_admiral", "hidden", "b&c", None])
    )
    names = {text.text: text for text in tree.iter(f"{SPACE}text")}
    assert list(names) == ["red admiral", "b&c"]  # that of one point gives way to that of two
    assert float(names["b&c"].get("y", 0)) == 430
    assert float(names["red admiral"].get("x", 0)) >= 30  # not cut off at the edge


def test_neighbours_stay_neighbours_in_the_plane() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 20)) * 5
    features = np.concatenate(
        [centre + rng.normal(size=(20, 20)) * 0.1 for centre in centres]
    ).astype(np.float32)
    placed = charts.project(features, 0)
    assert placed.shape == (60, 2)
    distance = np.linalg.norm(placed[:, None] - placed[None], axis=2) + 1e9 * np.eye(60)
    assert (distance.argmin(1) // 20 == np.arange(60) // 20).all()
    assert charts.project(features[:2], 0).shape == (2, 2)
