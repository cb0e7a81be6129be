"""Seen and unseen classes: the codes of a trained model beside codes that each index learns from
the features of the same network, all through the index and its own search.

    wingbar train cmbh butterflies -o m48 --bits 48 --protocol unseen
    python benchmarks/unseen.py m48 butterflies WORK

Classes that model.json does not name are unseen. Three galleries (the seen classes, the unseen
ones, all together) are indexed in WORK, with the model as it is (trained) and with open codes, for
instances and for classes, and with the built-in model, which no one trained on them, for classes.
How open codes are fitted is chosen without labels. Each cell is the MAP of the codes over the whole
gallery, expected over ties, of the queries of one side; the line below is that of the features.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from wingbar.data.readers import read_dataset
from wingbar.data.records import Images
from wingbar.errors import DataError, WingbarError, counted
from wingbar.evaluation.labelled import evaluate
from wingbar.index.index import Index
from wingbar.model.model import Model

CELLS = (("seen", "seen"), ("unseen", "unseen"), ("seen", "all"), ("unseen", "all"))
"""Queries and gallery."""


def sides(images: Images, seen: frozenset[str]) -> dict[str, Images]:
    """The images of the seen classes, of the unseen ones, and all of them."""
    labelled = [entry for entry in images if entry.label is not None]
    parts = {
        "seen": [entry for entry in labelled if str(entry.label) in seen],
        "unseen": [entry for entry in labelled if str(entry.label) not in seen],
        "all": labelled,
    }
    return {name: Images(entries, images.protocol) for name, entries in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data")
    parser.add_argument("work", type=Path)
    parser.add_argument("--bits", type=int, help="of the open codes (default: as the model)")
    args = parser.parse_args()
    trained = Model.load(args.model)
    data = read_dataset(args.data)
    seen = frozenset(trained.record["classes"])
    galleries, queries = sides(data.gallery, seen), sides(data.query, seen)
    for name, images in [*galleries.items(), *queries.items()]:
        if not len(images):
            raise DataError(
                f"{args.data} has no queries or no gallery of {name} classes: {args.model} was "
                f"trained on {counted(len(seen), 'class', 'classes')}, such as {min(seen)}"
            )
    bits = args.bits or trained.bits
    kinds = {
        "trained": (trained, None),
        "open, for instances": (trained.opened(), "instances"),
        "open, for classes": (trained.opened(), "classes"),
        "built-in, for classes": (Model.load("general"), "classes"),
    }
    args.work.mkdir(parents=True, exist_ok=True)
    if any(args.work.iterdir()):
        raise DataError(f"{args.work} is not empty: name a new folder for the indexes")
    print(f"{'':22}" + "".join(f"{f'{query} in {gallery}':>18}" for query, gallery in CELLS))
    for kind, (model, purpose) in kinds.items():
        indexes = {}
        for name, gallery in galleries.items():
            index = Index.create(args.work / f"{kind.replace(', ', '-')}-{name}.wb", model)
            index.add(gallery, bits=None if purpose is None else bits, purpose=purpose)
            indexes[name] = index
        found = [
            evaluate(indexes[gallery], queries[query], keep_constant_bits=True)
            for query, gallery in CELLS
        ]
        print(f"{kind:22}" + "".join(f"{cell.map:18.4f}" for cell in found), flush=True)
        print(f"{'  its features':22}" + "".join(f"{cell.feature_map:18.4f}" for cell in found))
        for index in indexes.values():
            index.close()


if __name__ == "__main__":
    try:
        main()
    except WingbarError as error:
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
