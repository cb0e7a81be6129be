"""Measure how soon a server shows the changes of another process, and how far searches slow down.

    python benchmarks/live.py INDEX FOLDER

Works on a copy of INDEX. While a client searches by id without a pause, another process adds the
pictures of FOLDER and then deletes every second one of them. For each change, a line prints the
seconds from its end until the server shows it, and the median, 99th percentile and maximum of the
milliseconds that a search took meanwhile. The first line is without a change.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from wingbar.index.index import Index

ADD = "from wingbar.index.index import Index; import sys; Index.open(sys.argv[1]).add(sys.argv[2])"
DELETE = (
    "from wingbar.index.index import Index; import sys\n"
    "with Index.open(sys.argv[1]) as index: "
    "index.delete(index.searchable().ids[int(sys.argv[2])::2].tolist())"
)


class Searcher:
    """Searches by id, one after the other, in a thread, until `stop`."""

    def __init__(self, address: str) -> None:
        self._address, self._stop = address, threading.Event()
        self.times: list[float] = []
        self.statuses: set[int] = set()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self._address)
        while not self._stop.is_set():
            start = time.perf_counter()
            connection.request(
                "POST", "/api/search", '{"id": 1}', {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            answer.read()
            self.statuses.add(answer.status)
            self.times.append((time.perf_counter() - start) * 1000)
            time.sleep(0.002)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def total(address: str) -> int:
    """Number of items that the server shows."""
    connection = http.client.HTTPConnection(address)
    connection.request("GET", "/api/items?limit=1")
    return int(json.load(connection.getresponse())["total"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index", type=Path, help="the index to copy")
    parser.add_argument("folder", type=Path, help="pictures to add")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / args.index.name
        path.write_bytes(args.index.read_bytes())
        with Index.open(path) as index:
            before = len(index)
        command = [sys.executable, "-m", "wingbar", "serve", str(path), "--port", "0", "--json"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = urlsplit(json.loads(server.stdout.readline())["url"]).netloc
            print(f"{before:,} items; milliseconds of searches by id")
            for name, script in (("nothing", None), ("add", ADD), ("delete", DELETE)):
                searcher = Searcher(address)
                shown = 0.0
                if script is None:
                    time.sleep(5)
                else:
                    argument = str(args.folder) if script == ADD else str(before)
                    subprocess.run([sys.executable, "-c", script, str(path), argument], check=True)
                    done = time.monotonic()
                    with Index.open(path) as index:
                        expected = len(index)
                    while total(address) != expected:
                        time.sleep(0.01)
                    shown = time.monotonic() - done
                searcher.stop()
                spread = np.percentile(searcher.times, [50, 99, 100])
                print(
                    f"{name:8} shown after {shown:.2f} s; median {spread[0]:.1f}, p99 "
                    f"{spread[1]:.1f}, longest {spread[2]:.1f} "
                    f"of {len(searcher.times):,} searches, statuses {sorted(searcher.statuses)}"
                )
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
