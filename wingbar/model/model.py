"""Model: a directory of files that turns images into codes and features, run by ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.errors import ModelError, QueryError, one_line
from wingbar.files import write_whole
from wingbar.hamming import codes
from wingbar.model import averaging, fitting, installed, itq, random_pairs, runtime
from wingbar.model.random_pairs import RandomPairs
from wingbar.model.text import TOKENIZER, TOWER, TextEncoder, TextForm
from wingbar.parallel import BATCH, batched, cores, in_order, interruptible

if TYPE_CHECKING:
    import onnxruntime

FORMAT = 2  # of model.json that this wingbar reads
GENERAL = Path(__file__).parent / "general"
OUTPUTS = ("feature", "logits")  # outputs of a network by name; all others are auxiliary
SAMPLE = 4096  # images that a label-free model is fitted to, at most
# The network of `general` in version 0.1.0.
_INT8_GENERAL = "c1f55a5733eb6fa00689a4c7e81b95ef9f5a8e007205b1f2b3c6717462354de9"
# The networks that came with wingbar: their hashes say what a look at each of their parts would.
OWN_NETWORKS = (
    _INT8_GENERAL,
    "deeee8e78b3dccca51ecf88cd6476fec4265323f2e645a76da394972b701e13d",
)
MAX_BYTES = 10**9  # of each file of a model; a row of an index holds no more
MOST = 2**16  # of anything that a model counts, bits and numbers of a feature among it
MAX_SIZE = 4096  # side of the images that a model may ask for, in pixels
VECTORS = "vectors"  # the method of a model without a network, for embeddings made elsewhere
PROOF = "proof.npz"  # the file of what the exporting machine computed (proof.py)
NOT_FINITE = "the network's outputs for it are not finite: check the model, or train again"
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
    method: one of methods.NAMES, itq for a label-free model, or vectors for one without a network,
        whose features are made elsewhere.
    fine: the fine mode that searches use by default.
    preprocessing: how images become the network's pixels.
    batch: images per run of the network, at most: 1 for a network of one image, and for one whose
        outputs depend on what else is in a batch.
    fingerprint: sha256 of model.json, which names the sha256 of every other file.
    rotation: what makes codes of the network's features; None where the network gives codes, or a
        label-free model has not been fitted yet.
    """

    def __init__(self, files: Mapping[str, bytes], threads: int | None = None) -> None:
        """`threads` are the cores that its network runs on, None for all that this process may use.
        Raises ModelError when the files are incomplete, damaged, of a newer format, or such as no
        model has."""
        self.files = dict(files)
        self._threads = threads
        record = _read_record(self.files)
        for name in ("model.onnx", TOWER):
            if name in self.files and record["files"][name] not in OWN_NETWORKS:
                runtime.check_network(self.files[name], name)
        self.record: Mapping[str, Any] = record
        self.name = _shown(record["name"])
        self.method = _shown(record["method"])
        self.fine = _shown(record["fine"])
        self.preprocessing = _preprocessing(record["preparation"])
        self.batch = min(BATCH, record.get("batch", BATCH))
        self.fingerprint = hashlib.sha256(self.files["model.json"]).hexdigest()
        self.rotation = (
            itq.Rotation.from_bytes(files["rotation.npz"]) if "rotation.npz" in files else None
        )
        if self.rotation is not None and len(self.rotation.mean) != record["dim"]:
            raise ModelError(
                f"rotation.npz is for features of {len(self.rotation.mean)} numbers, the network "
                f"gives {record['dim']}: copy the model again"
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str] = "general") -> Model:
        """The model in the directory `path`, or by its name one that is installed (installed.py),
        or the built-in one for "general".

        Raises ModelError when there is none, when a file is not the one that model.json
        describes, or when it is no regular file inside of the directory.
        """
        folder = GENERAL if path == "general" else installed.directory_of(path)
        if unfinished := installed.unfinished_run(folder):
            raise ModelError(unfinished)
        if not (folder / "model.json").is_file():
            raise ModelError(
                f"no model in {os.fspath(path)}: a model is a directory that holds model.json, or "
                "the name of one in the folder of models (wingbar model list), or general"
            )
        try:
            data = _read_file(folder, "model.json")
            names = list(_parse_record(data)["files"])
            return cls({"model.json": data} | {name: _read_file(folder, name) for name in names})
        except ModelError as error:
            raise ModelError(f"{folder}: {error}") from None
        except OSError as error:
            raise ModelError(
                f"{folder} is not complete ({error}): copy the directory again"
            ) from None

    @classmethod
    def of_vectors(cls, dim: int, name: str = VECTORS) -> Model:
        """A model without a network, for vectors of `dim` numbers that another program makes.

        An index of it takes vectors in place of images, and is searched by vectors; its codes are
        learned from the first of them. Raises ModelError when `dim` is out of range.
        """
        if not 1 <= dim <= MOST:
            raise ModelError(f"vectors have from 1 to {MOST:,} numbers, not {dim:,}")
        record = {
            "name": name,
            "method": VECTORS,
            "fine": "pool",
            "dim": dim,
            "preparation": preprocessing_record(images.Preprocessing()),
        }
        return cls(with_record({}, record))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model's files into `folder`, model.json last, so that a directory that was not
        written completely is not taken for a model. Raises OSError."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in sorted(self.files.items(), key=lambda item: item[0] == "model.json"):
            write_whole(folder / name, data)

    def __str__(self) -> str:
        bits = f"{self.bits} bits" if self.gives_codes else "not fitted yet"
        return f"{self.name} ({method_text(self.method)}, {bits}, {self.fingerprint[:12]})"

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
        return int(self.record["dim"]) if self.is_label_free else self.bits

    @property
    def has_network(self) -> bool:
        """Whether the model encodes images; if not, it takes vectors that were made elsewhere."""
        return "model.onnx" in self.files

    @property
    def has_text(self) -> bool:
        """Whether the model encodes texts, too."""
        return {TOWER, TOKENIZER} <= self.files.keys() and "text" in self.record

    @property
    def is_label_free(self) -> bool:
        """Whether the codes are learned from the items of each index."""
        return self.method in ("itq", VECTORS)

    @cached_property
    def random_pairs(self) -> RandomPairs | None:
        """How near two random items are, where the codes were fitted to a sample of them; None for
        other models, and for those of older versions."""
        fitted = self.record.get("fitted", {})
        if not self.gives_codes:
            return None
        return RandomPairs.from_record(fitted.get("random_pairs"), self.bits)

    @property
    def chosen(self) -> Mapping[str, Any]:
        """What it was chosen for and by which figures (evaluation/choosing.py); empty for a model
        that was not chosen."""
        found: Mapping[str, Any] = self.record.get("chosen", {})
        return found

    @property
    def averages(self) -> bool:
        """Whether the items of its index are averaged with their neighbours."""
        return bool(self.record.get("fitted", {}).get("for") == "classes")

    @property
    def expand(self) -> int:
        """The number of neighbours that searches of its index average queries with by default."""
        return int(self.record.get("fitted", {}).get("expand", 0))

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

    def encode_text(self, text: str) -> Float32:
        """The unit vector [r] of a text, in the space of the raw features of images (`run`), which
        `raw_of` makes of stored ones. Raises QueryError when the model knows no texts or this one
        cannot be used, ModelError without the tokenizers package."""
        return self._texts.encode(text)

    def raw_of(self, features: NDArray[np.floating]) -> Float32:
        """The raw features [N, r] of images whose features [N, d] an index of this model stores;
        of a model that encodes texts. Raises QueryError for another one."""
        self._require_text()
        if self.rotation is None:
            return features.astype(np.float32)
        rotation = self.rotation
        if self.averages:
            half = rotation.dim // 2
            rotation = rotation._replace(feature=rotation.feature[:, half:])
            features = averaging.plain_of(features)
        try:
            return rotation.raw_of(features)
        except (ValueError, np.linalg.LinAlgError) as error:
            raise ModelError(
                f"features of {self.name} cannot be compared with texts ({one_line(error)})"
            ) from None

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
        return over_views(self._run, list(pixels), self.preprocessing, self.batch)

    def _run(self, pixels: NDArray[np.uint8]) -> tuple[Float32, Float32 | None]:
        """Pixels [B, H, W, 3] -> unit features [B, d] and code logits [B, b], if any."""
        self.require_network()
        lengths = {"feature": self._feature_length} | (
            {"logits": self.bits} if self._has_logits else {}
        )
        found = self._outputs(list(lengths), pixels)
        for name, length in lengths.items():
            if found[name].shape != (len(pixels), length):
                raise ModelError(
                    f"the network of {self.name} gives a {name} of shape {found[name].shape} for "
                    f"{len(pixels)} images, not ({len(pixels)}, {length}), as model.json says: "
                    "copy the model again"
                )
        return found["feature"], found.get("logits")

    def auxiliary_outputs(self, source: images.Source) -> dict[str, Float32]:
        """What the network gives for one image beside feature and code, by name and without the
        batch axis; {} for most networks. `saliency.look` interprets it.

        A model of several scales uses the one nearest to 1, and no mirror image. Raises ImageError
        as `encode` does.
        """
        self.require_network()
        names = [
            output.name for output in self._session.get_outputs() if output.name not in OUTPUTS
        ]
        if not names:
            return {}
        scale = min(self.preprocessing.scales, key=lambda scale: abs(np.log(scale)))
        pixels = images.load(source, replace(self.preprocessing, scales=(scale,)))
        return {name: output[0] for name, output in self._outputs(names, pixels[None]).items()}

    def activation(self, pixels: NDArray[np.uint8]) -> Float32 | None:
        """How strongly a convolutional network answers to each place of pixels [B, S, S, 3], S the
        size of its preprocessing: [B, h, w], 0 or more. That is the sum over the channels of the
        map that it pools (SCDA, Wei et al. 2017, Eq. 1). None for a network without such a map, as
        a transformer."""
        self.require_network()
        if self._activation_session is None:
            return None
        found = self._outputs([runtime.ACTIVATION], pixels, self._activation_session)
        maps = found[runtime.ACTIVATION]
        if maps.ndim != 4 or min(maps.shape) < 1:
            return None
        channels = 1 if maps.shape[2] == maps.shape[3] else 3
        strength = np.maximum(maps, 0).sum(channels, dtype=np.float32)
        return strength if min(strength.shape[1:]) > 1 else None

    def _outputs(
        self,
        names: list[str],
        pixels: NDArray[np.uint8],
        session: onnxruntime.InferenceSession | None = None,
    ) -> dict[str, Float32]:
        """These outputs of the network for pixels [B, H, W, 3], each [B, ...]."""
        try:
            found = (session or self._session).run(names, {"pixels": pixels})
            return {
                name: np.asarray(output).astype(np.float32, copy=False)
                for name, output in zip(names, found, strict=True)
            }
        except ModelError:
            raise
        except Exception as error:  # ONNX Runtime has an exception for each of its status codes
            raise ModelError(
                f"the network of {self.name} cannot be run ({one_line(error)}): copy the model "
                "again"
            ) from None

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

    def fitted(
        self,
        raw: Float32,
        bits: int,
        seed: int,
        options: fitting.FitOptions | None = None,
        labels: Sequence[str | None] = (),
        look: Callable[[], None] | None = None,
    ) -> Model:
        """This label-free model with codes of `bits` bits, fitted to raw outputs [n, r] of a sample
        of n images with these labels, if any. `look` is called now and then meanwhile; what it
        raises ends the fit.

        What `options` leave open is as it was chosen, where the model was chosen for a purpose
        (`chosen`). Fitted for another one, it is the model that it was before.

        Raises ModelError when the model has codes of its own or `bits` is out of range.
        """
        if not self.is_label_free:
            raise ModelError(
                f"{self.name} was trained with {self.method} and has codes of its own: nothing to "
                "fit"
            )
        options = (options or fitting.FitOptions()).or_chosen(self.chosen)
        if self.chosen and options.purpose != self.chosen["for"]:
            return self.as_before_choice().fitted(raw, bits, seed, options, labels, look)
        try:
            # vectors are kept as they are
            fit = interruptible(
                lambda: fitting.fit(
                    raw,
                    bits,
                    seed,
                    options,
                    keep_features=not self.has_network,
                    labels=labels,
                    whole=self.has_text,
                ),
                look,
            )
        except ValueError as error:
            raise ModelError(str(error)) from None
        chance = _random_pairs(fit.rotation, raw, options.purpose == "classes")
        shape = {"sample": len(raw), "bits": bits, "dim": fit.rotation.dim, "seed": seed}
        told = {} if chance is None else {"random_pairs": chance.record()}
        rotation = {"rotation.npz": fit.rotation.to_bytes()}
        return self.altered(rotation, {"fitted": {**shape, **fit.record(), **told}})

    def altered(
        self, files: Mapping[str, bytes | None], record: Mapping[str, Any] | None = None
    ) -> Model:
        """Another model: this one with these files and entries of its record (None: without
        it), on as many threads."""
        changed = {**self.files, **files, "model.json": None}
        kept = {name: data for name, data in changed.items() if data is not None}
        told = record or {}
        untouched = {name: value for name, value in self.record.items() if name not in told}
        given = {name: value for name, value in told.items() if value is not None}
        return Model(with_record(kept, {**untouched, **given}), self._threads)

    def as_chosen(self, chosen: Mapping[str, Any]) -> Model:
        """This model with a record of what it was chosen for, by which figures, and with which fine
        mode, "fine", that searches then use by default. Leaves `fine` as it is without one."""
        before = self.as_before_choice()
        fine = chosen.get("fine") or before.fine
        told = {**chosen, "fine": fine, "fine_before": before.fine}
        return before.altered({}, {"fine": fine, "chosen": told})

    def as_before_choice(self) -> Model:
        """This model as if it had been chosen for nothing, with its own fine mode."""
        if not self.chosen:
            return self
        return self.altered({}, {"fine": self.chosen["fine_before"], "chosen": None})

    def opened(self) -> Model:
        """This trained model with codes left open, as a label-free model: the network gives its
        features, and each index learns codes from those of its own images. That is for classes that
        training did not see, which the trained codes mix up with those it saw.

        Raises ModelError for a model whose codes are open already.
        """
        if self.is_label_free:
            raise ModelError(f"{self.name} learns its codes from each index already")
        closed = dict.fromkeys(("bits", "held_out_map", "held_out", "proven", "chosen"))
        opened = {"name": f"{self.name}-open", "method": "itq", "opened": self.method}
        others = dict.fromkeys(name for name in self.files if name != "model.onnx")
        return self.altered(others, {**closed, **opened, "fine": "pool"})

    def with_preprocessing(self, preprocessing: images.Preprocessing) -> Model:
        """This model with another preprocessing, which makes it another model: it needs an index of
        its own, as codes and features change. A rotation stays; the proof, which is of other
        pixels, is left out, and so are the scores and the cost, which were not measured with it.
        Where mirror images are new to it, its name says so.

        Raises ModelError where the network does not take images of that size, and without one.
        """
        self.require_network()
        # a number, or an expression: "height" for any, "32*height" for a multiple
        try:
            _, height, width, _ = self._session.get_inputs()[0].shape
            step = int(height.split("*")[0]) if isinstance(height, str) and "*" in height else 1
            if step < 1:
                raise ValueError(height)
        except (ValueError, IndexError):
            raise ModelError(f"the network of {self.name} does not take images") from None
        if isinstance(height, int) and (preprocessing.whole or preprocessing.size != height):
            raise ModelError(
                f"the network of {self.name} takes images of {width} x {height} only"
                + (
                    ": train it with --whole, or with another --test-size"
                    if "run" in self.record
                    else ""
                )
            )
        if preprocessing.size % step:
            raise ModelError(
                f"the network of {self.name} takes multiples of {step} pixels, not "
                f"{preprocessing.size}"
            )
        newly_mirrored = preprocessing.mirrored and not self.preprocessing.mirrored
        told = {
            "name": f"{self.name}-mirrored" if newly_mirrored else self.name,
            "preparation": preprocessing_record(preprocessing),
            **dict.fromkeys(("held_out_map", "held_out", "int8_agreement", "macs")),
        }
        return self.altered({PROOF: None}, told)

    @property
    def is_int8(self) -> bool:
        """Whether the network computes in 8 bits."""
        return b"DequantizeLinear" in self.files.get("model.onnx", b"")

    @property
    def is_outdated(self) -> bool:
        """Whether this is the `general` of version 0.1.0, whose int8 network gives other features
        on CPUs without VNNI."""
        return bool(self.record["files"].get("model.onnx") == _INT8_GENERAL)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return runtime.open_session(self.files["model.onnx"], self._threads or cores(), self.name)

    @cached_property
    def _activation_session(self) -> onnxruntime.InferenceSession | None:
        network = runtime.with_activation(self.files["model.onnx"])
        if network is None:
            return None
        return runtime.open_session(network, self._threads or cores(), self.name)

    @cached_property
    def _texts(self) -> TextEncoder:
        self._require_text()
        return TextEncoder(
            self.files[TOWER],
            self.files[TOKENIZER],
            TextForm.from_record(self.record["text"]),
            self.name,
            self._threads or cores(),
        )

    def _require_text(self) -> None:
        if not self.has_text:
            raise QueryError(
                f"{self.name} knows no texts: search by an image, or make an index with a model of "
                "images and texts (wingbar model list)"
            )

    def require_network(self) -> None:
        """Raise ModelError for a model that encodes no images."""
        if not self.has_network:
            raise ModelError(
                f"{self.name} has no network, only vectors that were made elsewhere: add vectors "
                "in place of images, and search by a vector or by the id of an item"
            )

    @property
    def _feature_length(self) -> int:
        """Length of the network's feature."""
        return int(self.record["dim"])

    @property
    def _has_logits(self) -> bool:
        """Whether the network gives codes of its own."""
        return self.rotation is None and "bits" in self.record

    @property
    def _raw_length(self) -> int:
        """Length r of a raw output."""
        return self._feature_length + (self.bits if self._has_logits else 0)


def _random_pairs(rotation: itq.Rotation, raw: Float32, averages: bool) -> RandomPairs | None:
    """How near two random items of the sample [n, r] are, as an index stores them."""
    logits, features = rotation.apply(raw)
    packed = codes.pack(logits >= 0)
    if averages:
        plain = averaging.plain_of(features)
        average = averaging.averages_for_classes(plain, plain, np.arange(len(plain)))
        packed = averaging.codes_of_averages(rotation, average)
        features = averaging.joined(average, plain)
    rows = random_pairs.sample_of(len(raw))
    return random_pairs.measure(packed[rows], features[rows], rotation.bits)


def over_views(
    run: Callable[[NDArray[np.uint8]], tuple[Float32, Float32 | None]],
    pixels: Sequence[images.Pixels],
    preprocessing: images.Preprocessing,
    size: int = BATCH,
) -> Float32:
    """Raw outputs [B, r] of B images whose shapes may differ, in batches of equal shape and of at
    most `size`.

    `pixels` are as `images.load` gives them; `run` takes pixels [b, H, W, 3] and gives unit
    features and code logits, if any. Over several views, scales and mirror images, the features are
    averaged and scaled back to unit length (DOLG, Section 4.1), and the logits are averaged.
    """
    views = [
        (i, view) for i, image in enumerate(pixels) for view in images.views(image, preprocessing)
    ]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, (_, view) in enumerate(views):
        by_shape.setdefault(view.shape, []).append(place)
    raw: list[Float32] = [np.empty(0, np.float32)] * len(views)
    dim = 0
    for places in by_shape.values():
        for batch in batched(places, size):
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


def method_text(method: str) -> str:
    """A method of model.json as people read it: codes of "itq" may be whitened or others as well,
    and those of each index are its own."""
    return "label-free" if method == "itq" else method


def with_record(files: Mapping[str, bytes], record: Mapping[str, Any]) -> dict[str, bytes]:
    """`files` and a model.json of `record`, the format number and the sha256 of each file."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    # version 0.1.0, which reads format 1, would run such a network on whole batches
    format_ = 2 if "batch" in record else 1
    content = {**record, "format": format_, "files": hashes}
    return {**files, "model.json": json.dumps(content, indent=1, sort_keys=True).encode()}


def preprocessing_record(preprocessing: images.Preprocessing) -> dict[str, Any]:
    """The preprocessing as model.json holds it; `Model` reads it back. What version 0.1.0 does not
    know is there only where it is used."""
    record, default = asdict(preprocessing), asdict(images.Preprocessing())
    return {
        name: value
        for name, value in record.items()
        if name not in _LATER_PREPROCESSING or value != default[name]
    }


def check_same(embeddings: Embeddings, model: Model, owner: str) -> None:
    """Raise QueryError, naming both models, when `embeddings` are not of `model`, which is the one
    of the index `owner`."""
    if embeddings.fingerprint != model.fingerprint:
        raise QueryError(
            f"the query was encoded by {embeddings.model} ({embeddings.fingerprint[:12]}), "
            f"{owner} by {model}: "
            "encode it with the index's own model"
        )


def _read_file(folder: Path, name: str) -> bytes:
    """A file of a model directory. Raises OSError, or ModelError unless it is a regular file of at
    most MAX_BYTES inside of the directory."""
    place = os.path.realpath(folder / name)
    if os.path.commonpath([place, os.path.realpath(folder)]) != os.path.realpath(folder):
        raise ModelError(f"{name} is a link that leads outside: put the file itself there")
    # a pipe would be waited for
    handle = os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{name} is not a regular file")
        if status.st_size > MAX_BYTES:
            raise ModelError(
                f"{name} has {status.st_size:,} bytes, over the limit of {MAX_BYTES:,}"
            )
        return file.read(MAX_BYTES)


def _read_record(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The checked content of model.json among `files`, which are those that it describes."""
    if not isinstance(files.get("model.json"), bytes):
        raise ModelError("the model has no model.json: copy it again")
    record = _parse_record(files["model.json"])
    if "model.onnx" not in record["files"] and record["method"] != VECTORS:
        raise ModelError("model.json names no model.onnx: copy the model again")
    for name, expected in record["files"].items():
        data = files.get(name)
        if not isinstance(data, bytes) or hashlib.sha256(data).hexdigest() != expected:
            raise ModelError(
                f"{name} is not the file that model.json describes: copy the model again"
            )
    if unknown := sorted(map(str, files.keys() - record["files"].keys() - {"model.json"})):
        raise ModelError(
            f"{_shown(unknown[0])!r} is a file that model.json does not name: copy the model again"
        )
    return record


def _parse_record(data: bytes) -> dict[str, Any]:
    """The content of model.json. Raises ModelError unless each part that wingbar uses is of its
    kind."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"model.json cannot be read ({one_line(error)}): copy the model again"
        ) from None
    if not isinstance(record, dict):
        raise ModelError("model.json cannot be read (it is no JSON object): copy the model again")
    _check_part(record, "format", _is_count)
    if record["format"] > FORMAT:
        raise ModelError(
            f"the model has format {record['format']}, this wingbar reads up to {FORMAT}: upgrade "
            "wingbar"
        )
    for name, is_right in _PARTS.items():
        _check_part(record, name, is_right)
    for name, is_right in _OPTIONAL_PARTS.items():
        if name in record:
            _check_part(record, name, is_right)
    for name in record["files"]:
        if not _BARE_NAME.fullmatch(name):
            raise ModelError(
                f"model.json names the file {_shown(name)!r}: the files of a model are in one "
                "directory, and have plain names"
            )
    return record


def _check_part(record: dict[str, Any], name: str, is_right: Callable[[Any], bool]) -> None:
    if name not in record:
        raise ModelError(f"model.json cannot be read (it has no {name!r}): copy the model again")
    if not is_right(record[name]):
        raise ModelError(
            f"model.json cannot be read ({name!r} is {_shown(json.dumps(record[name]))}): copy the "
            "model again"
        )


def _is_count(value: Any) -> bool:
    """Whether a value is a number of things that one model can have."""
    return type(value) is int and 1 <= value <= MOST


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _are_files(value: Any) -> bool:
    """Whether a value gives names their checksums."""
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _are_classes(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_scores(value: Any) -> bool:
    return isinstance(value, dict) and all(
        type(score) in (int, float) and -math.inf < score < math.inf for score in value.values()
    )


def _is_size(value: Any) -> bool:
    """Whether a value is a number of things from 0 up, however many."""
    return type(value) is int and value >= 0


def _are_counts(value: Any) -> bool:
    """Whether a value gives names numbers from 0 up."""
    return isinstance(value, dict) and all(map(_is_size, value.values()))


def _is_search(value: Any) -> bool:
    """As training.loop records how held-out images were searched for; {} where none were."""
    if not isinstance(value, dict):
        return False
    bits = value.get("constant_bits", [])
    return _are_counts({**value, "constant_bits": 0}) and (
        isinstance(bits, list) and all(type(bit) is int for bit in bits)
    )


def _is_agreement(value: Any) -> bool:
    """As training.int8.agreement gives it."""
    least = {"cosine_mean": -1.001, "cosine_min": -1.001, "same_neighbour": 0.0}
    return (
        _are_scores(value)
        and least.keys() <= value.keys()
        and all(least[name] <= value[name] <= 1.001 for name in least)
    )


def _is_fitting(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_count(value.get("sample", 1))
        and (value.get("expand", 0) == 0 or _is_count(value["expand"]))
    )


def _is_choice(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("for") not in fitting.PURPOSES:
        return False
    is_measured = "score" in value
    texts = ["name", "fine", "fine_before", *(["measure", "codes"] if is_measured else ["reason"])]
    figures = ("score", "error", "queries", "gallery") if is_measured else ()
    return (
        all(_is_text(value.get(key)) for key in texts)
        and _are_scores({key: value.get(key) for key in figures})
        and isinstance(value.get("candidates"), list)
        and all(map(_is_candidate, value["candidates"]))
        and ("bits" not in value or _is_count(value["bits"]))
    )


def _is_candidate(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_text(value.get("name"))
        and _is_text(value.get("fingerprint"))
        and isinstance(value.get("scores"), dict)
        and all(map(_are_scores, value["scores"].values()))
    )


_PARTS: dict[str, Callable[[Any], bool]] = {
    "files": _are_files,
    "name": _is_text,
    "method": _is_text,
    "fine": _is_text,
    "preparation": _is_object,
    "dim": _is_count,
}
_OPTIONAL_PARTS: dict[str, Callable[[Any], bool]] = {
    "bits": _is_count,
    "batch": _is_count,
    "parameters": _is_size,
    "parameters_total": _is_size,
    "macs": _is_size,
    "proven": _is_object,
    "classes": _are_classes,
    "fitted": _is_fitting,
    "chosen": _is_choice,
    "held_out_map": _are_scores,
    "held_out": _is_search,
    "trained": _are_counts,
    "int8_agreement": _is_agreement,
    "config": _is_object,
    "weights": _is_object,
    "text": _is_object,
    "backbone": _is_text,
}
# fields of a Preprocessing that version 0.1.0 does not know, and their types
_LATER_PREPROCESSING: dict[str, tuple[type, ...]] = {
    "edge": (int,),
    "squash": (bool,),
    "bicubic": (bool,),
    "mirrored": (bool,),
}
_BARE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def _shown(text: str) -> str:
    """A text of a model as one line that a terminal can show, of at most 200 characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def _preprocessing(record: dict[str, Any]) -> images.Preprocessing:
    """The preprocessing that model.json describes."""
    described = _shown(json.dumps(record))
    kinds: dict[str, tuple[type, ...]] = {
        "size": (int,),
        "keep": (int, float),
        "whole": (bool,),
        "scales": (list, tuple),
        **_LATER_PREPROCESSING,
    }
    if unknown := sorted(record.keys() - kinds.keys()):
        raise ModelError(
            f"this model needs a newer wingbar: its preprocessing is {described}, and "
            f"{_shown(unknown[0])!r} is not known"
        )
    scales = record.get("scales", [1.0])
    try:
        if any(type(value) not in kinds[name] for name, value in record.items()) or any(
            type(scale) not in (int, float) for scale in scales
        ):
            raise ValueError("a value of the wrong kind")
        made = images.Preprocessing(**{**record, "scales": tuple(scales)})
        if max(made.size, made.edge) > MAX_SIZE or len(scales) > 16:
            raise ValueError(f"more than {MAX_SIZE} pixels or 16 scales")
    except ValueError as error:
        raise ModelError(
            f"model.json cannot be read (its preprocessing is {described}: {one_line(error)}): "
            "copy the model again"
        ) from None
    return made
