"""A proxy before an S3 server: it loses answers, and says no where S3 would."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server"}
ANSWERS = {
    "403": b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
    "503": b"<Error><Code>SlowDown</Code><Message>Slow down</Message></Error>",
}


class Proxy:
    """What becomes of the puts that pass.

    ``lost``: done, and the connection is cut instead of an answer; ``503`` and ``403``:
    answered so, and not done. `script` has the modes of the next puts; of the others,
    `share` is met.
    """

    def __init__(self, target: str, mode: str = "", share: float = 0.0) -> None:
        self.target, self.mode, self.share = target, mode, share
        self.script: list[str] = []
        self.seen: Counter[str] = Counter()
        self.unchecked: list[str] = []
        """Puts without a checksum."""
        self._random = random.Random(20)
        self._lock = threading.Lock()

    def choose(self, path: str, headers: Any) -> str:
        with self._lock:
            self.seen["put"] += 1
            names = {name.lower() for name in headers}
            if not any(n.startswith("x-amz-checksum-") for n in names) and (
                not names & {"content-md5", "x-amz-trailer"}
            ):
                self.unchecked.append(path)
            if self.script:
                mode = self.script.pop(0)
            else:
                mode = self.mode if self._random.random() < self.share else ""
            self.seen[mode] += bool(mode)
            return mode


def make_handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            mode = ""
            if self.command == "PUT":
                mode = proxy.choose(self.path, self.headers)
            if mode in ANSWERS:
                self.answer(int(mode), [], ANSWERS[mode])
                return
            server = http.client.HTTPConnection(urlsplit(proxy.target).netloc)
            server.request(self.command, self.path, body, dict(self.headers))
            found = server.getresponse()
            data = found.read()
            server.close()
            if mode == "lost":
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.close_connection = True
                return
            length = found.getheader("Content-Length") or str(len(data))
            self.answer(found.status, found.getheaders(), data, length)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on

        def answer(
            self, status: int, headers: list[Any], data: bytes, length: str = ""
        ) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    return Handler


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass  # clients that hang up are what is tested


@contextmanager
def passing(proxy: Proxy) -> Iterator[str]:
    """Stand on loopback before the server; gives the endpoint."""
    server = _Quiet(("127.0.0.1", 0), make_handler(proxy))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
