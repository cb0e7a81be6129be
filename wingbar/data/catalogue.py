"""The data sets that wingbar can fetch: their addresses, licences and checksums, and `fetch`, which
either completes or leaves nothing that looks complete.

Checksums were published with the data or by libraries that load it. For a file without a published
one, the checksum that it had is reported, so that copies can be compared.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from wingbar.data import download, layouts
from wingbar.data.readers import read_images
from wingbar.errors import DataError
from wingbar.parallel import Progress, no_progress

_MARK = ".wingbar-data.json"  # the FetchReport, in a folder that was fetched completely


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a data set.

    url: its address, http or https
    size: bytes, 0 if not known
    sha256, md5: checksums in hex, "" if not known
    into: the folder below the data set's own into which an archive is unpacked, any other file put
    saved_as: the name under which it is saved, "" for the last part of `url`
    """

    url: str
    size: int = 0
    sha256: str = ""
    md5: str = ""
    into: str = "."
    saved_as: str = ""

    @property
    def name(self) -> str:
        """The name under which it is saved."""
        return self.saved_as or self.url.split("?")[0].rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class KnownDataSet:
    """A data set that wingbar knows.

    name: for the command line, as "cub-200-2011"
    title: its name in the literature, the key in layouts.IMAGES
    page: address of its home page
    licence: its terms in one line
    images: official number of images
    classes: number of classes, 0 if it has no labels
    disk: about how many bytes it takes once unpacked
    files: what is fetched; empty if that is not possible
    by_hand: one line on how to get it if it cannot be fetched, else ""
    note: what else there is to know, in one line, or ""
    """

    name: str
    title: str
    page: str
    licence: str
    images: int
    classes: int
    disk: int
    files: Sequence[File] = ()
    by_hand: str = ""
    note: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files whose size is known."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Sum:
    """A file as it was fetched.

    url: where it came from
    size: bytes
    sha256: its checksum in hex
    checked: which published checksum it was compared with: "sha256", "md5", or "" for none
    """

    url: str
    size: int
    sha256: str
    checked: str


@dataclass(frozen=True)
class FetchReport:
    """What one `fetch` did.

    name: the data set's name
    folder: where it is
    images: number of images found there
    classes: number of different labels found there
    official_images: number of images it should have
    files: one Sum per file
    fetched: false if it had been fetched before
    """

    name: str
    folder: str
    images: int
    classes: int
    official_images: int
    files: tuple[Sum, ...]
    fetched: bool


_OXFORD_NOTE = (
    "images as reissued in 2022 with blurred faces; no checksums are published, so compare those "
    "that are printed"
)
_IDX_NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def _idx_files(host: str, known: Sequence[tuple[int, str]]) -> tuple[File, ...]:
    return tuple(
        File(url=host + name, size=size, sha256=sha)
        for name, (size, sha) in zip(_IDX_NAMES, known, strict=True)
    )


_ALL = (
    KnownDataSet(
        name="cub-200-2011",
        title="CUB-200-2011",
        page="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        licence=(
            "non-commercial research and education; the rights in the pictures are their "
            "photographers'"
        ),
        images=layouts.IMAGES["CUB-200-2011"],
        classes=200,
        disk=1_250_000_000,
        files=(
            File(
                url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                size=1_150_585_339,
                sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
                md5="97eceeb196236b17998738112f37df78",
            ),
        ),
    ),
    KnownDataSet(
        name="fgvc-aircraft",
        title="FGVC-Aircraft",
        page="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        licence="non-commercial research only; the rights in the pictures are their photographers'",
        images=layouts.IMAGES["FGVC-Aircraft"],
        classes=100,
        disk=2_800_000_000,
        files=(
            File(
                url="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                size=2_753_340_328,
                sha256="e4e323d410e29f0370c81eabdcbb0e2b813acea1de22891b70b58ff41bfc9834",
                md5="d4acdd33327262359767eeaa97a4f732",
            ),
        ),
    ),
    KnownDataSet(
        name="food-101",
        title="Food-101",
        page="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        licence=(
            "scientific fair use; the pictures are from Foodspotting and belong to their owners"
        ),
        images=layouts.IMAGES["Food-101"],
        classes=101,
        disk=5_200_000_000,
        files=(
            File(
                url="http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                size=4_996_278_331,
                sha256="d97d15e438b7f4498f96086a4f7e2fa42a32f2712e87d3295441b2b6314053a4",
                md5="85eeb15f3717b99a5da872d97d918f87",
            ),
        ),
    ),
    KnownDataSet(
        name="nabirds",
        title="NABirds",
        page="https://dl.allaboutbirds.org/nabirds",
        licence=(
            "non-commercial research and education, by the terms of the Cornell Lab of Ornithology"
        ),
        images=layouts.IMAGES["NABirds"],
        classes=555,
        disk=10_000_000_000,
        by_hand=(
            "NABirds has to be requested with a form: fill it in at "
            "https://dl.allaboutbirds.org/nabirds and unpack the archive"
        ),
    ),
    KnownDataSet(
        name="vegfru",
        title="VegFru",
        page="https://github.com/ustc-vim/vegfru",
        licence="none is stated; made for research",
        images=layouts.IMAGES["VegFru"],
        classes=292,
        disk=15_000_000_000,
        by_hand=(
            "VegFru is on a file host that requires a login: see "
            "https://github.com/ustc-vim/vegfru and unpack the archives"
        ),
    ),
    KnownDataSet(
        name="stanford-dogs",
        title="Stanford Dogs",
        page="http://vision.stanford.edu/aditya86/ImageNetDogs/",
        licence="ImageNet's terms: non-commercial research and education",
        images=layouts.IMAGES["Stanford Dogs"],
        classes=120,
        disk=850_000_000,
        files=(
            File(
                url="http://vision.stanford.edu/aditya86/ImageNetDogs/images.tar",
                size=793_579_520,
                sha256="a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
            ),
            File(
                url="http://vision.stanford.edu/aditya86/ImageNetDogs/lists.tar",
                size=481_280,
                sha256="34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
            ),
        ),
        note="its lists are read with SciPy: pip install 'wingbar[train]'",
    ),
    KnownDataSet(
        name="cifar-10",
        title="CIFAR-10",
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none is stated; cite Krizhevsky 2009",
        images=layouts.IMAGES["CIFAR-10"],
        classes=10,
        disk=450_000_000,
        files=(
            File(
                url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                size=170_498_071,
                sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
                md5="c58f30108f718f92721af3b95e74349a",
            ),
        ),
    ),
    KnownDataSet(
        name="mnist",
        title="MNIST",
        page="http://yann.lecun.com/exdb/mnist/",
        licence="CC BY-SA 3.0; the rights are Yann LeCun's and Corinna Cortes's",
        images=layouts.IMAGES["MNIST"],
        classes=10,
        disk=310_000_000,
        files=_idx_files(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            (
                (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
                (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
                (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
                (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
            ),
        ),
        note="from the mirror of the Common Visual Data Foundation",
    ),
    KnownDataSet(
        name="fashion-mnist",
        title="Fashion-MNIST",
        page="https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT, Zalando SE",
        images=layouts.IMAGES["Fashion-MNIST"],
        classes=10,
        disk=330_000_000,
        files=_idx_files(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            (
                (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
                (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
                (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
                (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
            ),
        ),
    ),
    KnownDataSet(
        name="roxford5k",
        title="ROxford5k",
        page="https://github.com/filipradenovic/revisitop",
        licence="Flickr's terms and the terms of access of Oxford's Visual Geometry Group",
        images=layouts.IMAGES["ROxford5k"],
        classes=0,
        disk=2_000_000_000,
        files=(
            File(
                url="https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/oxbuild_images-v1.tgz",
                into="jpg",
            ),
            File(url="http://cmp.felk.cvut.cz/revisitop/data/datasets/roxford5k/gnd_roxford5k.pkl"),
        ),
        note=_OXFORD_NOTE,
    ),
    KnownDataSet(
        name="rparis6k",
        title="RParis6k",
        page="https://github.com/filipradenovic/revisitop",
        licence="Flickr's terms and the terms of access of Oxford's Visual Geometry Group",
        images=layouts.IMAGES["RParis6k"],
        classes=0,
        disk=2_700_000_000,
        files=(
            File(
                url="https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/paris_1-v1.tgz",
                into="jpg",
            ),
            File(
                url="https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/paris_2-v1.tgz",
                into="jpg",
            ),
            File(url="http://cmp.felk.cvut.cz/revisitop/data/datasets/rparis6k/gnd_rparis6k.pkl"),
        ),
        note=_OXFORD_NOTE,
    ),
    KnownDataSet(
        name="gldv2-clean",
        title="GLDv2-clean",
        page="https://github.com/cvdfoundation/google-landmark",
        licence="lists CC BY 4.0; each training picture has a CC BY licence of its own",
        images=layouts.IMAGES["GLDv2-clean"],
        classes=81_313,
        disk=500_000_000_000,
        by_hand=(
            "GLDv2-clean is spread over 500 archives of 1 GB: unpack them into train/ with the "
            "script of https://github.com/cvdfoundation/google-landmark, and put train_clean.csv "
            "beside train/"
        ),
    ),
)
DATA_SETS: dict[str, KnownDataSet] = {data.name: data for data in _ALL}


def get(name: str) -> KnownDataSet:
    """The data set of this name; case, "_" and " " do not matter. Raises DataError that lists all
    names."""
    plain = name.lower().replace("_", "-").replace(" ", "-")
    if plain not in DATA_SETS:
        raise DataError(f"no data set is named {name!r}: have {', '.join(DATA_SETS)}")
    return DATA_SETS[plain]


def fetch(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    url: str = "",
    progress: Progress = no_progress,
) -> FetchReport:
    """Fetch the data set `name` into `folder` (default: its name), ready for `read_dataset`.

    `url` is a mirror: the address of the file, or of the folder that holds the files (ending in /
    if there is only one file); the checksums stay the same. Everything is fetched and unpacked in
    FOLDER.fetching, which is renamed to FOLDER once all of it is there and can be read; an
    interrupted fetch resumes from it. `progress` counts bytes, and pictures in the stage "writing
    pictures". Raises DataError.
    """
    data = _from_mirror(get(name), url)
    if not data.files:
        raise DataError(f"{data.by_hand}; wingbar then reads the folder as it is")
    target = Path(folder or data.name)
    work = target.with_name(target.name + ".fetching")
    if (target / _MARK).is_file():
        shutil.rmtree(work, ignore_errors=True)
        return _fetched_before(data, target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(
            f"{target} exists and is not empty: name another folder with -o, or use it as it is"
        )
    missing = sum(file.size for file in data.files if not (work / file.name).is_file())
    download.require_free_space(work, missing - _received(work) + data.disk)
    try:
        sums = tuple(_fetch_file(file, work, progress) for file in data.files)
    except DataError:
        with suppress(OSError):
            work.rmdir()  # unless something arrived
        raise
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    for file in data.files:
        _place(work / file.name, unpacked / file.into, progress)
    report = _read(data, unpacked, target, sums, progress)
    _finish(unpacked, target, report)
    shutil.rmtree(work, ignore_errors=True)
    return report


def _from_mirror(data: KnownDataSet, url: str) -> KnownDataSet:
    """The same data set with the addresses of a mirror, if any."""
    if not url:
        return data
    if not data.files:
        return replace(data, files=[File(url=url)])
    whole = len(data.files) == 1 and not url.endswith("/")
    address = {file.name: url if whole else f"{url.rstrip('/')}/{file.name}" for file in data.files}
    return replace(
        data,
        files=[replace(file, url=address[file.name], saved_as=file.name) for file in data.files],
    )


def _received(work: Path) -> int:
    """Bytes of files that were fetched in part."""
    return sum(path.stat().st_size for path in work.glob("*.part"))


def _fetch_file(file: File, work: Path, progress: Progress) -> Sum:
    found = download.fetch(
        file.url, work / file.name, sha256=file.sha256, md5=file.md5, progress=progress
    )
    checked = "sha256" if file.sha256 else "md5" if file.md5 else ""
    return Sum(file.url, found.size, found.sha256, checked)


def _place(file: Path, folder: Path, progress: Progress) -> None:
    """Unpack an archive into `folder`, or copy any other file there; the fetched file is kept until
    the whole data set is done."""
    if download.is_archive(file):
        download.unpack(file, folder, progress)
        return
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / file.name)


def _read(
    data: KnownDataSet, unpacked: Path, target: Path, sums: tuple[Sum, ...], progress: Progress
) -> FetchReport:
    """Read what was unpacked as `read_images` does, and count it."""
    layout = layouts.find(unpacked)
    if layout is not None:
        layouts.prepare(layout, progress)
    found = read_images(unpacked)
    if layout is None or not found.protocol.startswith(data.title):
        raise DataError(
            f"{unpacked} does not look like {data.title}: remove {unpacked.parent} and fetch it "
            "from another address"
        )
    classes = len({label for label in found.labels if label is not None})
    return FetchReport(data.name, str(target), len(found), classes, data.images, sums, True)


def _finish(unpacked: Path, target: Path, report: FetchReport) -> None:
    try:
        (unpacked / _MARK).write_text(json.dumps(asdict(report), indent=1), encoding="utf-8")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # an empty folder, or `fetch` would have refused
            target.rmdir()
        os.rename(unpacked, target)
    except OSError as error:
        raise DataError(
            f"{unpacked} is complete but cannot be renamed to {target} ({error.strerror}): rename "
            "it yourself"
        ) from None


def _fetched_before(data: KnownDataSet, target: Path) -> FetchReport:
    """The report of an earlier fetch into `target`."""
    try:
        known = json.loads((target / _MARK).read_text(encoding="utf-8"))
        report = FetchReport(
            **{
                **known,
                "folder": str(target),
                "files": tuple(Sum(**s) for s in known["files"]),
                "fetched": False,
            }
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{target / _MARK} cannot be read ({error}): name another folder with -o"
        ) from None
    if report.name != data.name:
        raise DataError(f"{target} holds {report.name}: name another folder with -o")
    return report
