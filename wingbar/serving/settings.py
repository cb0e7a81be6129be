"""Limits and settings of a server."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from wingbar.errors import WingbarError
from wingbar.parallel import BATCH


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a server takes on.

    A picture has at most `upload_bytes` and `pixels`. At most `waiting` pictures are encoded or
    wait for it, one at most `gather_ms` for others to be encoded with. A request takes at most
    `seconds`. At most `requests` with `body_bytes` in all are in work. `cache_bytes` of thumbnails
    and `feature_bytes` of features are kept.
    """

    upload_bytes: int = 32 * 2**20
    pixels: int = 64_000_000
    waiting: int = 8 * BATCH
    gather_ms: float = 5.0
    seconds: float = 30.0
    requests: int = 512
    body_bytes: int = 2**30
    cache_bytes: int = 64 * 2**20
    feature_bytes: int = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to serve, and to whom. Raises WingbarError for what would be unsafe.

    A `host` that other machines can reach needs `token` or `public`. Whoever has `token` may do
    everything, whoever has `read_token` may search and look. Without a read token anybody may
    search where only this machine reaches the server, or where `public` says so. Changes need
    `token`; without any token they are for this machine only. `hosts` are names that a request may
    have in its Host header beside addresses and localhost; `cors` are origins of other pages that
    may use the API.
    """

    index: Path
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    read_token: str | None = None
    public: bool = False
    cors: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.is_local and not self.token and not self.public:
            place = (
                f"a server at {self.host}" if not self.hosts else f"a server named {self.hosts[0]}"
            )
            raise WingbarError(
                f"{place} can be reached from other machines: give a --token, or --public to let "
                "anybody search"
            )
        for token in (self.token, self.read_token):
            if token is not None and (
                len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token
            ):
                raise WingbarError(
                    "a token has at least 8 letters, digits or signs, no space: make one with "
                    "openssl rand -hex 16"
                )
        if self.read_token is not None and self.read_token == self.token:
            raise WingbarError(
                "--read-token and --token are the same, so whoever may read could write: give two"
            )
        for origin in self.cors:
            if (
                urlsplit(origin).scheme not in ("http", "https")
                or origin != f"{urlsplit(origin).scheme}://{urlsplit(origin).netloc}"
            ):
                raise WingbarError(
                    "--cors takes the origin of a page, as https://photos.example.org, not "
                    f"{origin!r}"
                )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        address = _address(self.host)
        listens_here = self.host == "localhost" or (address is not None and address.is_loopback)
        return listens_here and not self.hosts  # another name means that a proxy passes requests on

    @property
    def reading_needs_token(self) -> bool:
        """Whether searches need a token."""
        return self.read_token is not None or not (self.is_local or self.public)

    @property
    def writing_allowed(self) -> bool:
        """Whether anybody may change the index: with the token, or without one from this
        machine."""
        return self.token is not None or (
            self.is_local and not self.public and self.read_token is None
        )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
