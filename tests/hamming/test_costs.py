from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from wingbar.hamming import codes, costs
from wingbar.hamming.records import TYPICAL, Costs

SLOW = Costs(100.0, 100.0, (1e-6, 1e-6, 1e-6), 1e-6, 1e-6, 1e-6)  # a scan is never chosen
FAST = Costs(1e-6, 1e-6, (1e6, 1e6, 1e6), 1e6, 1e6, 1e6)  # anything else is never chosen


def test_costs_survive_a_file() -> None:
    assert costs.decoded(costs.encoded(TYPICAL)) == TYPICAL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps({**TYPICAL._asdict(), "candidate": 0}),
        json.dumps({**TYPICAL._asdict(), "candidate": math.nan}),
        json.dumps({**TYPICAL._asdict(), "candidate": "4"}),
        json.dumps({**TYPICAL._asdict(), "bucket": [1.0, 2.0]}),
        json.dumps({**TYPICAL._asdict(), "more": 1.0}),
    ],
)
def test_what_is_no_costs_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"costs|Expecting"):
        costs.decoded(text)


def test_they_are_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, measured = tmp_path / "costs.json", []
    monkeypatch.setattr(costs, "_path", lambda size: path)

    def measure(size: int) -> Costs:
        measured.append(size)
        return TYPICAL._replace(candidate=7.0)

    monkeypatch.setattr(costs, "measure", measure)
    for text, times in ((None, 1), (None, 1), ("{", 2), (None, 2)):
        if text is not None:
            path.write_text(text)  # damaged, so measured again
        costs._of_words.cache_clear()
        assert costs.of_machine(48).candidate == 7.0
        assert len(measured) == times
    costs._of_words.cache_clear()


def test_a_folder_that_cannot_be_written_costs_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "_path", lambda size: tmp_path / "gone" / "costs.json")
    monkeypatch.setattr(costs, "measure", lambda size: TYPICAL)
    costs._of_words.cache_clear()
    assert costs.of_machine(48) == TYPICAL
    costs._of_words.cache_clear()


@pytest.mark.parametrize("bits", [24, 48])
def test_they_change_no_result(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 2**bits, (300_000, 1), np.uint64)
    queries = rng.integers(0, 2**bits, (4, 1), np.uint64)
    found = []
    for one in (TYPICAL, SLOW, FAST):
        monkeypatch.setattr(codes, "of_machine", lambda bits, one=one: one)
        searchable = codes.Codes(packed, bits, compiled=True)
        allowed = searchable.only(np.arange(0, 300_000, 50))
        found.append(
            [
                *searchable.nearest(queries, 10),
                *searchable.nearest(queries[:1], 10),
                *searchable.nearest(queries[:1], 10, allowed=allowed),
            ]
        )
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a.ids, b.ids)
            np.testing.assert_array_equal(a.distances, b.distances)


@pytest.mark.slow
@pytest.mark.parametrize("size", [4, 8, 16])
def test_what_is_measured_is_plausible(size: int) -> None:
    measured = costs.measure(size)
    assert costs.decoded(costs.encoded(measured)) == measured
    assert 0.001 < measured.scanned_byte < 10
    assert measured.bucket[0] <= measured.bucket[2]


def test_expected_by_hand() -> None:
    """Radius 3 with 3 tables: (0, 0), (0, 1), (0, 2) and (1, 0), of 16 codes a bucket."""
    bucket = TYPICAL.bucket[1] + 16 * TYPICAL.candidate
    assert costs.expected(3, 3) == pytest.approx(3 * bucket + 16 * bucket)
