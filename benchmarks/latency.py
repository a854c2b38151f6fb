"""A file server on loopback that waits before every answer, and counts.

``python -m benchmarks.latency FOLDER --delay-ms 20`` prints its port and serves until
it is stopped. ``/__stats__`` tells requests and bytes since the last time it was asked.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD with one byte range, as object stores answer."""

    protocol_version = "HTTP/1.1"
    folder: Path
    delay_s: float
    lock = threading.Lock()
    stats = {"requests": 0, "bytes": 0, "missing": 0}  # noqa: RUF012

    def do_GET(self) -> None:
        if self.path == "/__stats__":
            self._tell_stats()
            return
        time.sleep(self.delay_s)
        path = self.folder / self.path.lstrip("/").split("?")[0]
        if not path.is_file():
            self._count(0, missing=1)
            self.send_error(404)
            return
        first, end, total = self._range(path.stat().st_size)
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(end - first))
        self.send_header("Accept-Ranges", "bytes")
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{total}")
        self.end_headers()
        if self.command == "HEAD":
            self._count(0)
            return
        with path.open("rb") as file:
            file.seek(first)
            self.wfile.write(file.read(end - first))
        self._count(end - first)

    do_HEAD = do_GET

    def _range(self, total: int) -> tuple[int, int, int]:
        found = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found is None:
            return 0, total, total
        last = int(found[2]) if found[2] else total - 1
        return int(found[1]), min(last + 1, total), total

    def _count(self, size: int, missing: int = 0) -> None:
        with self.lock:
            self.stats["requests"] += 1
            self.stats["bytes"] += size
            self.stats["missing"] += missing

    def _tell_stats(self) -> None:
        with self.lock:
            body = json.dumps(self.stats).encode()
            self.stats.update(requests=0, bytes=0, missing=0)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: thousands of requests."""


class Server(ThreadingHTTPServer):
    """Room for as many connections at once as any reader opens."""

    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Readers hang up when they have what they want."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay-ms", type=float, default=20.0)
    args = parser.parse_args()
    Handler.folder, Handler.delay_s = args.folder.resolve(), args.delay_ms / 1e3
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


@contextmanager
def serve(folder: Path, delay_ms: float) -> Iterator[str]:
    """Serve a folder from a process of its own; yields its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.latency", str(folder),
         "--delay-ms", str(delay_ms)],
        cwd=ROOT.parent, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait(10)


def take_stats(url: str) -> dict[str, int]:
    """Requests and bytes since the last call."""
    with urllib.request.urlopen(f"{url}/__stats__", timeout=10) as answer:
        return dict(json.load(answer))


if __name__ == "__main__":
    main()
