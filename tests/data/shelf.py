"""A file server that can misbehave, and zip files to put on it."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Shelf:
    """What a test server serves, and how badly it behaves."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"first"'
    modified: str = ""
    ranges: bool = True  # whether it knows them
    heeds_if_range: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers end
    refusals: list[int] = field(default_factory=list)  # status codes of the next answers
    asked: list[str] = field(default_factory=list)  # the Range of every request


def serve(shelf: Shelf) -> Iterator[Shelf]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            shelf.asked.append(self.headers.get("Range", ""))
            if shelf.refusals:
                self.send_error(shelf.refusals.pop(0))
                return
            body = shelf.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            start = self.start_of(len(body))
            if start and start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            for name, value in (("ETag", shelf.etag), ("Last-Modified", shelf.modified)):
                if value:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[start:][: shelf.cuts.pop(0) if shelf.cuts else None])

        def start_of(self, size: int) -> int:
            wanted, version = self.headers.get("Range"), self.headers.get("If-Range")
            if not wanted or not shelf.ranges:
                return 0
            if shelf.heeds_if_range and version not in (shelf.etag, shelf.modified):
                return 0
            return int(wanted.removeprefix("bytes=").removesuffix("-"))

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        shelf.url = f"http://127.0.0.1:{httpd.server_port}/"
        thread = threading.Thread(
            target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        thread.start()
        yield shelf
        httpd.shutdown()
        thread.join()


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return path
