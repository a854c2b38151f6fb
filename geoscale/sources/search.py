"""Items from a file, a STAC API or memory."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from geoscale.errors import SourceError, require
from geoscale.sources.antimeridian import split_box
from geoscale.sources.hrefs import to_gdal_path
from geoscale.sources.items import Item, normalise_item
from geoscale.sources.settings import Imagery
from geoscale.words import redact

Box = tuple[float, float, float, float]
AT_ONCE = 2048
"""Items of a Parquet file that are in memory at a time."""

LARGEST_BYTES = 2 * 2**30
"""JSON of items, unpacked, that is read into memory."""


def load_items(source: Any) -> Iterator[Item]:
    """Read STAC items from a file or from objects in memory, one after the other.

    Parameters
    ----------
    source : str, path, mapping, sequence or pystac object
        JSON file (Item, ItemCollection, FeatureCollection or list),
        stac-geoparquet file, one item, or several, as dicts or from pystac.

    Yields
    ------
    Item
        As they come.

    Raises
    ------
    SourceError
        If there is no item, or the input is not STAC.
    """
    if isinstance(source, str | os.PathLike):
        base = os.fspath(source)
        raws = _read_file(base)
    else:
        base, raws = "", _flatten(source)
    count = 0
    for count, raw in enumerate(raws, start=1):  # noqa: B007
        yield normalise_item(raw, base)
    if not count:
        raise SourceError(
            f"0 items in {redact(base) or 'the input'}; check how it was made"
        )


def _read_file(path: str) -> Iterable[Mapping[str, Any]]:
    if path.lower().endswith((".parquet", ".geoparquet")):
        return _read_parquet(path)
    import fsspec

    where = redact(path)
    try:
        with fsspec.open(path, "rb", compression="infer") as file:
            head = file.read(LARGEST_BYTES + 1)
    except (OSError, EOFError, ValueError, ImportError, zlib.error) as err:
        raise SourceError(
            f"cannot read items from {where}: {redact(str(err))}"
        ) from None
    if len(head) > LARGEST_BYTES:
        raise SourceError(
            f"{where} holds more than {LARGEST_BYTES >> 30} GB of JSON; save so many "
            "items as stac-geoparquet (.parquet), or cut the file into several jobs"
        )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] not in (b"{", b"["):
        raise SourceError(
            f"{where} is not STAC JSON; it starts with {text[:15]!r}"
            + (": compressed files end in .gz" if text[:2] == b"\x1f\x8b" else "")
        )
    try:
        found = json.loads(text)
    except (RecursionError, ValueError) as err:
        raise SourceError(f"{where} is not JSON: {err}; is it cut short?") from None
    return list(_flatten(found))


def _read_parquet(path: str) -> Iterator[Mapping[str, Any]]:
    arrow = require("stac_geoparquet.arrow", extra="geoparquet")
    pa = require("pyarrow", extra="geoparquet")
    parquet = require("pyarrow.parquet", extra="geoparquet")
    try:
        file = parquet.ParquetFile(path)
        # one thread: pyarrow's pool may abort a process that exits at once
        for batch in file.iter_batches(AT_ONCE, use_threads=False):
            yield from arrow.stac_table_to_items(pa.Table.from_batches([batch]))
    except (OSError, ValueError, KeyError) as err:
        raise SourceError(
            f"cannot read stac-geoparquet {redact(path)}: {redact(str(err))[:200]}"
        ) from None


def _flatten(value: Any) -> Iterable[Mapping[str, Any]]:
    """Yield plain items out of whatever holds them."""
    if hasattr(value, "to_dict"):  # pystac objects; links would be resolved by HTTP
        value = _plain(value)
    if isinstance(value, Mapping):
        if isinstance(value.get("features"), list):
            yield from value["features"]
        elif "assets" in value:
            yield value
        else:
            raise SourceError(
                "the input is no STAC item or collection of items; its keys are "
                f"{', '.join(map(str, list(value)[:8]))}"
            )
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for one in value:
            yield from _flatten(one)
    else:
        raise SourceError(f"a {type(value).__name__} is no STAC item")


def _plain(value: Any) -> Any:
    try:
        return value.to_dict(transform_hrefs=False)
    except TypeError:
        return value.to_dict()


def search_items(imagery: Imagery, bbox: Box | None = None) -> Iterator[Item]:
    """Search a STAC API; its pages are asked for as items are.

    Parameters
    ----------
    imagery : Imagery
        With `api`.
    bbox : tuple of float, optional
        West, south, east, north in degrees, where `imagery` names no place.

    Yields
    ------
    Item
        As they come.

    Raises
    ------
    SourceError
        If the API cannot be reached, refuses, or has no such item.
    """
    url = imagery.api or ""
    if not url.startswith(("http://", "https://")):
        raise SourceError(f"imagery.api `{redact(url)}` is not an http(s) URL")
    to_gdal_path(url, imagery.access())
    for raw in _search(url, _conditions(imagery, bbox)):
        yield normalise_item(raw, url)


def _search(url: str, asked: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    import pystac_client
    import requests

    try:
        client = pystac_client.Client.open(url, timeout=60)
        found = (
            raw
            for part in _parts(asked)
            for raw in client.search(**part).items_as_dicts()
        )
        first = next(found, None)
        if first is None:
            raise SourceError(_nothing_found(client, asked))
        yield from islice(chain([first], found), asked.get("max_items"))
    except SourceError:
        raise
    except (pystac_client.exceptions.APIError, requests.RequestException) as err:
        raise SourceError(
            f"STAC API {redact(url)} failed: {redact(str(err))[:300]}; check the URL "
            "and the network, then try again"
        ) from None
    except (KeyError, TypeError, ValueError, NotImplementedError) as err:
        raise SourceError(
            f"{redact(url)} does not answer as a STAC API: {redact(str(err))[:200]}"
        ) from None


def _conditions(imagery: Imagery, bbox: Box | None) -> dict[str, Any]:
    if not imagery.collections:
        raise SourceError("imagery.api needs imagery.collections, a list of names")
    asked: dict[str, Any] = {"collections": imagery.collections}
    if imagery.intersects is not None:
        asked["intersects"] = imagery.intersects
    else:
        box = imagery.bbox or bbox
        if box is None:
            raise SourceError(
                "imagery.api needs a place: imagery.bbox, imagery.intersects, or "
                "grid.bbox, grid.aoi"
            )
        asked["bbox"] = check_bbox(box)
    for name in ("datetime", "query", "max_items"):
        if getattr(imagery, name) is not None:
            asked[name] = getattr(imagery, name)
    return asked


def _parts(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Ask on both sides of the antimeridian: not every server knows west > east."""
    if "bbox" not in asked:
        return [dict(asked)]
    return [{**asked, "bbox": box} for box in split_box(asked["bbox"])]


def _nothing_found(client: Any, asked: Mapping[str, Any]) -> str:
    said = ", ".join(
        f"{k}={','.join(v) if k == 'collections' else v}" for k, v in asked.items()
    )
    nearest = ""
    if "datetime" in asked:
        others = {k: v for k, v in asked.items() if k not in ("datetime", "max_items")}
        try:
            found = next(client.search(**others, max_items=1).items_as_dicts(), None)
        except Exception:  # a hint is not worth a second error
            found = None
        if found is not None:
            when = (found.get("properties") or {}).get("datetime")
            nearest = f"; without the dates there are items, the newest of {when}"
    return (
        f"0 items match {said}{nearest} (check the date range, and that bbox is "
        "west,south,east,north)"
    )


def check_bbox(box: Sequence[float]) -> Box:
    """Check a box in degrees.

    Parameters
    ----------
    box : sequence of float
        West, south, east, north; west > east across the antimeridian.

    Returns
    -------
    tuple of float
        The same.

    Raises
    ------
    SourceError
        If it looks like lat,lon, lies off the globe or is empty.

    Examples
    --------
    >>> check_bbox((4.2, 52.1, 4.5, 52.3))
    (4.2, 52.1, 4.5, 52.3)
    """
    west, south, east, north = (float(v) for v in box)
    shown = f"bbox ({west:g}, {south:g}, {east:g}, {north:g})"
    if max(abs(south), abs(north)) > 90 and max(abs(west), abs(east)) <= 90:
        raise SourceError(
            f"{shown} looks like lat,lon; write west,south,east,north: "
            f"({south:g}, {west:g}, {north:g}, {east:g})"
        )
    if max(abs(south), abs(north)) > 90 or max(abs(west), abs(east)) > 180:
        raise SourceError(
            f"{shown} exceeds ±180/±90; it must be degrees (EPSG:4326); projected "
            "coordinates go into grid.bounds"
        )
    if south >= north:
        raise SourceError(f"{shown} has south >= north; write west,south,east,north")
    if west == east or (west, east) == (180, -180):
        raise SourceError(f"{shown} has no width; write west,south,east,north")
    return west, south, east, north
