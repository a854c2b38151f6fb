"""A STAC API on loopback: search with paging, COGs over HTTP ranges, a map."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import geoscale as gs
from geoscale.errors import SourceError
from geoscale.sources.opening import find_items


class StacServer(ThreadingHTTPServer):
    """Serves a folder of files with ranges, and their items one page at a time."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.items, self.pages, self.ranges = folder, [], 0, 0
        self.boxes = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body, kind="application/json", **headers):
        self.send_response(status)
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/":
            return self.answer(200, json.dumps(landing(self.server.url)).encode())
        if path.startswith("/search"):
            return self.search({})
        return self.file(self.server.folder / path.lstrip("/"))

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        self.search(json.loads(self.rfile.read(length) or b"{}"))

    def search(self, asked):
        wanted = asked.get("datetime", "").split("/")[0][:4]
        found = [
            i
            for i in self.server.items
            if i["collection"] in asked.get("collections", [i["collection"]])
            and i["properties"]["datetime"].startswith(wanted)
        ]
        start = int(asked.get("token", 0))
        self.server.boxes.append(asked.get("bbox"))
        self.server.pages += 1
        page = {"type": "FeatureCollection", "features": found[start : start + 1]}
        if start + 1 < len(found):
            page["links"] = [
                {
                    "rel": "next",
                    "href": f"{self.server.url}/search",
                    "method": "POST",
                    "body": {**asked, "token": start + 1},
                }
            ]
        self.answer(200, json.dumps(page).encode(), "application/geo+json")

    def file(self, path):
        if not path.is_file():
            return self.answer(404, b"no such file")
        data = path.read_bytes()
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            return self.answer(200, data, "image/tiff", Accept_Ranges="bytes")
        self.server.ranges += 1
        start = int(span[1])
        end = min(int(span[2] or len(data) - 1), len(data) - 1)
        return self.answer(
            206,
            data[start : end + 1],
            "image/tiff",
            Content_Range=f"bytes {start}-{end}/{len(data)}",
        )


def landing(url):
    return {
        "type": "Catalog",
        "id": "loopback",
        "stac_version": "1.0.0",
        "description": "for tests",
        "conformsTo": [
            "https://api.stacspec.org/v1.0.0/core",
            "https://api.stacspec.org/v1.0.0/item-search",
        ],
        "links": [
            {"rel": "self", "href": url},
            {"rel": "root", "href": url},
            *(
                {
                    "rel": "search",
                    "href": f"{url}/search",
                    "method": method,
                    "type": "application/geo+json",
                }
                for method in ("POST", "GET")
            ),
        ],
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    pytest.importorskip("spyndex")
    from geoscale.demo.run import prepare

    folder = tmp_path_factory.mktemp("api")
    prepare(folder, 600)
    return folder


@pytest.fixture
def server(demo):
    with StacServer(demo) as http:
        found = json.loads((demo / "items.json").read_text())
        for item in found["features"]:
            item["collection"] = "s2"
            for asset in item["assets"].values():
                asset["href"] = f"{http.url}/{asset['href'].removeprefix('./')}"
            http.items.append(item)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield http
        http.shutdown()


def job(server, **imagery):
    return {
        "api": server.url,
        "collections": ["s2"],
        "bbox": [10, 40, 20, 50],
        "allow_private": True,
        **imagery,
    }


def test_a_search_with_pages_gives_the_map_of_the_files(server, demo, tmp_path):
    remote = gs.open_stack(job(server))
    assert server.pages == len(server.items) > 1
    local = gs.open_stack(demo / "items.json")
    assert remote.odc.geobox == local.odc.geobox
    options = {"block_px": 256, "patch_px": 256}
    card = "s2-landcover-unet"
    assert gs.run(gs.plan(remote, card, **options), tmp_path / "a.zarr").complete
    assert server.ranges > 10
    assert gs.run(gs.plan(local, card, **options), tmp_path / "b.zarr").complete
    a, b = (gs.open_output(str(tmp_path / f"{n}.zarr")) for n in "ab")
    np.testing.assert_array_equal(a.classes.values, b.classes.values)


def test_a_search_across_the_antimeridian_asks_on_both_sides(server):
    found = find_items(job(server, bbox=[170, 40, -170, 50]))
    assert [i.id for i in found] == sorted(i["id"] for i in server.items), "each once"
    boxes = {tuple(box) for box in server.boxes}
    assert boxes == {(170, 40, 180, 50), (-180, 40, -170, 50)}
    area = {"type": "Polygon", "coordinates":
            [[[178, 1], [181, 1], [181, 2], [178, 2], [178, 1]]]}  # fmt: skip
    server.boxes.clear()
    find_items(job(server, bbox=None), {"crs": "utm", "aoi": area})
    boxes = {tuple(box) for box in server.boxes}
    assert boxes == {(178, 1, 180, 2), (-180, 1, -179, 2)}


def test_an_empty_search_says_what_there_is(server):
    with pytest.raises(SourceError, match=r"0 items match .*2031.*newest of 2024"):
        gs.open_stack(job(server, datetime="2031-01-01/2031-02-01"))


def test_private_hosts_are_not_asked_unless_allowed(server):
    with pytest.raises(SourceError, match="allow_private"):
        gs.open_stack(job(server, allow_private=False))
    assert server.pages == 0
