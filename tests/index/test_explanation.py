from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from wingbar.data.readers import read_images
from wingbar.hamming import codes
from wingbar.index.explanation import explain
from wingbar.index.index import Index


def test_bits_that_agree_are_those_of_the_codes(
    shared_index_path: Path, shared_photos: Path
) -> None:
    query = read_images(shared_photos).paths[3]
    with Index.open(shared_index_path) as index:
        hits = index.search(query, 5, fine="none")
        found = explain(index, query, hits)
        code = codes.unpack(index.model.encode([query]).codes, index.model.bits)[0]
        again = explain(index, hits[0].id, hits)
    np.testing.assert_array_equal(found.code, code)
    assert [int((~agree).sum()) for agree in found.agree] == [hit.distance for hit in hits]
    assert all(look is not None for look in found.looks)
    np.testing.assert_array_equal(again.code, found.code ^ ~found.agree[0])


def test_a_hit_whose_file_is_gone_is_shown_without_what_the_model_saw(
    shared_index_path: Path, shared_photos: Path, tmp_path: Path
) -> None:
    photos = shutil.copytree(shared_photos, tmp_path / "photos")
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos)
        hits = index.search(read_images(photos).paths[0], 3)
        Path(hits[1].path).unlink()
        looks = explain(index, hits[0].id, hits).looks
        nothing = explain(index, hits[0].id, [])
    assert [look is None for look in looks] == [False, True, False]
    assert (nothing.agree, nothing.looks) == ([], [])
