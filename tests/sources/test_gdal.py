from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoscale.errors import ReadError, SourceError
from geoscale.sources import open_source, source_from_spec
from geoscale.sources.calibration import Calibration
from geoscale.sources.gdal import COUNTS, SETTINGS, gdal_env, is_transient
from geoscale.sources.hrefs import Access
from geoscale.sources.items import Asset, Item
from geoscale.sources.raster import RasterSource
from geoscale.sources.targets import Reading, Target
from geoscale.windows import Window
from tests.sources.conftest import coordinates

TRANSFORM = (10.0, 0.0, 600000.0, 0.0, -10.0, 5000000.0)


class Server:
    """Serves one file with ranges; fails the first requests as told."""

    def __init__(self, body: bytes) -> None:  # noqa: C901  handlers are nested
        self.body, self.script = body, [""]
        self.sent, self.blank, self.opened = 0, False, 0
        self.seen: Counter[str] = Counter()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                how = outer.script.pop(0) if outer.script else ""
                outer.seen[how or "ok"] += 1
                if how.isdigit():
                    self.send_response(int(how))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                start, end = 0, len(outer.body) - 1
                asked = self.headers.get("Range")
                if asked:
                    low, _, high = asked.removeprefix("bytes=").partition("-")
                    start, end = int(low), min(int(high or end), end)
                part = outer.body[start : end + 1]
                outer.sent += len(part) if body else 0
                outer.opened += bool(asked) and start == 0
                if outer.blank and outer.opened == 1 and start:
                    part = bytes(len(part))
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(len(part)))
                self.send_header("Accept-Ranges", "bytes")
                if asked:
                    size = len(outer.body)
                    self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
                self.end_headers()
                if body and how == "cut":
                    self.wfile.write(part[: len(part) // 2])
                    self.close_connection = True
                elif body:
                    self.wfile.write(part)

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # clients that hang up are what is tested

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server(write_tif: Any) -> Iterator[Server]:
    # poorly compressible, so that pixels come in requests of their own
    noise = np.random.default_rng(1).integers(1, 60000, (400, 380)).astype("uint16")
    path = write_tif("a.tif", noise)
    found = Server(Path(path).read_bytes())
    found.expected = noise  # type: ignore[attr-defined]
    yield found
    found.http.shutdown()


def remote(
    server: Server, name: str, calibration: Calibration | None = None, **access: Any
) -> RasterSource:
    asset = Asset(
        href=f"{server.url}/{name}?sig=SECRET",
        crs="EPSG:32632",
        transform=TRANSFORM,
        shape=(400, 380),
        dtype="uint16",
    )
    item = Item(id="x", datetime=None, assets={"a": asset})
    target = Target("EPSG:32632", TRANSFORM, (400, 380))
    how = Access(**{"allow_private": True, "backoff_s": 0.01, **access})
    reading = Reading(access=how, calibration=calibration or Calibration())
    return RasterSource([item], ["a"], target.to_geobox(), reading=reading)


WHOLE = Window(0, 0, 400, 380)


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("failures", [["cut"], ["cut", "cut"], ["403"], ["500", "cut"]])
def test_transient_failures_end_in_the_right_bytes(
    server: Server, failures: list[str], after: int
) -> None:
    source = remote(server, f"{after}-{'-'.join(failures)}.tif")
    server.script = [""] * after + list(failures)
    got = source.read(WHOLE, [0])
    assert got.valid.all()
    assert (got.data[0, 0] == server.expected).all()  # type: ignore[attr-defined]


def test_permanent_failure_stops_at_once_and_hides_the_signature(
    server: Server,
) -> None:
    source = remote(server, "gone.tif")
    server.script = ["404"] * 50
    before = COUNTS.retries
    with pytest.raises(ReadError, match=r"cannot read http.*gone\.tif") as caught:
        source.read(WHOLE, [0])
    assert "SECRET" not in str(caught.value)
    assert COUNTS.retries - before <= 1


def test_every_attempt_failing_is_an_error_never_zeros(server: Server) -> None:
    source = remote(server, "bad.tif", attempts=2)
    server.script = ["", *["cut"] * 200]
    with pytest.raises(ReadError, match="after 2 tries") as caught:
        source.read(WHOLE, [0])
    # what breaks after the opening is told as `bad.tif?sig=…, band 1: …`, hostless
    assert "SECRET" not in str(caught.value)


def test_settings_hold_in_every_thread() -> None:
    from rasterio._env import get_gdal_config

    def ask(_: int) -> Any:
        with gdal_env("/vsicurl/http://x.org/a.tif", attempt=2):
            return get_gdal_config("GDAL_NUM_THREADS"), get_gdal_config(
                "CPL_VSIL_CURL_NON_CACHED"
            )

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(8))) == {(1, "/vsicurl/http://x.org/a.tif")}
    assert SETTINGS["GDAL_NUM_THREADS"] == "1"


def test_a_vrt_named_tif_is_not_read(tmp_path: Path, write_tif: Any) -> None:
    secret = write_tif("secret.tif", coordinates((64, 64)))
    evil = tmp_path / "evil.tif"
    evil.write_text(
        '<VRTDataset rasterXSize="64" rasterYSize="64"><SRS>EPSG:32632</SRS>'
        "<GeoTransform>600000,10,0,5000000,0,-10</GeoTransform>"
        '<VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        f"<SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand>"
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(SourceError, match="geoscale reads GeoTIFF"):
        open_source({"files": str(evil)})


@pytest.mark.parametrize(
    ("content", "size"), [(b"", 0), (b"<!DOCTYPE html>", 15), (b"II*\x00", 4)]
)
def test_broken_files_are_named(tmp_path: Path, content: bytes, size: int) -> None:
    path = tmp_path / "broken.tif"
    path.write_bytes(content)
    assert path.stat().st_size == size
    with pytest.raises(SourceError, match=r"cannot read .*broken\.tif after 1 try"):
        open_source({"files": str(path)})


@pytest.mark.parametrize(
    ("why", "path", "refusals", "expected"),
    [
        ("HTTP response code: 503", "/vsicurl/x", 1, True),
        ("HTTP response code: 429", "/vsis3/x", 3, True),
        ("HTTP response code: 404", "/vsicurl/x", 1, False),
        ("HTTP response code: 403", "/vsicurl/x", 1, True),
        ("HTTP response code: 403", "/vsicurl/x", 2, False),
        ("CURL error: Connection reset by peer", "/vsicurl/x", 1, True),
        ("TIFFReadEncodedTile() failed", "/vsicurl/x", 1, True),
        ("TIFFReadEncodedTile() failed", "/data/x.tif", 1, False),
        ("Input/output error", "/data/x.tif", 1, True),
    ],
)
def test_what_may_pass(why: str, path: str, refusals: int, expected: bool) -> None:
    assert is_transient(why, path, refusals=refusals) is expected


def test_threads_share_a_source(write_tif: Any) -> None:
    image = coordinates((250, 240))
    source = open_source({"files": write_tif("a.tif", image)})
    rng = np.random.default_rng(0)

    def one(_: int) -> bool:
        y, x = rng.integers(0, 200, 2)
        window = Window(int(y), int(x), int(y) + 40, int(x) + 40)
        got = source.read(window, [0]).data[0, 0]
        return bool((got == image[y : y + 40, x : x + 40]).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(200)))


def test_files_are_opened_once_whatever_the_thread(write_tif: Any) -> None:
    first = open_source({"files": write_tif("a.tif", coordinates((100, 100)))})
    source = source_from_spec(first.spec(), first.tables())
    source.read(Window(0, 0, 10, 10), [0])
    before = COUNTS.opened
    for _ in range(5):
        source.read(Window(10, 10, 60, 60), [0])
        with ThreadPoolExecutor(1) as pool:
            pool.submit(source.read, Window(10, 10, 60, 60), [0]).result()
    assert COUNTS.opened == before


def test_signer_is_called_at_opening(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    module = types.ModuleType("my_signer")
    module.sign = lambda href: href + "?sig=fresh"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_signer", module)
    source = remote(server, "signed.tif", signer="my_signer:sign")
    assert source.read(WHOLE, [0]).valid.all()
    assert "fresh" not in str([source.spec(), source.items[0]])
    with pytest.raises(SourceError, match="neither `planetary-computer` nor"):
        remote(server, "b.tif", signer="nonsense").read(WHOLE, [0])


@pytest.mark.parametrize("offset", [0.0, -0.1])
def test_all_zeros_from_afar_are_asked_for_twice(
    server: Server, write_tif: Any, offset: float
) -> None:
    """Whatever zeros are called once they are reflectance."""
    blank = Path(write_tif("blank.tif", np.zeros((400, 380), "uint16"))).read_bytes()
    gain = Calibration(units="reflectance", scale=1e-4, offset=offset)
    source = remote(server, f"blank{offset}.tif", gain)
    server.body = blank
    before = COUNTS.opened
    assert (source.read(WHOLE, [0]).data == np.float32(offset)).all()
    assert COUNTS.opened == before + 2


def test_zeros_of_a_broken_download_are_replaced_in_the_cache(server: Server) -> None:
    source = remote(server, "broken.tif")
    server.blank = True
    part = Window(200, 100, 300, 300)
    expected = server.expected[200:300, 100:300]  # type: ignore[attr-defined]
    assert (source.read(part, [0]).data[0, 0] == expected).all()
    assert server.opened >= 2
    sent = server.sent
    assert (source.read(part, [0]).data[0, 0] == expected).all()
    assert server.sent == sent


def test_bands_are_read_at_once_and_neighbours_from_the_cache(server: Server) -> None:
    source = remote(server, "cached.tif")
    source.read(Window(0, 0, 128, 128), [0])
    before = server.sent, COUNTS.tiles
    source.read(Window(10, 10, 100, 100), [0])
    assert (server.sent, COUNTS.tiles) == before
    source.read(Window(64, 64, 192, 128), [0])
    assert COUNTS.tiles == before[1] + 1
