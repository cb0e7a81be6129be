"""A few seeded rounds of kill -9; `python benchmarks/faults.py` runs hundreds of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.databases import postgres
from tests.index.fault_rounds import (
    Counts,
    also_rounds,
    change_rounds,
    copy_rounds,
    printed,
    refit_rounds,
)

pytestmark = pytest.mark.slow

DURABLE = {"fsync": "off", "synchronous_commit": "on"}  # the machine itself does not crash


def check(counts: Counts, rounds: int) -> None:
    assert (counts.rounds, counts.lost, counts.torn) == (rounds, 0, 0), printed(counts)
    assert counts.cut_off, "no kill came in the middle of anything"
    assert counts.acknowledged


def test_changes_of_a_file(tmp_path: Path) -> None:
    check(change_rounds(str(tmp_path / "a.wb"), tmp_path, 6, seed=0), 6)


def test_changes_while_the_server_is_killed(tmp_path: Path) -> None:
    with postgres(DURABLE) as server:
        url = server.url("rounds") + "?partitions=2"
        check(change_rounds(url, tmp_path, 5, seed=0, server=server), 5)


def test_copy(tmp_path: Path) -> None:
    check(copy_rounds(tmp_path, 6, seed=0), 6)


def test_a_second_encoder(tmp_path: Path) -> None:
    check(also_rounds(tmp_path, 4, seed=0), 4)


def test_refit(tmp_path: Path) -> None:
    check(refit_rounds(tmp_path, 6, seed=0), 6)
