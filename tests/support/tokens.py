"""Signatures that live for a moment, a server that wants them, and their signers.

`sign` is what jobs name as ``imagery.signer``; it works in any process of this machine,
so that workers sign by themselves. Every signature holds `CANARY`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

CANARY = "s1gnedByTheWorker"
"""In every signature, so that a leak can be found."""
CALLS: Counter[str] = Counter()
"""How often this process has signed, and was told to forget."""


def sign(href: str) -> str:
    """Sign by the time of this machine, which the server shares."""
    CALLS["signed"] += 1
    return f"{href}?sig={CANARY}.{time.time():.4f}"


def sign_late(href: str) -> str:
    """Sign as services did that gave out tokens when these had already ended."""
    CALLS["signed"] += 1
    age = 0.0 if CALLS["renewed"] else 3600.0
    return f"{href}?sig={CANARY}.{time.time() - age:.4f}"


def _renew() -> None:
    CALLS["renewed"] += 1


sign_late.renew = _renew  # type: ignore[attr-defined]


def find_age(path: str) -> float | None:
    """Age of the signature in a request's path, in s; None without one."""
    found = parse_qs(urlsplit(path).query).get("sig", [""])[0]
    canary, _, when = found.partition(".")
    return time.time() - float(when) if canary == CANARY and when else None


class TokenServer:
    """Serves a folder with ranges to who brings a signature that is young enough."""

    def __init__(self, root: Path, life_s: float, refusal: int = 403) -> None:
        self.root, self.life_s, self.refusal = root, life_s, refusal
        self.seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def count(self, word: str) -> None:
        with self._lock:
            self.seen[word] += 1


def make_handler(tokens: TokenServer) -> type[BaseHTTPRequestHandler]:  # noqa: C901
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
            age = find_age(self.path)
            path = tokens.root / urlsplit(self.path).path.lstrip("/")
            if age is None or age > tokens.life_s:
                tokens.count("unsigned" if age is None else "expired")
                self.send(tokens.refusal, b"", head, {})
            elif not path.is_file():
                self.send(404, b"", head, {})
            else:
                tokens.count("served")
                self.send_file(path, head)

        def send_file(self, path: Path, head: bool) -> None:
            body, asked = path.read_bytes(), self.headers.get("Range")
            if not asked:
                self.send(200, body, head, {})
                return
            low, _, high = asked.removeprefix("bytes=").partition("-")
            start, end = int(low), min(int(high or len(body)), len(body) - 1)
            more = {"Content-Range": f"bytes {start}-{end}/{len(body)}"}
            self.send(206, body[start : end + 1], head, more)

        def send(
            self, status: int, part: bytes, head: bool, more: dict[str, str]
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Accept-Ranges", "bytes")
            for name, value in more.items():
                self.send_header(name, value)
            self.end_headers()
            if not head:
                self.wfile.write(part)

    return Handler


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass  # clients that hang up are what is tested


@contextmanager
def serving(tokens: TokenServer) -> Iterator[str]:
    """Serve on loopback; gives the URL of the folder."""
    server = _Quiet(("127.0.0.1", 0), make_handler(tokens))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
