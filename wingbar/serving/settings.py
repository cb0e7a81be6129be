"""What a server serves, whom it allows to do what, and how much work it accepts."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from wingbar.errors import WingbarError
from wingbar.index.engine import Place
from wingbar.parallel import BATCH

SHORTEST_TOKEN = 8  # characters


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much work a server accepts, and how much it caches.

    upload_bytes: size of one picture, in bytes.
    pixels: width x height of one picture.
    waiting: number of pictures that are being encoded or wait to be; further ones get 429.
    gather_ms: longest time that a picture waits for others to share its batch, in milliseconds.
    seconds: longest time for one request.
    header_seconds: longest time for the headers of one request.
    filter_seconds: longest time that filters may take to select items; longer ones get 422.
    connections: number of connections at the same time; fewer if the system allows fewer files.
    connections_per_client: number of connections from one address that is not this machine's.
    requests: number of requests being handled at the same time; further ones get 429.
    body_bytes: size of the bodies of all requests being handled, in bytes; further ones get 429.
    cache_bytes: memory for thumbnails, in bytes.
    feature_bytes: memory for features read from the index, in bytes.
    """

    upload_bytes: int = 32 * 2**20
    pixels: int = 64_000_000
    waiting: int = 8 * BATCH
    gather_ms: float = 5.0
    seconds: float = 30.0
    header_seconds: float = 10.0
    filter_seconds: float = 10.0
    connections: int = 512
    connections_per_client: int = 128
    requests: int = 512
    body_bytes: int = 2**30
    cache_bytes: int = 64 * 2**20
    feature_bytes: int = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to serve, where, and to whom. Raises WingbarError for settings that would be unsafe.

    index: path of the index file; or several files and URLs to be served as one, or one URL.
    host: address or name to listen on. One that other machines can reach needs `token` or `public`.
    port: TCP port, 0 to 65535; 0 lets the system choose a free one.
    token: bearer token that allows everything. Without any token, only this machine may change the
        index.
    read_token: bearer token that allows searching and viewing only. Without it, searching needs no
        token if only this machine can reach the server or `public` is set.
    public: whether anybody who can reach the server may search.
    cors: origins of other web pages that may use the API, as "https://photos.example.org".
    hosts: names accepted in the Host header, in addition to IP addresses, localhost and `host`.
    index_folders: folders of this machine that may be indexed over HTTP, and those in them; only
        for a server of one index file that nobody but this machine can ask.
    limits: how much work the server accepts.
    """

    index: Path | tuple[Place, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    read_token: str | None = None
    public: bool = False
    cors: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    index_folders: tuple[Path, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.is_local and not self.token and not self.public:
            place = f"named {self.hosts[0]}" if self.hosts else f"at {self.host}"
            raise WingbarError(
                f"a server {place} can be reached from other machines: give a --token, or --public "
                "to let anybody search"
            )
        for token in (self.token, self.read_token):
            if token is not None and not _is_valid_token(token):
                raise WingbarError(
                    f"a token needs at least {SHORTEST_TOKEN} printable ASCII characters and no "
                    "spaces: generate one with openssl rand -hex 16"
                )
        if self.read_token is not None and self.read_token == self.token:
            raise WingbarError(
                "--read-token and --token are the same, so readers could also write: give two "
                "different tokens"
            )
        if self.public and self.read_token is not None:
            raise WingbarError(
                "--public lets anybody search, and --read-token only those who have it: leave one "
                "of them out"
            )
        for origin in self.cors:
            parts = urlsplit(origin)
            is_web = parts.scheme in ("http", "https")
            if not is_web or origin != f"{parts.scheme}://{parts.netloc}":
                raise WingbarError(
                    "--cors takes the origin of a page, as https://photos.example.org, not "
                    f"{origin!r}"
                )

        if self.index_folders and not (self.shows_paths and isinstance(self.index, Path)):
            raise WingbarError(
                "--allow-index is for a server of one index file that nobody but this machine can "
                "ask: leave --host, --token, --read-token, --public, --allow-host and --cors out"
            )
        for folder in self.index_folders:
            if not folder.is_dir():
                raise WingbarError(f"--allow-index {folder}: there is no such folder")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        address = parse_address(self.host)
        is_loopback = self.host == "localhost" or (address is not None and address.is_loopback)
        return is_loopback and not self.hosts  # another name means that a proxy forwards requests

    @property
    def reading_needs_token(self) -> bool:
        """Whether searching needs a token."""
        return self.read_token is not None or not (self.is_local or self.public)

    @property
    def writing_allowed(self) -> bool:
        """Whether the index can be changed at all: with the token, or without one from this
        machine."""
        return self.token is not None or (
            self.is_local and not self.public and self.read_token is None
        )

    @property
    def shows_paths(self) -> bool:
        """Whether paths, dates and cameras of pictures are told: only where nobody but this machine
        can ask at all, so that no token and no other page is involved."""
        return self.is_local and not (self.public or self.token or self.read_token or self.cors)


def parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that `host` spells, with or without brackets; None for a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_valid_token(token: str) -> bool:
    printable = token.isascii() and token.isprintable() and " " not in token
    return printable and len(token) >= SHORTEST_TOKEN
