"""Model: a directory of files that turns images into codes and features, run by ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.errors import ModelError, QueryError
from wingbar.files import write_whole
from wingbar.hamming import codes
from wingbar.model import itq

if TYPE_CHECKING:
    import onnxruntime

from wingbar.parallel import BATCH, batched, cores, in_order

FORMAT = 1
GENERAL = Path(__file__).parent / "general"
OUTPUTS = ("feature", "logits")  # names of what a network gives; others are there to explain it
SAMPLE = 4096  # images that a label-free model is fitted on, at most
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Embeddings:
    """What a model made of B images: codes [B, w] uint64 (see codes.py), features [B, d] float32 of
    length one, and the logits [B, b] float32 whose signs are the codes.

    `model` and `fingerprint` say whose they are; an index of another model refuses them.
    """

    codes: codes.Packed
    features: Float32
    logits: Float32
    bits: int
    model: str
    fingerprint: str

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, i: int) -> Embeddings:
        """The embedding of image `i`, still with its batch axis."""
        one = slice(i, i + 1)
        return replace(
            self, codes=self.codes[one], features=self.features[one], logits=self.logits[one]
        )


class Model:
    """A loaded model. Its `files` are all there is to it: the same bytes in a folder or inside an
    index."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """`files` by name, model.json among them. Raises ModelError when they do not belong
        together."""
        self.files = dict(files)
        record = _read_record(self.files)
        self.record: Mapping[str, Any] = record
        self.name: str = record["name"]
        self.method: str = record["method"]
        self.fine: str = record["fine"]
        self.preprocessing = _preprocessing(record["preparation"])
        self.fingerprint = hashlib.sha256(self.files["model.json"]).hexdigest()
        self.rotation = (
            itq.Rotation.from_bytes(files["rotation.npz"]) if "rotation.npz" in files else None
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str] = "general") -> Model:
        """The model in the directory `path`, or the one inside the package when that is "general".

        Raises ModelError when there is none, or when a file is not the one that model.json
        describes.
        """
        folder = GENERAL if path == "general" else Path(path)
        if not (folder / "model.json").is_file():
            raise ModelError(
                f"no model in {folder}: a model is a directory with model.json in it, or the word "
                "general"
            )
        try:
            record = (folder / "model.json").read_bytes()
            names = list(json.loads(record)["files"])
            return cls(
                {"model.json": record} | {name: (folder / name).read_bytes() for name in names}
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{folder / 'model.json'} cannot be read ({error}): copy the directory again"
            ) from None
        except OSError as error:
            raise ModelError(
                f"{folder} is not complete ({error}): copy the directory again"
            ) from None

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model's files into `folder`, model.json last, so that a half-written directory
        is no model."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in sorted(self.files.items(), key=lambda item: item[0] == "model.json"):
            write_whole(folder / name, data)

    def __str__(self) -> str:
        bits = f"{self.bits} bits" if self.gives_codes else "not fitted yet"
        return f"{self.name} ({self.method}, {bits}, {self.fingerprint[:12]})"

    @property
    def gives_codes(self) -> bool:
        """Whether codes come out: a label-free model has none before it was fitted on images."""
        return self.rotation is not None or "bits" in self.record

    @property
    def bits(self) -> int:
        """Length of the code. Raises ModelError before a label-free model was fitted."""
        if self.rotation is not None:
            return self.rotation.bits
        if "bits" not in self.record:
            raise ModelError(
                f"{self.name} learns its codes from the first images that an index gets: add some "
                "first"
            )
        return int(self.record["bits"])

    @property
    def longest_code(self) -> int:
        """How many bits a code of this model may have."""
        return int(self.record["dim"]) if self.method == "itq" else self.bits

    @property
    def dim(self) -> int:
        """Length of the feature."""
        return int(self.record["dim"]) if self.rotation is None else self.rotation.dim

    def encode(self, sources: Iterable[images.Source], *, threads: int | None = None) -> Embeddings:
        """Codes and features of images: paths, bytes, PIL images or uint8 arrays [H, W, 3].

        Pictures are decoded by `threads` threads (default: one a core) while the network runs.
        Raises ImageError when one cannot be used, ModelError when the model was not fitted.
        """
        pixels = in_order(
            sources, lambda source: images.load(source, self.preprocessing), threads or cores()
        )
        return self.encode_pixels(pixels)

    def encode_pixels(self, pixels: Iterable[images.Pixels]) -> Embeddings:
        """Codes and features of pixels [H, W, 3] uint8 that `images.load` has prepared for this
        model."""
        raw = [self.run(batch) for batch in batched(pixels, BATCH)]
        return self.embed(
            np.concatenate(raw) if raw else np.empty((0, self._outputs_wide), np.float32)
        )

    def run(self, pixels: Iterable[images.Pixels]) -> Float32:
        """The network alone: pixels as `images.load` gives them -> raw outputs [B, r] float32.

        A raw output is the network's feature, followed by its code logits where it has them.
        """
        return over_scales(self._run, list(pixels), self.preprocessing)

    def _run(self, pixels: NDArray[np.uint8]) -> tuple[Float32, Float32 | None]:
        """Pixels [B, H, W, 3] -> unit features and code logits."""
        outputs = [
            out.astype(np.float32, copy=False)
            for out in self._session.run(OUTPUTS[: self._count], {"pixels": pixels})
        ]
        return outputs[0], outputs[1] if self._count > 1 else None

    def auxiliary_outputs(self, source: images.Source) -> dict[str, Float32]:
        """What the network gives of one image beside feature and code, by name and without the
        batch axis; {} for most.

        A model of several scales looks at the one nearest to 1. Raises ImageError as `encode` does.
        """
        names = [
            output.name for output in self._session.get_outputs() if output.name not in OUTPUTS
        ]
        if not names:
            return {}
        one = min(self.preprocessing.scales, key=lambda scale: abs(np.log(scale)))
        pixels = images.load(source, replace(self.preprocessing, scales=(one,)))
        return {
            name: out[0]
            for name, out in zip(
                names, self._session.run(names, {"pixels": pixels[None]}), strict=True
            )
        }

    def embed(self, raw: Float32) -> Embeddings:
        """Raw outputs [B, r] of `run` -> codes and features. Raises ModelError when the model was
        not fitted."""
        bits = self.bits
        if self.rotation is not None:
            logits, features = self.rotation.apply(raw)
        else:
            features, logits = raw[:, :-bits], raw[:, -bits:].astype(np.float64)
        packed = codes.pack(logits >= 0)
        return Embeddings(
            packed, features, logits.astype(np.float32), bits, self.name, self.fingerprint
        )

    def fitted(self, raw: Float32, bits: int, seed: int) -> Model:
        """This label-free model with codes of `bits` bits, learnt from raw outputs [n, r] of a
        sample (ITQ).

        Raises ModelError when the model has codes of its own or `bits` does not fit.
        """
        if self.method != "itq":
            raise ModelError(
                f"{self.name} was trained with {self.method} and has codes of its own: nothing to "
                "fit"
            )
        try:
            rotation = itq.fit(raw, bits, np.random.default_rng(seed))
        except ValueError as error:
            raise ModelError(str(error)) from None
        record = {
            **self.record,
            "fitted": {"sample": len(raw), "bits": bits, "dim": rotation.dim, "seed": seed},
        }
        rest = {name: data for name, data in self.files.items() if name != "model.json"}
        return Model(with_record(rest | {"rotation.npz": rotation.to_bytes()}, record))

    def with_preprocessing(self, preprocessing: images.Preprocessing) -> Model:
        """This model, seeing pictures in another way; for a new index, as codes and features
        change. A rotation stays.

        Raises ModelError where its network takes pictures of one size only.
        """
        _, height, width, _ = self._session.get_inputs()[
            0
        ].shape  # numbers, or names as "height" and "32*height"
        if isinstance(height, int) and (preprocessing.whole or preprocessing.size != height):
            only = (
                f"pictures of {width} x {height} only: train it with --whole, or with another "
                "--test-size"
            )
            raise ModelError(f"the network of {self.name} takes {only}")
        if (
            isinstance(height, str)
            and "*" in height
            and preprocessing.size % int(height.split("*")[0])
        ):
            raise ModelError(
                f"the network of {self.name} takes multiples of {height.split('*')[0]} pixels, "
                f"not {preprocessing.size}"
            )
        record = {
            key: value for key, value in self.record.items() if key not in ("format", "files")
        }
        rest = {name: data for name, data in self.files.items() if name != "model.json"}
        return Model(
            with_record(rest, {**record, "preparation": preprocessing_record(preprocessing)})
        )

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores()
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(
            self.files["model.onnx"], options, providers=["CPUExecutionProvider"]
        )

    @property
    def _count(self) -> int:
        """How many of OUTPUTS the network gives."""
        return sum(output.name in OUTPUTS for output in self._session.get_outputs())

    @property
    def _outputs_wide(self) -> int:
        return sum(
            int(output.shape[1]) for output in self._session.get_outputs() if output.name in OUTPUTS
        )


def over_scales(
    run: Callable[[NDArray[np.uint8]], tuple[Float32, Float32 | None]],
    pixels: Sequence[images.Pixels],
    preprocessing: images.Preprocessing,
) -> Float32:
    """Raw outputs [B, r] of pictures as `images.load` gives them, by a network that takes equal
    shapes only.

    `run` gives unit features and code logits of [B, H, W, 3]. Over several scales the mean of the
    features, of length one again, and the mean of the logits are taken (DOLG, Section 4.1, for the
    features).
    """
    views = [
        (i, view)
        for i, picture in enumerate(pixels)
        for view in images.at_scales(picture, preprocessing)
    ]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, (_, view) in enumerate(views):
        by_shape.setdefault(view.shape, []).append(place)
    raw: list[Float32] = [np.empty(0, np.float32)] * len(views)
    wide = 0
    for places in by_shape.values():
        for batch in batched(places, BATCH):
            features, logits = run(np.stack([views[place][1] for place in batch]))
            wide = features.shape[1]
            both = features if logits is None else np.concatenate([features, logits], axis=1)
            for place, row in zip(batch, both, strict=True):
                raw[place] = row
    owner = np.array([i for i, _ in views])
    if len(views) == len(pixels):
        return np.stack(raw)
    out = np.stack(
        [
            np.mean([raw[place] for place in np.flatnonzero(owner == i)], axis=0)
            for i in range(len(pixels))
        ]
    )
    out[:, :wide] /= np.maximum(np.linalg.norm(out[:, :wide], axis=1, keepdims=True), 1e-12)
    return out.astype(np.float32)


def with_record(files: Mapping[str, bytes], record: Mapping[str, Any]) -> dict[str, bytes]:
    """`files` with a model.json made of `record`, the format number and the sha256 of each file."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    content = {**record, "format": FORMAT, "files": hashes}
    return {**files, "model.json": json.dumps(content, indent=1, sort_keys=True).encode()}


def preprocessing_record(preprocessing: images.Preprocessing) -> dict[str, Any]:
    """What model.json says of the preprocessing; read back by `Model`."""
    return asdict(preprocessing)


def check_same(embeddings: Embeddings, model: Model, owner: str) -> None:
    """Refuse embeddings of another model than the one of `owner`, naming both. Raises
    QueryError."""
    if embeddings.fingerprint != model.fingerprint:
        raise QueryError(
            f"the query was encoded by {embeddings.model} ({embeddings.fingerprint[:12]}), "
            f"{owner} by {model}: "
            "encode it with the index's own model"
        )


def _read_record(files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(files["model.json"])
        if record["format"] > FORMAT:
            raise ModelError(
                f"the model has format {record['format']}, this wingbar reads {FORMAT}: upgrade "
                "wingbar"
            )
        for name, expected in record["files"].items():
            if name not in files or hashlib.sha256(files[name]).hexdigest() != expected:
                raise ModelError(
                    f"{name} is not the file that model.json describes: copy the model again"
                )
        for key in ("name", "method", "fine", "preparation", "dim"):
            record[key]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"model.json cannot be read ({type(error).__name__}: {error})") from None
    return record


def _preprocessing(record: dict[str, Any]) -> images.Preprocessing:
    try:
        return images.Preprocessing(**{**record, "scales": tuple(record.get("scales", (1.0,)))})
    except (TypeError, ValueError):
        raise ModelError(
            f"this model needs a newer wingbar: it prepares pixels by {record}"
        ) from None
