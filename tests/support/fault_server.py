"""An HTTP server that fails on purpose: every way in which archives really do."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODES = (
    "429", "500", "503", "403", "cut", "stall", "reset", "long", "short", "zeros",
    "html", "etag", "whole", "drip", "first",
)  # fmt: skip
"""Each in the words of `FaultServer`."""


class FaultServer:
    """Serves one file with ranges; a share of the answers is wrong in one way.

    ``cut``, ``stall``, ``drip``: the body ends early, hangs, comes in small pieces.
    ``reset``: the connection is cut hard. ``long``, ``short``: a wrong Content-Length.
    ``zeros``, ``html``: other bytes, with 206 and 200. ``etag``: the file seems to have
    changed. ``whole``: ranges are ignored. ``first``: only the first answers fail.
    A number is an HTTP status.
    """

    def __init__(self, body: bytes, mode: str, share: float, seed: int) -> None:
        self.body, self.mode, self.share = body, mode, share
        self.seen: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def choose(self) -> bool:
        """Whether this answer is to fail."""
        with self._lock:
            self.seen["asked"] += 1
            if self.mode == "first":
                wrong = self.seen["asked"] <= 3
            else:
                wrong = self._random.random() < self.share
            self.seen["wrong"] += wrong
            return wrong


def make_handler(faults: FaultServer) -> type[BaseHTTPRequestHandler]:  # noqa: C901
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(head=True)

        def do_GET(self) -> None:
            self.answer(head=False)

        def answer(self, *, head: bool) -> None:
            wrong = faults.mode if faults.choose() else ""
            if wrong == "first":
                wrong = "503"
            if wrong.isdigit():
                self.send(int(wrong), b"", head)
            elif wrong == "reset":
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
                self.close_connection = True
            elif wrong == "html":
                self.send(
                    200, b"<!DOCTYPE html><p>Please log in", head, kind="text/html"
                )
            else:
                self.send_part(wrong, head)

        def send_part(self, wrong: str, head: bool) -> None:
            size, asked = len(faults.body), self.headers.get("Range")
            start, end, status = 0, size - 1, 200
            if asked and wrong != "whole":
                low, _, high = asked.removeprefix("bytes=").partition("-")
                start, end, status = int(low), min(int(high or end), size - 1), 206
            part = faults.body[start : end + 1]
            if wrong == "zeros":
                part = bytes(len(part))
            more = {"ETag": f'"{time.monotonic_ns()}"' if wrong == "etag" else '"1"'}
            if status == 206:
                more["Content-Range"] = f"bytes {start}-{end}/{size}"
            length = len(part) + {"long": 512, "short": -(len(part) // 2)}.get(wrong, 0)
            self.send(status, part, head, length=length, wrong=wrong, more=more)

        def send(
            self,
            status: int,
            part: bytes,
            head: bool,
            *,
            kind: str = "image/tiff",
            length: int | None = None,
            wrong: str = "",
            more: dict[str, str] | None = None,
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header(
                "Content-Length", str(len(part) if length is None else length)
            )
            self.send_header("Accept-Ranges", "bytes")
            for name, value in (more or {}).items():
                self.send_header(name, value)
            self.end_headers()
            if head:
                return
            if wrong in ("cut", "long", "short"):
                self.close_connection = True
            if wrong == "cut":
                part = part[: len(part) // 2]
            if wrong == "stall":
                self.wfile.write(part[: len(part) // 2])
                self.wfile.flush()
                time.sleep(4)
                self.close_connection = True
                return
            if wrong == "drip":
                step = max(1, len(part) // 8)
                for at in range(0, len(part), step):
                    self.wfile.write(part[at : at + step])
                    self.wfile.flush()
                    time.sleep(0.005)
                return
            self.wfile.write(part if length is None else part[: max(0, length)])

    return Handler


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass  # clients that hang up are what is tested


@contextmanager
def serving(faults: FaultServer) -> Iterator[str]:
    """Serve on loopback; gives the URL of the file."""
    server = _Quiet(("127.0.0.1", 0), make_handler(faults))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/scene.tif"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
