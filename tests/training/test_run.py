from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from tests.runs import CONFIG, SMALL
from wingbar.data.readers import read_images
from wingbar.data.records import Entry, Images
from wingbar.errors import TrainingError
from wingbar.methods import dlbhc
from wingbar.training import run


@pytest.mark.parametrize(
    "wrong",
    [{"schedule": "line"}, {"precision": "half"}, {"batch": 0}, {"held_out": 1.0}, {"lr": 0.0}],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TrainingError):
        replace(SMALL, **wrong)


def test_settings_are_numbers() -> None:
    for field in fields(run.Run):
        if isinstance(field.default, float):
            for value in (float("nan"), float("inf"), -1.0):
                wrong: dict[str, Any] = {field.name: value}
                with pytest.raises(TrainingError, match=f"^{field.name} must be "):
                    run.Run(**wrong)
    assert run.Run(size=28, test_size=0).test_size == 0
    for name in ("size", "test_size"):
        wrong_side: dict[str, Any] = {name: 7}
        with pytest.raises(TrainingError, match=f"^{name} must be at least 8 and at most"):
            run.Run(**wrong_side)
    with pytest.raises(TrainingError, match="cache must be 0 or at least --size, 64, not 20"):
        run.Run(size=64, cache=20)
    with pytest.raises(TrainingError, match="seed must be at least 0 and at most "):
        run.Run(seed=2**63)


@pytest.mark.slow
def test_a_run_is_read_back_as_it_was_recorded(trained: Path, data: Path, tmp_path: Path) -> None:
    found = run.recorded(trained)
    images = read_images(data)
    assert (found.method, found.config, found.run, found.start) == (dlbhc, CONFIG, SMALL, None)
    assert (found.data.paths, found.data.labels) == (images.paths, images.labels)
    assert run.describe(found) == run.describe(run.Recorded(dlbhc, CONFIG, SMALL, images, None))
    with pytest.raises(TrainingError, match="holds no run"):
        run.recorded(tmp_path)


def test_images_without_labels_are_recorded_as_instances(data: Path) -> None:
    unlabelled = Images([Entry(path) for path in read_images(data).paths], "no labels")
    for instances, count in ((True, 36), (False, 0)):
        chosen = replace(SMALL, instances=instances)
        described = run.describe(run.Recorded(dlbhc, CONFIG, chosen, unlabelled, None))
        assert len(described["images"]) == count
