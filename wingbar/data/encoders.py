"""Image encoders that wingbar can import by name: where their files are, under which licence, and
how they want their pictures.

Names of repositories, revisions, sizes and checksums are as users of these files have recorded
them. What is not known for sure is left empty, and never guessed: a file without a known checksum
is taken as it comes, its own is reported and kept in the model, and `--sha256` pins it the next
time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    about: size of what is fetched, for people
    sha256: of the network's file, or its beginning; "" if not known
    licence: its terms in one line
    is_permissive: whether they allow any use
    preprocessing, mean, std: how it wants its pictures
    output, pool: what is taken of it
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
    note: str = ""

    @property
    def page(self) -> str:
        """Where it is described, with its licence."""
        known = self.repository.startswith("http")
        return self.repository if known else f"{HUB}/{self.repository}"

    def urls(self, hub: str = HUB, revision: str = "") -> list[str]:
        """The addresses of its files, the network first."""
        if self.repository.startswith("http"):
            return [self.repository]
        folder = f"{hub.rstrip('/')}/{self.repository}/resolve/{revision or self.revision}"
        paths = [self.file, *(f"{Path(self.file).parent.as_posix()}/{one}" for one in self.beside)]
        return [f"{folder}/{path}" for path in paths]


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
            revision="ba1f3b08",
            file="onnx/vision_model_int8.onnx",
            size=94_553_333,
            about="94.6 MB",
            licence="Apache-2.0",
            preprocessing=Preprocessing(size=224, squash=True),
            mean=_HALF[0],
            std=_HALF[1],
            output="pooler_output",
        ),
        KnownEncoder(
            name="tinyclip-8m",
            title="TinyCLIP ViT-8M/16, 8 million parameters",
            repository="onnx-community/TinyCLIP-ViT-8M-16-Text-3M-YFCC15M-ONNX",
            revision="9463a9c5",
            file="onnx/vision_model.onnx",
            about="a size that is not known",
            licence="MIT",
            preprocessing=Preprocessing(size=224, edge=224, bicubic=True),
            mean=_CLIP[0],
            std=_CLIP[1],
            output="image_embeds",
            note="the name of the file is that of similar repositories, and was not seen",
        ),
        KnownEncoder(
            name="clip-vit-b32",
            title="CLIP ViT-B/32, 88 million parameters, int8",
            repository="Xenova/clip-vit-base-patch32",
            file="onnx/vision_model_quantized.onnx",
            about="88 MB",
            licence="MIT",
            preprocessing=Preprocessing(size=224, edge=224, bicubic=True),
            mean=_CLIP[0],
            std=_CLIP[1],
            output="image_embeds",
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
    """

    path: Path
    url: str
    size: int
    sha256: str


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
    progress: Progress = no_progress,
) -> FetchedEncoder:
    """Fetch the files of an encoder into `folder`, unless they are there, from the hub at `hub`.

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
    return FetchedEncoder(network.path, urls[0], network.size, network.sha256)
