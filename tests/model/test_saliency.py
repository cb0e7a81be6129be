from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import write_classes
from wingbar import images
from wingbar.cli import main
from wingbar.data.readers import read_images
from wingbar.images import Part
from wingbar.index.index import Index
from wingbar.methods import cmbh, dolg
from wingbar.model.model import Model
from wingbar.model.saliency import (
    GRID,
    Look,
    covered,
    find_regions,
    look,
    match,
    standing_out,
    suggested_regions,
    to_pixels,
)
from wingbar.training import loop
from wingbar.training.run import Run

SMALL = Run(
    backbone="resnet8",
    weights="none",
    size=64,
    epochs=1,
    batch=8,
    workers=0,
    precision="float32",
    held_out=0.0,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("explain") / "photos", 6)


@pytest.fixture(scope="module")
def of_cmbh(photos: Path) -> Path:
    config = cmbh.Config(bits=12, dim=16, width=8, regions=0)
    return indexed(
        photos, loop.train(cmbh, read_images(photos), photos.parent / "cmbh", config, SMALL), "cmbh"
    )


@pytest.fixture(scope="module")
def of_dolg(photos: Path) -> Path:
    run = Run(**{**SMALL.__dict__, **dolg.RECIPE})
    config = dolg.Config(bits=12, dim=16, hidden=8)
    return indexed(
        photos, loop.train(dolg, read_images(photos), photos.parent / "dolg", config, run), "dolg"
    )


def indexed(photos: Path, model: Model, name: str) -> Path:
    path = photos.parent / f"{name}.wb"
    with Index.create(path, model) as index:
        index.add(photos)
    return path


@pytest.mark.slow
def test_cmbh_names_what_fired(of_cmbh: Path, photos: Path) -> None:
    query = read_images(photos).paths[0]
    with Index.open(of_cmbh) as index:
        model = index.model
        seen = look(model, query)
        shown = model.auxiliary_outputs(query)
    scores = shown["scores"]
    assert scores.shape == (3, 2)
    logits = 12 * scores.sum(1)
    probability = np.exp(logits) / np.exp(logits).sum()
    weighted = {
        (model.record["classes"][c], j): probability[c] * scores[c, j]
        for c in range(3)
        for j in range(2)
    }
    assert [(one.label, one.number) for one in seen.fired] == sorted(
        weighted, key=lambda key: -weighted[key]
    )[:5]
    for one in seen.fired:
        assert one.cosine * one.probability == pytest.approx(
            weighted[one.label, one.number], rel=1e-4
        )
    assert seen.heat is not None
    assert seen.heat.shape == (32, 32)  # the map at half of 64 pixels
    left, top, side, _ = seen.area
    cells = find_regions(seen.heat, 4)
    for (x, y, width, height), (x1, y1, x2, y2) in zip(seen.regions, cells, strict=True):
        np.testing.assert_allclose((x - left, y - top), (x1 * side / 32, y1 * side / 32))
        np.testing.assert_allclose(
            (width, height), ((x2 + 1 - x1) * side / 32, (y2 + 1 - y1) * side / 32)
        )


@pytest.mark.slow
def test_dolg_shows_its_attention_in_the_picture_s_shape(of_dolg: Path, photos: Path) -> None:
    with Index.open(of_dolg) as index:
        wide = Image.new("RGB", (256, 64), "red")
        seen = look(index.model, wide)
        square = look(index.model, Part(read_images(photos).paths[0], (0, 0, 32, 32)))
    assert (seen.size, seen.area) == ((256, 64), (0, 0, 256, 64))
    assert seen.heat is not None
    assert square.heat is not None
    # 128 x 32 and 64 x 64 pixels, at half of that
    assert (seen.heat.shape, square.heat.shape) == ((16, 64), (32, 32))
    assert (seen.heat > 0).all()
    assert not seen.regions
    assert square.size == (32, 32)


@pytest.mark.slow
def test_a_method_without_places_says_so(
    shared_index_path: Path,
    shared_photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    query = sorted(shared_photos.rglob("*.jpg"))[0]
    arguments = ["explain", str(shared_index_path), str(query)]
    assert main.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "has no heat map" in printed
    assert "0 of 24 bits differ" in printed
    assert main.main([*arguments, "-o", str(tmp_path / "seen")]) == 2
    assert "has no heat map: DOLG has attention" in capsys.readouterr().err
    assert not (tmp_path / "seen").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["of_cmbh", "of_dolg"])
def test_the_command_writes_overlays(
    name: str,
    photos: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    index, query = request.getfixturevalue(name), read_images(photos).paths[0]
    out = tmp_path / "seen"
    arguments = ["explain", str(index), str(query), "-k", "2", "-o", str(out), "--json"]
    assert main.main([*arguments, "--box", "0,0,40,30"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in out.iterdir()) == [
        "hit1.npy",
        "hit1.png",
        "hit2.npy",
        "hit2.png",
        "query.npy",
        "query.png",
    ]
    np.testing.assert_allclose(np.load(out / "query.npy"), record["query"]["heat"], atol=1e-5)
    with Image.open(out / "query.png") as shown:
        assert shown.size == (40, 30)
    assert [len(hit["agree"]) for hit in record["hits"]] == [12, 12]
    assert main.main(["explain", str(index), str(query)]) == 0
    assert "looks most at" in capsys.readouterr().out


def test_the_brightest_place_of_an_overlay_is_the_greatest_of_the_map() -> None:
    grey = Image.new("RGB", (80, 40), (90, 90, 90))
    heat = np.zeros((4, 4))
    heat[1, 3] = 2.0
    shown = Image.open(io.BytesIO(images.overlay(grey, heat, (20, 0, 40, 40), [(0, 0, 10, 10)])))
    values = np.asarray(shown).astype(int)
    assert tuple(np.unravel_index(values[:, 12:, 1].argmax(), (40, 68))) == pytest.approx(
        (15, 43), abs=4
    )
    assert (values[:, 65:] == 90).all()  # what the model does not see has no colour
    assert (values[0, :10] == 255).all()
    flat = np.asarray(Image.open(io.BytesIO(images.overlay(grey, np.ones((3, 3)), (0, 0, 80, 40)))))
    assert (flat == 90).all()


# -- what matches


class LeftHalf:
    """A model of which the feature is the mean colour of the left half alone."""

    preprocessing = images.Preprocessing(size=28)

    def run(self, pixels: Sequence[images.Pixels]) -> NDArray[np.float32]:
        return np.stack([one[:, :14].mean((0, 1), dtype=np.float32) for one in pixels])

    def embed(self, raw: NDArray[np.float32]) -> SimpleNamespace:
        return SimpleNamespace(features=raw)


def test_only_what_the_feature_depends_on_matches() -> None:
    red_and_blue = Image.new("RGB", (56, 56), (200, 0, 0))
    red_and_blue.paste((0, 0, 200), (0, 28, 56, 56))
    model: Any = LeftHalf()
    red = np.array([1.0, 0, 0])
    found = match(model, model, red_and_blue, red)
    assert found.area == (0, 0, 56, 56)
    assert found.cosine == pytest.approx(2**-0.5, abs=0.01)
    assert (found.heat[:3, :3] > 0).all()  # red on the left
    assert (found.heat[4:] == 0).all()  # blue
    assert (found.heat[:, 4:] == 0).all()  # the right


def test_places_are_covered_one_after_the_other() -> None:
    pixels = np.zeros((70, 140, 3), np.uint8)
    pixels[:, :70] = 100
    copies = covered(pixels)
    assert len(copies) == GRID**2
    changed = np.array([(copy != pixels).any(2) for copy in copies])
    assert (changed[0][:15, :30] == 1).all()  # two cells wide, as far as they are in the picture
    assert (changed[0].sum(), changed[8].sum()) == (15 * 30, 20 * 40)
    assert (copies[8][5:25, 10:50] == 50).all()
    assert changed.any(0).all()


# -- CMBH's Algorithm 1


def test_algorithm_1_on_a_map_worked_by_hand() -> None:
    """Greatest value 10: m = 1 takes what is above 8.5, which has two parts; the larger is the L of
    three nines and a ten. All five cells are replaced (10 -> 0, 9 -> 1). The greatest is then 8;
    above 6.4 is the pair at the right edge. It becomes 0 and 1; then the greatest is 4, above 3 is
    one cell at the bottom left."""
    a = np.zeros((7, 7))
    a[1, 1], a[2, 1], a[3, 1], a[3, 2] = 10, 9, 9, 9
    a[5, 5] = 9  # alone
    a[0, 6], a[1, 6] = 8, 7
    a[6, 0] = 4
    before = a.copy()
    assert find_regions(a, 3) == [(1, 1, 2, 3), (6, 0, 6, 1), (0, 6, 0, 6)]
    np.testing.assert_array_equal(a, before)


def test_algorithm_1_replaces_every_value_above_the_threshold() -> None:
    """5 at one cell; 4.5 diagonally to it is above 4.25 but no neighbour: both are suppressed, the
    first part wins. With a - A = 0.5 left there, m = 2 takes the 4 cells of 3 (above 2.4); m = 3
    has a = 0.5 (above 0.375)."""
    a = np.full((7, 7), 0.1)
    a[2, 2], a[3, 3] = 5, 4.5
    a[5:7, 0:2] = 3
    assert find_regions(a, 3) == [(2, 2, 2, 2), (0, 5, 1, 6), (3, 3, 3, 3)]


def test_algorithm_1_thresholds_fall_with_m() -> None:
    """0.85, 0.80, 0.75, 0.70 of the greatest value, each strictly: a row of cells of 100, 86, 85
    and so on."""
    a = np.zeros((7, 7))
    a[0, :4] = [100, 86, 85, 80]
    assert find_regions(a, 1) == [(0, 0, 1, 0)]  # 85 is not above 85
    assert find_regions(a, 2)[1] == (2, 0, 3, 0)  # of 85, 0.8 is 68


def test_a_flat_or_negative_map_gives_the_whole_picture() -> None:
    assert find_regions(np.zeros((7, 7)), 2) == [(0, 0, 6, 6)] * 2
    assert find_regions(np.full((4, 5), -1.0), 1) == [(0, 0, 4, 3)]
    assert find_regions(np.full((4, 5), 2.0), 1) == [(0, 0, 4, 3)]


def test_boxes_in_image_coordinates() -> None:
    assert to_pixels((1, 0, 2, 6), (7, 7), (224, 224)) == (32, 0, 96, 224)
    assert to_pixels((0, 1, 0, 1), (2, 4), (100, 80)) == (0, 50, 20, 100)


def test_suggested_regions_differ_from_each_other_and_from_the_whole() -> None:
    area = (0.0, 0.0, 100.0, 100.0)
    boxes = ((0.0, 0.0, 99.0, 99.0), (10.0, 10.0, 30.0, 30.0), (11.0, 10.0, 30.0, 30.0))
    apart = (60.0, 60.0, 20.0, 20.0)
    seen = Look((100, 100), area, None, (*boxes, apart), ())
    assert suggested_regions(seen) == (boxes[1], apart)
    assert suggested_regions(Look((100, 100), area, None, (), ())) == ()
    heat = np.zeros((10, 10), np.float32)
    heat[2:4, 5:8] = 1
    assert suggested_regions(Look((100, 100), area, heat, (), ()))[0] == (50.0, 20.0, 30.0, 20.0)


def seeing_brightness() -> Any:
    """A model whose map is the brightness of 7 x 7 places."""

    def activation(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        places = pixels.astype(np.float32).mean(3).reshape(-1, 7, 8, 7, 8)
        return places.mean((2, 4)) + 10

    return SimpleNamespace(preprocessing=images.Preprocessing(size=56), activation=activation)


def test_what_stands_out_is_boxed() -> None:
    picture = np.zeros((160, 240, 3), np.uint8)
    picture[20:70, 30:90] = 255
    picture[100:140, 150:220] = 255
    large, small = standing_out(seeing_brightness(), picture)
    for found, (x, y, width, height) in ((large, (30, 20, 60, 50)), (small, (150, 100, 70, 40))):
        assert found == pytest.approx((x, y, width, height), abs=20)
    assert standing_out(seeing_brightness(), picture) == (large, small)


def test_nothing_stands_out() -> None:
    for grey in (0, 20, 255):
        assert standing_out(seeing_brightness(), np.full((90, 120, 3), grey, np.uint8)) == ()
    no_map: Any = SimpleNamespace(
        preprocessing=images.Preprocessing(size=56), activation=lambda pixels: None
    )
    assert standing_out(no_map, np.zeros((90, 120, 3), np.uint8)) == ()


def test_the_built_in_network_finds_two_things(built_in_network: None) -> None:
    picture = np.full((300, 400, 3), 200, np.uint8)
    places = ((30, 40), (160, 260))
    for top, left in places:
        for ring in range(0, 50, 10):
            colour = (20 + 4 * ring, 10, 200 - 4 * ring)
            picture[top + ring : top + 110 - ring, left + ring : left + 110 - ring] = colour
    boxes = standing_out(Model.load(), picture)
    middles = sorted((y + height / 2, x + width / 2) for x, y, width, height in boxes)
    expected = [(top + 55, left + 55) for top, left in places]
    assert np.array(middles) == pytest.approx(np.array(expected), abs=30)
