"""Model: a directory of files that turns images into codes and features, run by ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from wingbar.parallel import BATCH, batched, cores, in_order

if TYPE_CHECKING:
    import onnxruntime

FORMAT = 1  # of model.json
GENERAL = Path(__file__).parent / "general"
OUTPUTS = ("feature", "logits")  # outputs of a network by name; all others are auxiliary
SAMPLE = 4096  # images that a label-free model is fitted to, at most
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Embeddings:
    """What a model made of B images. An index of another model refuses it.

    codes: packed codes, [B, w] uint64 with w = ceil(bits / 64) (see hamming/codes.py).
    features: [B, d] float32, rows of unit length.
    logits: [B, bits] float32; a bit is 1 where its logit is >= 0.
    bits: length of the code.
    model: name of the model.
    fingerprint: of the model, 64 hexadecimal digits.
    """

    codes: codes.Packed
    features: Float32
    logits: Float32
    bits: int
    model: str
    fingerprint: str

    def __len__(self) -> int:
        return len(self.features)

    def __iter__(self) -> Iterator[Embeddings]:
        """Each image's embedding, its batch axis kept."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int | slice) -> Embeddings:
        """The embedding of image `i` (negative: from the end), its batch axis kept, or those of a
        slice. Raises IndexError beyond the last one."""
        if isinstance(i, slice):
            chosen = i
        else:
            place = range(len(self))[i]
            chosen = slice(place, place + 1)
        return replace(
            self,
            codes=self.codes[chosen],
            features=self.features[chosen],
            logits=self.logits[chosen],
        )


class Model:
    """A loaded model, the same whether its files come from a directory or from an index.

    files: the content of each file by name; they are the whole model.
    record: the content of model.json.
    name: what messages call it.
    method: cmbh, dlbhc, dolg, or itq for a label-free model.
    fine: the fine mode that searches use by default.
    preprocessing: how images become the network's pixels.
    fingerprint: sha256 of model.json, which names the sha256 of every other file.
    rotation: what makes codes of the network's features; None where the network gives codes, or a
        label-free model has not been fitted yet.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """Raises ModelError when the files are incomplete, damaged or of a newer format."""
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
        """The model in the directory `path`, or the built-in one for "general".

        Raises ModelError when there is none, or when a file is not the one that model.json
        describes.
        """
        folder = GENERAL if path == "general" else Path(path)
        if not (folder / "model.json").is_file():
            raise ModelError(
                f"no model in {folder}: a model is a directory that holds model.json, or the word "
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
        """Write the model's files into `folder`, model.json last, so that a directory that was not
        written completely is not taken for a model. Raises OSError."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in sorted(self.files.items(), key=lambda item: item[0] == "model.json"):
            write_whole(folder / name, data)

    def __str__(self) -> str:
        bits = f"{self.bits} bits" if self.gives_codes else "not fitted yet"
        return f"{self.name} ({self.method}, {bits}, {self.fingerprint[:12]})"

    @property
    def gives_codes(self) -> bool:
        """Whether the model gives codes: a label-free model does once it is fitted to images."""
        return self.rotation is not None or "bits" in self.record

    @property
    def bits(self) -> int:
        """Length of the code. Raises ModelError for a label-free model that is not fitted yet."""
        if self.rotation is not None:
            return self.rotation.bits
        if "bits" not in self.record:
            raise ModelError(
                f"{self.name} learns its codes from the first images that are added to an index: "
                "add some first"
            )
        return int(self.record["bits"])

    @property
    def longest_code(self) -> int:
        """The greatest number of bits that a code of this model can have."""
        return int(self.record["dim"]) if self.method == "itq" else self.bits

    @property
    def dim(self) -> int:
        """Length of the feature."""
        return int(self.record["dim"]) if self.rotation is None else self.rotation.dim

    def encode(self, sources: Iterable[images.Source], *, threads: int | None = None) -> Embeddings:
        """Codes and features of images: paths, bytes, PIL images or uint8 arrays [H, W, 3].

        `threads` threads (default: one per core) decode images while the network runs. Raises
        ImageError when an image cannot be used, ModelError when the model is not fitted yet.
        """
        pixels = in_order(
            sources, lambda source: images.load(source, self.preprocessing), threads or cores()
        )
        return self.encode_pixels(pixels)

    def encode_pixels(self, pixels: Iterable[images.Pixels]) -> Embeddings:
        """Codes and features of pixels [H, W, 3] uint8 that `images.load` prepared for this model.
        Raises ModelError when the model is not fitted yet."""
        raw = [self.run(batch) for batch in batched(pixels, BATCH)]
        return self.embed(
            np.concatenate(raw) if raw else np.empty((0, self._raw_length), np.float32)
        )

    def run(self, pixels: Iterable[images.Pixels]) -> Float32:
        """The network alone: pixels as `images.load` gives them -> raw outputs [B, r] float32.

        A raw output is the network's feature, followed by its code logits where it gives them.
        """
        return over_scales(self._run, list(pixels), self.preprocessing)

    def _run(self, pixels: NDArray[np.uint8]) -> tuple[Float32, Float32 | None]:
        """Pixels [B, H, W, 3] -> unit features [B, d] and code logits [B, b], if any."""
        names = [output.name for output in self._main_outputs]
        found = dict(zip(names, self._session.run(names, {"pixels": pixels}), strict=True))
        feature = found["feature"].astype(np.float32, copy=False)
        logits = found.get("logits")
        return feature, None if logits is None else logits.astype(np.float32, copy=False)

    def auxiliary_outputs(self, source: images.Source) -> dict[str, Float32]:
        """What the network gives for one image beside feature and code, by name and without the
        batch axis; {} for most networks. `saliency.look` interprets it.

        A model of several scales uses the one nearest to 1. Raises ImageError as `encode` does.
        """
        names = [
            output.name for output in self._session.get_outputs() if output.name not in OUTPUTS
        ]
        if not names:
            return {}
        scale = min(self.preprocessing.scales, key=lambda scale: abs(np.log(scale)))
        pixels = images.load(source, replace(self.preprocessing, scales=(scale,)))
        outputs = self._session.run(names, {"pixels": pixels[None]})
        return {name: output[0] for name, output in zip(names, outputs, strict=True)}

    def embed(self, raw: Float32) -> Embeddings:
        """Raw outputs [B, r] of `run` -> codes and features. Raises ModelError when the model is
        not fitted yet."""
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
        """This label-free model with codes of `bits` bits, fitted to raw outputs [n, r] of a sample
        of n images (ITQ).

        Raises ModelError when the model has codes of its own or `bits` is out of range.
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
        """This model with another preprocessing, which makes it another model: it needs an index of
        its own, as codes and features change. A rotation stays.

        Raises ModelError where the network does not take images of that size.
        """
        # a number, or an expression: "height" for any, "32*height" for a multiple
        _, height, width, _ = self._session.get_inputs()[0].shape
        if isinstance(height, int) and (preprocessing.whole or preprocessing.size != height):
            raise ModelError(
                f"the network of {self.name} takes images of {width} x {height} only: train it "
                "with --whole, or with another --test-size"
            )
        if isinstance(height, str) and "*" in height:
            step = int(height.split("*")[0])
            if preprocessing.size % step:
                raise ModelError(
                    f"the network of {self.name} takes multiples of {step} pixels, not "
                    f"{preprocessing.size}"
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

    @cached_property
    def _main_outputs(self) -> list[onnxruntime.NodeArg]:
        """The network's outputs without the auxiliary ones."""
        return [output for output in self._session.get_outputs() if output.name in OUTPUTS]

    @property
    def _raw_length(self) -> int:
        """Length r of a raw output."""
        return sum(int(output.shape[1]) for output in self._main_outputs)


def over_scales(
    run: Callable[[NDArray[np.uint8]], tuple[Float32, Float32 | None]],
    pixels: Sequence[images.Pixels],
    preprocessing: images.Preprocessing,
) -> Float32:
    """Raw outputs [B, r] of B images whose shapes may differ, in batches of equal shape.

    `pixels` are as `images.load` gives them; `run` takes pixels [b, H, W, 3] and gives unit
    features and code logits, if any. Over several scales the features are averaged and scaled back
    to unit length (DOLG, Section 4.1), and the logits are averaged.
    """
    views = [
        (i, view)
        for i, image in enumerate(pixels)
        for view in images.at_scales(image, preprocessing)
    ]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, (_, view) in enumerate(views):
        by_shape.setdefault(view.shape, []).append(place)
    raw: list[Float32] = [np.empty(0, np.float32)] * len(views)
    dim = 0
    for places in by_shape.values():
        for batch in batched(places, BATCH):
            features, logits = run(np.stack([views[place][1] for place in batch]))
            dim = features.shape[1]
            rows = features if logits is None else np.concatenate([features, logits], axis=1)
            for place, row in zip(batch, rows, strict=True):
                raw[place] = row
    if len(views) == len(pixels):
        return np.stack(raw)
    image_of = np.array([i for i, _ in views])
    means = np.stack(
        [
            np.mean([raw[place] for place in np.flatnonzero(image_of == i)], axis=0)
            for i in range(len(pixels))
        ]
    )
    means[:, :dim] = itq.unit(means[:, :dim])
    return means.astype(np.float32)


def with_record(files: Mapping[str, bytes], record: Mapping[str, Any]) -> dict[str, bytes]:
    """`files` and a model.json of `record`, the format number and the sha256 of each file."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    content = {**record, "format": FORMAT, "files": hashes}
    return {**files, "model.json": json.dumps(content, indent=1, sort_keys=True).encode()}


def preprocessing_record(preprocessing: images.Preprocessing) -> dict[str, Any]:
    """The preprocessing as model.json holds it; `Model` reads it back."""
    return asdict(preprocessing)


def check_same(embeddings: Embeddings, model: Model, owner: str) -> None:
    """Raise QueryError, naming both models, when `embeddings` are not of `model`, which is the one
    of the index `owner`."""
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
                f"the model has format {record['format']}, this wingbar reads up to {FORMAT}: "
                "upgrade wingbar"
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
            f"this model needs a newer wingbar: its preprocessing is {record}"
        ) from None
