from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wingbar.errors import QueryError
from wingbar.hamming.codes import pack, unpack
from wingbar.index.feedback import moved
from wingbar.index.index import Index
from wingbar.model.model import Embeddings

BITS, DIM = 70, 5


def embeddings(seed: int, fingerprint: str = "f") -> Embeddings:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((1, DIM))
    logits = rng.standard_normal((1, BITS)).astype(np.float32)
    unit = (features / np.linalg.norm(features)).astype(np.float32)
    return Embeddings(pack(logits >= 0), unit, logits, BITS, "m", fingerprint)


def test_a_query_is_moved_as_the_formula_says() -> None:
    query, a, b, c = (embeddings(seed) for seed in range(4))
    out = moved(query, [a, b], [c], beta=0.8, gamma=0.3)
    feature = [
        float(query.features[0, i])
        + 0.8 * (float(a.features[0, i]) + float(b.features[0, i]))
        - 0.3 * float(c.features[0, i])
        for i in range(DIM)
    ]
    length = sum(value**2 for value in feature) ** 0.5
    assert np.allclose(out.features[0], [value / length for value in feature], atol=1e-6)
    sizes = [sum(abs(float(v)) for v in one.logits[0]) / BITS for one in (query, a, b, c)]
    for i in range(BITS):
        q, x, y, z = (
            float(one.logits[0, i]) / size
            for one, size in zip((query, a, b, c), sizes, strict=True)
        )
        logit = q + 0.8 * (x + y) - 0.3 * z
        assert out.logits[0, i] == pytest.approx(logit, abs=1e-5)
        assert unpack(out.codes, BITS)[0, i] == (logit >= 0)


def test_without_marks_a_query_stays_as_it_is() -> None:
    query = embeddings(0)
    assert moved(query) is query
    assert np.isfinite(moved(query, [], [query], gamma=1).features).all()  # nothing is left


def test_what_cannot_be_moved() -> None:
    query = embeddings(0)
    with pytest.raises(QueryError, match="two models"):
        moved(query, [embeddings(1, "another")])
    two = replace(query, features=np.repeat(query.features, 2, 0))
    with pytest.raises(QueryError, match="one picture, not of 2"):
        moved(query, [two])
    with pytest.raises(QueryError, match="at least 0"):
        moved(query, [query], beta=-1)


def test_marks_bring_what_is_like_them(shared_index_path: Path) -> None:
    with Index.open(shared_index_path) as index:
        ids: dict[str, list[int]] = {"red": [], "blue": []}
        for id_, item in zip(index.ids().tolist(), index.items(), strict=True):
            if item.label in ids:
                ids[item.label].append(id_)
        red, blue = (index.embedding(ids[label][0]) for label in ("red", "blue"))
        before, after = (
            {hit.id: hit.score or 0 for hit in index.search(query, k=60)}
            for query in (red, moved(red, [blue], [red]))
        )
        assert all(after[id_] > before[id_] for id_ in ids["blue"])
