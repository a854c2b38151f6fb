"""A file server with ranges and latency; it counts requests and bytes.

It runs as a process of its own: some readers hold the interpreter's lock while
they wait, and would wait for themselves.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder = Path()
    latency_s = 0.0
    lock = threading.Lock()
    requests = 0
    sent = 0

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        if self.path == "/counts":
            self.say(json.dumps({"requests": Handler.requests, "bytes": Handler.sent}))
        else:
            self.answer(body=True)

    def say(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def answer(self, *, body: bool) -> None:
        time.sleep(self.latency_s)
        path = self.folder / os.path.basename(self.path.partition("?")[0])
        try:
            size = path.stat().st_size
        except OSError:
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        start, end = 0, size - 1
        if asked:
            low, _, high = asked.removeprefix("bytes=").partition("-")
            start, end = int(low), min(int(high or end), end)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(end - start + 1))
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.end_headers()
        sent = 0
        if body:
            with path.open("rb") as file, contextlib.suppress(OSError):
                file.seek(start)
                # in pieces: a client may want no more than the headers
                while left := end - start + 1 - sent:
                    sent += self.wfile.write(file.read(min(left, 65536)))
        with self.lock:
            Handler.requests += 1
            Handler.sent += sent


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        pass  # a client hung up


@contextlib.contextmanager
def serving(folder: Path, latency_s: float) -> Iterator[str]:
    """Serve a folder from another process; gives its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.http_server", str(folder), str(latency_s)],
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


def counts(url: str) -> dict[str, int]:
    """Requests and bytes so far."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/counts") as answer:
        return dict(json.load(answer))


if __name__ == "__main__":
    Handler.folder, Handler.latency_s = Path(sys.argv[1]), float(sys.argv[2])
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
