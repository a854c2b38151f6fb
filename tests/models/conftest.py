from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoscale.card import ModelCard
from geoscale.models import cache


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees another's models or downloads."""
    monkeypatch.setenv("GEOSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    cache.clear()
    yield
    cache.clear()


@pytest.fixture(scope="session")
def spain(data_dir: Path) -> np.ndarray:
    """Sen1Floods11 chip as reflectance x 10000, (13, 512, 512) float32."""
    import rasterio

    with rasterio.open(data_dir / "sen1floods11" / "Spain_7370579_S2Hand.tif") as file:
        return file.read().astype(np.float32)


@pytest.fixture(scope="session")
def tiny_card() -> ModelCard:
    """Card of `Pointwise`: two bands, three classes."""
    return ModelCard.from_dict(
        {
            "name": "tiny",
            "weights": {"href": "tiny.safetensors"},
            "input": {"bands": ["red", "nir"], "patch": {"size": 8}},
            "output": {
                "classes": [{"value": i, "name": f"c{i}"} for i in range(3)],
            },
        }
    )


class Server:
    """A web server of this machine over one folder; counts what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                if self.path.startswith("/cut"):
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b"x" * 10)
                    return
                super().do_GET()

            def log_message(self, *args: Any) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "www"
    folder.mkdir()
    server = Server(folder)
    yield server
    server.http.shutdown()
    server.http.server_close()
