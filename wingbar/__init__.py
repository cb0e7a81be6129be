"""wingbar: from a folder of images to visual search, with compact hash codes first and float features second."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wingbar.adding import AddReport, Failure, RefitReport
    from wingbar.datasets import Dataset, Images, read_dataset, read_images
    from wingbar.errors import DataError, ImageError, ModelError, QueryError, StoreError, TrainingError, WingbarError
    from wingbar.evaluation import Evaluation, evaluate
    from wingbar.index import Hit, Hits, Index, IndexInfo, verify
    from wingbar.measures import expected_ap
    from wingbar.model import Embeddings, Model
    from wingbar.training import Run, train

__version__ = "0.1.0"

_HOME = {
    "AddReport": "adding",
    "DataError": "errors",
    "Dataset": "datasets",
    "Embeddings": "model",
    "Evaluation": "evaluation",
    "Failure": "adding",
    "Hit": "index",
    "Hits": "index",
    "ImageError": "errors",
    "Images": "datasets",
    "Index": "index",
    "IndexInfo": "index",
    "Model": "model",
    "ModelError": "errors",
    "QueryError": "errors",
    "RefitReport": "adding",
    "Run": "training",
    "StoreError": "errors",
    "TrainingError": "errors",
    "WingbarError": "errors",
    "evaluate": "evaluation",
    "expected_ap": "measures",
    "read_dataset": "datasets",
    "read_images": "datasets",
    "train": "training",
    "verify": "index",
}
__all__ = [*_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `wingbar --help` starts in a tenth of a second."""
    if name in _HOME:
        return getattr(import_module(f"wingbar.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wingbar' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
