"""wingbar: from a folder of images to visual search, with compact hash codes first and float
features second."""

import os

TYPE_CHECKING = False  # the typing module takes longer to load than all of this
if TYPE_CHECKING:
    from typing import Any

    from wingbar.data.readers import read_dataset, read_images
    from wingbar.data.records import Dataset, Images
    from wingbar.duplicates.find import DuplicateOptions, Duplicates, find_duplicates
    from wingbar.errors import (
        DataError,
        ImageError,
        ModelError,
        QueryError,
        StoreError,
        TrainingError,
        WingbarError,
    )
    from wingbar.evaluation.choosing import Choice, choose_model
    from wingbar.evaluation.labelled import Evaluation, evaluate
    from wingbar.evaluation.metrics import expected_ap
    from wingbar.images import Failure
    from wingbar.index.checks import verify
    from wingbar.index.index import Index, IndexInfo
    from wingbar.index.ranking import Hit, Hits
    from wingbar.index.refit import RefitReport
    from wingbar.index.sync import AddReport
    from wingbar.model.model import Embeddings, Model
    from wingbar.training.loop import train
    from wingbar.training.run import Run

# ONNX Runtime reports to its makers and leaves an id of the machine in the user's cache folder,
# from the moment that it is imported, unless this is set before.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.2.0.dev0"

_HOME = {
    "AddReport": "index.sync",
    "Choice": "evaluation.choosing",
    "DataError": "errors",
    "Dataset": "data.records",
    "DuplicateOptions": "duplicates.find",
    "Duplicates": "duplicates.find",
    "Embeddings": "model.model",
    "Evaluation": "evaluation.labelled",
    "Failure": "images",
    "Hit": "index.ranking",
    "Hits": "index.ranking",
    "ImageError": "errors",
    "Images": "data.records",
    "Index": "index.index",
    "IndexInfo": "index.index",
    "Model": "model.model",
    "ModelError": "errors",
    "QueryError": "errors",
    "RefitReport": "index.refit",
    "Run": "training.run",
    "StoreError": "errors",
    "TrainingError": "errors",
    "WingbarError": "errors",
    "choose_model": "evaluation.choosing",
    "evaluate": "evaluation.labelled",
    "expected_ap": "evaluation.metrics",
    "find_duplicates": "duplicates.find",
    "read_dataset": "data.readers",
    "read_images": "data.readers",
    "train": "training.loop",
    "verify": "index.checks",
}
__all__ = [*_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> "Any":
    """Import a public name when it is first used, so that `wingbar --help` starts in a tenth of a
    second."""
    from importlib import import_module

    if name in _HOME:
        return getattr(import_module(f"wingbar.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wingbar' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
