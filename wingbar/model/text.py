"""The text tower of an encoder of images and texts, such as CLIP or SigLIP: a tokenizer and a
second network, which give a text a unit feature in the space of the raw features of images.

Needs the tokenizers package (extra `text`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import ModelError, QueryError, one_line
from wingbar.images import is_utf8
from wingbar.model import runtime

TOWER, TOKENIZER = "text.onnx", "tokenizer.json"  # files of a model
LONGEST_TEXT = 1000  # characters of a query; no tower takes as many tokens
MOST_TOKENS = 4096  # that a model may ask for
# Inputs of text towers by the names that exporters give them.
INPUTS = ("input_ids", "attention_mask")
_TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


@dataclass(frozen=True, kw_only=True)
class TextForm:
    """How texts become the tokens of a tower.

    tokens: number of them, to which longer texts are cut and shorter ones padded.
    pad: the token that fills up, as the tokenizer names it.
    lower: whether texts are made lower case first; many tokenizers do so themselves.
    attends: whether the tower sees the padding, so that its mask is 1 everywhere.
    output: name of the tower's output.
    """

    tokens: int
    pad: str
    lower: bool = False
    attends: bool = False
    output: str

    def record(self) -> dict[str, Any]:
        """What model.json says of it."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TextForm:
        """Read what `record` made. Raises ModelError for anything else."""
        try:
            form = cls(**record)
            kinds = (int, str, bool, bool, str)
            if any(type(v) is not kind for v, kind in zip(vars(form).values(), kinds, strict=True)):
                raise TypeError("a value of the wrong kind")
            if not 2 <= form.tokens <= MOST_TOKENS:
                raise TypeError(f"{form.tokens} tokens")
        except TypeError as error:
            raise ModelError(
                f"model.json cannot be read ('text': {one_line(error)}): copy the model again"
            ) from None
        return form


class TextEncoder:
    """A text tower with its tokenizer, ready to run; several threads may use it."""

    def __init__(
        self, network: bytes, tokenizer: bytes, form: TextForm, name: str, threads: int
    ) -> None:
        """`name` is that of the model, for messages. Raises ModelError for files that cannot be
        used, or without the tokenizers package."""
        self._form, self._name = form, name
        self._tokenizer = _open_tokenizer(tokenizer, form)
        self._session = runtime.open_session(network, threads, name)
        self._inputs = {one.name: one.type for one in self._session.get_inputs()}
        outputs = [one.name for one in self._session.get_outputs()]
        wrong = [name for name, kind in self._inputs.items() if kind not in _TYPES]
        if wrong or "input_ids" not in self._inputs or not set(self._inputs) <= set(INPUTS):
            raise ModelError(
                f"the text network takes {', '.join(self._inputs)}, not input_ids and perhaps "
                "attention_mask as integers"
            )
        if form.output not in outputs:
            raise ModelError(
                f"the text network has no output {form.output!r}: it has {', '.join(outputs)}"
            )

    def encode(self, text: str) -> NDArray[np.float32]:
        """The unit feature [r] of a text. It is encoded by itself, so that it does not depend on
        others. Raises QueryError for a text without a letter, or one that is too long."""
        if not text.strip():
            raise QueryError("the text to search for is empty: write what the pictures show")
        if not is_utf8(text):
            raise QueryError("the text to search for is not valid UTF-8: type it again")
        if len(text) > LONGEST_TEXT:
            raise QueryError(
                f"the text to search for has {len(text):,} characters: at most {LONGEST_TEXT:,} "
                "are taken"
            )
        ids, mask = self.tokens(text)
        given = dict(zip(INPUTS, (ids, mask), strict=True))
        feeds = {name: np.array([given[name]], _TYPES[kind]) for name, kind in self._inputs.items()}
        try:
            found = np.asarray(self._session.run([self._form.output], feeds)[0])
        except Exception as error:  # ONNX Runtime has an exception for each of its status codes
            raise ModelError(
                f"the text network of {self._name} cannot be run ({one_line(error)})"
            ) from None
        if found.ndim != 2 or not np.isfinite(found).all():
            raise ModelError(
                f"the text network of {self._name} gives an output of shape {list(found.shape)} "
                "that is no vector of finite numbers: name another of its outputs"
            )
        vector = found[0].astype(np.float64)
        return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)

    def tokens(self, text: str) -> tuple[list[int], list[int]]:
        """The ids of a text's tokens, and for each whether the tower attends to it."""
        encoded = self._tokenizer.encode(text.lower() if self._form.lower else text)
        mask = [1] * len(encoded.ids) if self._form.attends else encoded.attention_mask
        return encoded.ids, mask


def default_pad(tokenizer: bytes) -> str:
    """The token that a tokenizer.json says it pads with, "" if it does not say."""
    try:
        padding = json.loads(tokenizer).get("padding") or {}
        return str(padding.get("pad_token", ""))
    except (ValueError, AttributeError, RecursionError):
        return ""


def _open_tokenizer(data: bytes, form: TextForm) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ModelError("texts need tokenizers: run pip install 'wingbar[text]'") from None
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises plain Exception
        raise ModelError(
            f"{TOKENIZER} cannot be read ({one_line(error)}): copy the model again"
        ) from None
    pad = tokenizer.token_to_id(form.pad)
    if pad is None:
        raise ModelError(f"the tokenizer has no token {form.pad!r} to pad with: name another")
    tokenizer.enable_truncation(form.tokens)
    tokenizer.enable_padding(direction="right", pad_id=pad, pad_token=form.pad, length=form.tokens)
    return tokenizer
