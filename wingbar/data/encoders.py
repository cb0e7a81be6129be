"""Image encoders that wingbar can import by name: where their files are, under which licence, and
how they want their pictures.

Names of repositories, revisions, sizes and checksums are as users of these files have recorded
them; a checksum is here only where several of them have the same. What is not known for sure is
left empty, and never guessed: a file without a known checksum is taken as it comes, its own is
reported and kept in the model, and `--sha256` pins it the next time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wingbar.data import download
from wingbar.errors import DataError
from wingbar.images import Preprocessing
from wingbar.parallel import Progress, no_progress

HUB = "https://huggingface.co"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class KnownFile:
    """A file of a repository.

    path: in the repository
    size: its bytes
    sha256: its checksum
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class KnownText:
    """The text tower of an encoder.

    network: its file; None where it is in that of the images
    tokenizer: the tokenizer.json
    tokens: number of tokens that it takes
    pad: the token that fills them up
    lower: whether texts are made lower case, where the tokenizer does not do so
    attends: whether the tower sees the padding
    output: name of the output that is taken
    """

    network: KnownFile | None
    tokenizer: KnownFile
    tokens: int
    pad: str
    lower: bool = False
    attends: bool = False
    output: str

    @property
    def files(self) -> list[KnownFile]:
        """What is fetched for it."""
        return [one for one in (self.network, self.tokenizer) if one is not None]

    @property
    def about(self) -> str:
        """The size of these files, for people."""
        return f"{sum(one.size for one in self.files) / 1e6:.1f} MB"


@dataclass(frozen=True, kw_only=True)
class KnownEncoder:
    """An encoder that wingbar knows by name.

    name: for the command line, as "dinov2-small"
    title: what it is, in a few words
    repository: of the hub, as OWNER/NAME; or the address of the file itself
    revision: the commit that is fetched, or its beginning; "main" where none is known
    file: path of the network in the repository
    beside: names of further files that belong to it, such as its weights
    size: bytes of the network's file, 0 if not known exactly
    about: size of what is fetched for images, for people
    sha256: of the network's file, or its beginning; "" if not known
    licence: its terms in one line
    is_permissive: whether they allow any use
    preprocessing, mean, std: how it wants its pictures
    output, pool: what is taken of it
    text: its text tower, if it has one
    note: what else there is to know, in one line, or ""
    """

    name: str
    title: str
    repository: str
    revision: str = "main"
    file: str
    beside: Sequence[str] = ()
    size: int = 0
    about: str
    sha256: str = ""
    licence: str
    is_permissive: bool = True
    preprocessing: Preprocessing
    mean: Triple
    std: Triple
    output: str = ""
    pool: Literal["", "cls", "mean"] = ""
    text: KnownText | None = None
    note: str = ""

    @property
    def page(self) -> str:
        """Where it is described, with its licence."""
        known = self.repository.startswith("http")
        return self.repository if known else f"{HUB}/{self.repository}"

    def urls(self, hub: str = HUB, revision: str = "") -> list[str]:
        """The addresses of its files, the network first."""
        paths = [self.file, *(f"{Path(self.file).parent.as_posix()}/{one}" for one in self.beside)]
        return [self.url(path, hub, revision) for path in paths]

    def url(self, path: str, hub: str = HUB, revision: str = "") -> str:
        """The address of one of the files of its repository."""
        if self.repository.startswith("http"):
            return self.repository
        return f"{hub.rstrip('/')}/{self.repository}/resolve/{revision or self.revision}/{path}"


ENCODERS = {
    encoder.name: encoder
    for encoder in (
        KnownEncoder(
            name="dinov2-small",
            title="DINOv2 ViT-S/14, 22 million parameters, float32",
            repository="onnx-community/dinov2-small",
            revision="8b1f705a",
            file="onnx/model.onnx",
            about="88.5 MB",
            licence="Apache-2.0",
            preprocessing=Preprocessing(size=224, edge=256, bicubic=True),
            mean=_IMAGENET[0],
            std=_IMAGENET[1],
            output="last_hidden_state",
            pool="cls",
        ),
        KnownEncoder(
            name="dinov3-small",
            title="DINOv3 ViT-S/16, 21 million parameters, int8",
            repository="onnx-community/dinov3-vits16-pretrain-lvd1689m-ONNX",
            file="onnx/model_quantized.onnx",
            beside=("model_quantized.onnx_data",),
            about="a size that is not known",
            licence="DINOv3's own licence",
            is_permissive=False,
            preprocessing=Preprocessing(size=224, squash=True),
            mean=_IMAGENET[0],
            std=_IMAGENET[1],
            output="pooler_output",
        ),
        KnownEncoder(
            name="siglip2-base",
            title="SigLIP2 ViT-B/16, 86 million parameters, int8",
            repository="onnx-community/siglip2-base-patch16-224-ONNX",
            revision="ba1f3b0843f24bc5417d38e19c37b287d719b2f4",
            file="onnx/vision_model_int8.onnx",
            size=94_553_333,
            about="94.6 MB",
            sha256="0dd31785a2713f1113ef2272472165c69d580473dae38d7b47568ac587795e70",
            licence="Apache-2.0",
            preprocessing=Preprocessing(size=224, squash=True),
            mean=_HALF[0],
            std=_HALF[1],
            output="pooler_output",
            text=KnownText(
                network=KnownFile(
                    "onnx/text_model_int8.onnx",
                    283_438_275,
                    "3a0603d3a00c05a80a6ded4743c16aaac7b1e62cdcc7e362e7ce418659b96400",
                ),
                tokenizer=KnownFile(
                    "tokenizer.json",
                    34_363_039,
                    "cb9140fae3ac5122c972d37adf83e1248471a38147ad76f8215c8872c6fd8322",
                ),
                tokens=64,
                pad="<pad>",
                lower=True,
                attends=True,  # the last of the 64 tokens is what is pooled
                output="pooler_output",
            ),
        ),
        KnownEncoder(
            name="tinyclip-8m",
            title="TinyCLIP ViT-8M/16, 8 million parameters",
            repository="onnx-community/TinyCLIP-ViT-8M-16-Text-3M-YFCC15M-ONNX",
            revision="9463a9c508a344c837ffefe9d724f3827bf2dc79",
            file="onnx/model.onnx",
            size=94_071_688,
            about="94.1 MB",
            sha256="31d28cb07209533d10fc4fef73ac324ce17de6741a2372e7e1531a4ac8fdaeb2",
            licence="MIT",
            preprocessing=Preprocessing(size=224, edge=224, bicubic=True),
            mean=_CLIP[0],
            std=_CLIP[1],
            output="image_embeds",
            text=KnownText(
                network=None,
                tokenizer=KnownFile(
                    "tokenizer.json",
                    3_642_073,
                    "6d9109cc838977f3ca94a379eec36aecc7c807e1785cd729660ca2fc0171fb35",
                ),
                tokens=77,
                pad="<|endoftext|>",
                output="text_embeds",
            ),
            note="its file holds both towers, which are taken apart",
        ),
        KnownEncoder(
            name="clip-vit-b32",
            title="CLIP ViT-B/32, 88 million parameters, int8",
            repository="Xenova/clip-vit-base-patch32",
            revision="d15189d7028b43f1d3e65039190477f6af591c2a",
            file="onnx/vision_model_quantized.onnx",
            size=89_117_001,
            about="89.1 MB",
            sha256="583fd1110a514667812fee7d684952aaf82a99b959760c8d7dca7e0ab9839299",
            licence="MIT",
            preprocessing=Preprocessing(size=224, edge=224, bicubic=True),
            mean=_CLIP[0],
            std=_CLIP[1],
            output="image_embeds",
            text=KnownText(
                network=KnownFile(
                    "onnx/text_model_quantized.onnx",
                    64_504_507,
                    "73baab855d406190da9faa498cfedf65f15cf309f4cc7385b7b032e6d08e5c3a",
                ),
                tokenizer=KnownFile(
                    "tokenizer.json",
                    2_224_119,
                    "f7f3b7af117d467b58374797691a6438d3e6b9e9cef800dfd5dced7f697a90cd",
                ),
                tokens=77,
                pad="<|endoftext|>",
                output="text_embeds",
            ),
        ),
        KnownEncoder(
            name="sscd",
            title="SSCD ResNet-50 for copies, 24 million parameters, float32",
            repository=(
                "https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_mixup.torchscript.pt"
            ),
            file="sscd_disc_mixup.torchscript.pt",
            about="94 MB",
            licence="MIT",
            preprocessing=Preprocessing(size=320, squash=True),
            mean=_IMAGENET[0],
            std=_IMAGENET[1],
            note="a TorchScript file, which the extra train exports; its address was not tried",
        ),
    )
}


@dataclass(frozen=True)
class FetchedEncoder:
    """The files of an encoder on this machine.

    path: the network, its other files beside it
    url: where it was fetched
    size: its bytes
    sha256: its checksum in hex
    text: its text tower, where there is one and it was asked for
    tokenizer: the tokenizer of that
    """

    path: Path
    url: str
    size: int
    sha256: str
    text: Path | None = None
    tokenizer: Path | None = None


def get(name: str) -> KnownEncoder:
    """The encoder of that name. Raises DataError, listing the names, where there is none."""
    if name not in ENCODERS:
        raise DataError(
            f"no encoder is called {name!r}: there are {', '.join(ENCODERS)}, and any FILE.onnx"
        )
    return ENCODERS[name]


def fetch(
    encoder: KnownEncoder,
    folder: Path,
    *,
    hub: str = HUB,
    revision: str = "",
    sha256: str = "",
    texts: bool = True,
    progress: Progress = no_progress,
) -> FetchedEncoder:
    """Fetch the files of an encoder into `folder`, unless they are there, from the hub at `hub`;
    with `texts` also its text tower, if it has one.

    With `revision`, that commit or branch in place of the known one, of which no checksum is known;
    `sha256` is the beginning of the network's checksum. Raises DataError when a file cannot be
    fetched, or is not the one that is known.
    """
    urls = encoder.urls(hub, revision)
    known = not revision or revision.startswith(encoder.revision)
    pinned = sha256 or (encoder.sha256 if known else "")
    places = [folder / url.rsplit("/", 1)[-1] for url in urls]
    network = download.fetch(urls[0], places[0], sha256=pinned, progress=progress)
    if known and not sha256 and encoder.size not in (0, network.size):
        raise DataError(
            f"{urls[0]} has {network.size:,} bytes, not the {encoder.size:,} that are known: if "
            "you trust it, name its --sha256"
        )
    for url, place in zip(urls[1:], places[1:], strict=True):
        download.fetch(url, place, progress=progress)
    found = FetchedEncoder(network.path, urls[0], network.size, network.sha256)
    if encoder.text is None or not texts:
        return found
    fetched = {
        file: download.fetch(
            encoder.url(file.path, hub, revision),
            folder / file.path.rsplit("/", 1)[-1],
            sha256=file.sha256 if known else "",
            progress=progress,
        ).path
        for file in encoder.text.files
    }
    text = network.path if encoder.text.network is None else fetched[encoder.text.network]
    return replace(found, text=text, tokenizer=fetched[encoder.text.tokenizer])
