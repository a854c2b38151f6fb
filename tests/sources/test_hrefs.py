from __future__ import annotations

import socket
from typing import Any

import pytest

from geoscale.errors import SourceError
from geoscale.sources.hrefs import Access, to_gdal_path

HOSTILE = [
    "",
    "/vsicurl/https://x.org/a.tif",
    "/vsizip//tmp/a.zip/b.tif",
    "https://x.org/vsizip/../a.tif",
    "https://x.org/%2fvsimem/a.tif",
    "/%76simem/a.tif",
    "vrt://a.tif",
    "VRT:a",
    "<VRTDataset></VRTDataset>",
    "https://x.org/a.tif\n",
    "https://x.org/\x00a.tif",
    "a|b.tif",
    "ftp://x.org/a.tif",
    "javascript:alert(1)",
    "data:image/tiff;base64,AAAA",
    "NETCDF:a.nc:v",
    "http:a.tif",
    "https://user:secret@x.org/a.tif",
    "https:///a.tif",
    "https://%31%32%37.0.0.1/a.tif",
    "https://x.org/../../etc/passwd",
    "https://x.org/%2e%2e/a.tif",
    "http://localhost/a.tif",
    "http://LOCALHOST./a.tif",
    "http://a.localhost/a.tif",
    "http://127.0.0.1/a.tif",
    "http://127.1/a.tif",
    "http://2130706433/a.tif",
    "http://0x7f000001/a.tif",
    "http://0177.0.0.1/a.tif",
    "http://0/a.tif",
    "http://[::1]/a.tif",
    "http://[::ffff:127.0.0.1]/a.tif",
    "http://[fe80::1]/a.tif",
    "http://169.254.169.254/latest/meta-data",
    "http://10.0.0.1/a.tif",
    "http://172.16.0.1/a.tif",
    "http://192.168.1.1/a.tif",
    "http://100.64.0.1/a.tif",
    "http://x.org:99999/a.tif",
]


@pytest.mark.parametrize("href", HOSTILE)
def test_hostile_hrefs_are_refused_before_a_socket_opens(
    href: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_socket(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.delenv("GEOSCALE_ALLOW_PRIVATE", raising=False)
    monkeypatch.setattr(socket, "socket", no_socket)
    monkeypatch.setattr(socket, "getaddrinfo", no_socket)
    with pytest.raises(SourceError, match="is refused") as caught:
        to_gdal_path(href, Access())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("href", "path"),
    [
        ("https://8.8.8.8/a b/c.tif?v=1", "/vsicurl/https://8.8.8.8/a%20b/c.tif?v=1"),
        ("s3://bucket/a/b.tif", "/vsis3/bucket/a/b.tif"),
        ("gs://bucket/a.tif", "/vsigs/bucket/a.tif"),
        ("az://box/a.tif", "/vsiaz/box/a.tif"),
        ("file:///data/a%20b.tif", "/data/a b.tif"),
    ],
)
def test_good_hrefs_map_to_gdal(href: str, path: str) -> None:
    assert to_gdal_path(href, Access()) == path


def test_private_hosts_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    href = "http://127.0.0.1:8000/a.tif"
    assert to_gdal_path(href, Access(allow_private=True)).endswith("8000/a.tif")
    monkeypatch.setenv("GEOSCALE_ALLOW_PRIVATE", "1")
    assert to_gdal_path(href, Access()).endswith("8000/a.tif")


def test_remote_items_may_not_name_local_files() -> None:
    for href in ("/etc/a.tif", "file:///etc/a.tif", "a.tif"):
        with pytest.raises(SourceError, match="may not name local files"):
            to_gdal_path(href, Access(local=False))
