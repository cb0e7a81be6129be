"""Encoders of images and texts in the forms of CLIP and SigLIP, with random weights and small
enough to be exported in half a second, and a tokenizer that was trained on a few lines."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from onnx import helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from tests.model.encoders import SIZE, WIDTH, Vit
from tests.model.test_imported import graph_of, pooled
from wingbar.images import Preprocessing
from wingbar.model.imported import CLIP_MEAN, CLIP_STD, Form, Texts
from wingbar.model.text import TextForm

LINES = ["a photo of a red dress", "a blue butterfly on a flower", "two cats and a dog", "a shoe"]
TOKENS = 12
FORM = Form(preprocessing=Preprocessing(size=SIZE, edge=SIZE), mean=CLIP_MEAN, std=CLIP_STD)
CLIP = TextForm(tokens=TOKENS, pad="<end>", output="text_embeds")
SIGLIP = TextForm(tokens=TOKENS, pad="<pad>", lower=True, attends=True, output="pooler_output")


def tokenizer(lower: bool = True) -> Tokenizer:
    """A byte pair encoding with a begin and an end around each text; of the tokens, <end> has the
    greatest id, as that of CLIP has."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    if lower:
        made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<unk>", "<begin>"]
    made.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=80, special_tokens=special))
    made.add_special_tokens(["<end>"])
    made.post_processor = processors.TemplateProcessing(
        single="<begin> $A <end>",
        special_tokens=[(name, made.token_to_id(name)) for name in ("<begin>", "<end>")],
    )
    return made


class TextTower(nn.Module):
    """A transformer of one layer over tokens [B, T]. With `causal` each token sees those before it,
    and the feature is that of the first token of the greatest id, projected, as with CLIP; without,
    it is that of the last token, as with SigLIP."""

    def __init__(self, vocabulary: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.position = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embedding(input_ids) + self.position
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        weights = q @ k.transpose(1, 2) / WIDTH**0.5
        if self.causal:
            weights = weights + torch.full((TOKENS, TOKENS), -1e9).triu(1)
        if attention_mask is not None:
            weights = weights + (1 - attention_mask[:, None].float()) * -1e9
        x = x + self.out(weights.softmax(-1) @ v)
        last = input_ids.argmax(-1) if self.causal else torch.full_like(input_ids[:, 0], TOKENS - 1)
        return self.head(x.gather(1, last[:, None, None].expand(-1, 1, WIDTH))[:, 0])


class Both(nn.Module):
    """Both towers in one network, as some exporters write them."""

    def __init__(self, images: Vit, texts: TextTower) -> None:
        super().__init__()
        self.images, self.texts = images, texts

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        image = nn.functional.normalize(self.images(pixel_values)[1], dim=1)
        text = nn.functional.normalize(self.texts(input_ids, attention_mask), dim=1)
        return image @ text.T, text, image


def text_tower(causal: bool) -> TextTower:
    torch.manual_seed(1)
    return TextTower(tokenizer().get_vocab_size(), causal).eval()


def image_tower(path: Path) -> Path:
    """The ONNX file of a network of images that goes with a text tower: the mean of each channel,
    projected."""
    nodes = [*pooled(made="means"), helper.make_node("MatMul", ["means", "weights"], ["y"])]
    weights = np.random.default_rng(0).standard_normal((3, WIDTH)).astype(np.float32)
    return graph_of(path, nodes, ["B", 3, "H", "W"], constants={"weights": weights})


def write_text(path: Path, tower: TextTower, output: str, masked: bool = False) -> Path:
    """The ONNX file of a text tower."""
    ids = torch.zeros((2, TOKENS), dtype=torch.int64)
    names = ["input_ids", "attention_mask"][: 1 + masked]
    return _export(path, tower, (ids, torch.ones_like(ids))[: 1 + masked], names, [output])


def write_both(path: Path, images: Vit, texts: TextTower) -> Path:
    """One ONNX file of both towers."""
    ids = torch.zeros((2, TOKENS), dtype=torch.int64)
    given = (ids, torch.zeros((2, 3, SIZE, SIZE)), torch.ones_like(ids))
    names = ["input_ids", "pixel_values", "attention_mask"]
    outputs = ["logits_per_image", "text_embeds", "image_embeds"]
    return _export(path, Both(images, texts).eval(), given, names, outputs)


def _export(
    path: Path, network: nn.Module, given: tuple[Tensor, ...], names: list[str], outputs: list[str]
) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            given,
            str(path),
            dynamo=False,
            input_names=names,
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in [*names, *outputs]},
            opset_version=17,
        )
    return path


def texts(folder: Path, network: Path, form: TextForm) -> Texts:
    """The tower in a file, with a tokenizer.json in `folder`."""
    path = folder / "tokenizer.json"
    tokenizer(lower=not form.lower).save(str(path))
    return Texts(network=network, tokenizer=path, form=form)


def feature(tower: TextTower, text: str, pad: str) -> np.ndarray:
    """The unit feature [d] that PyTorch gives for a text, whose tokens are padded by hand."""
    made = tokenizer()
    ids = made.encode(text.lower()).ids
    if len(ids) > TOKENS:
        ids = [*ids[: TOKENS - 1], ids[-1]]
    ids += [made.get_vocab()[pad]] * (TOKENS - len(ids))
    with torch.no_grad():
        found = tower(torch.tensor([ids]))
    return nn.functional.normalize(found, dim=1).numpy()[0]
