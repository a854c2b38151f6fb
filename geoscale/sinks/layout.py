"""The stored form of an output: metadata, encoded shards, and opening it again.

Everything here is a function of a template or of a finished store; nothing
here decides what a worker may write, which is `geoscale.sinks.zarr`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.errors import OutputError
from geoscale.sinks.repository import Snapshot, has_repository, open_snapshot
from geoscale.sinks.shards import ZSTD_LEVEL
from geoscale.storage import Folder, Objects
from geoscale.template import OutputTemplate
from geoscale.types import Array, Json, Layer
from geoscale.words import redact

if TYPE_CHECKING:
    import xarray as xr

ROOT = "zarr.json"
"""Key of a node's metadata."""
OBJECTS = "detections.json"
"""Key of what an output of objects is of; see `geoscale.sinks.vector`."""
STATE = ("geoscale", ".geoscale", "_geoscale")
"""How names begin that the engine keeps beside the arrays."""


def read_part(array: Any, where: tuple[Any, ...]) -> Array:
    """Read a part of a stored array.

    Parameters
    ----------
    array : zarr.Array
        Array of an output.
    where : tuple
        Index of the part.

    Returns
    -------
    ndarray
        Its values, in the stored dtype.

    Raises
    ------
    OutputError
        If a shard there is damaged.
    """
    try:
        return np.asarray(array[where])
    except (ValueError, RuntimeError) as err:
        raise OutputError(
            f"array `{array.name}` is damaged at {where}: {err}; run "
            "`geoscale verify`, then `geoscale repair`"
        ) from err


def lay_out(template: OutputTemplate) -> dict[str, bytes]:
    """Make all objects that a store has before its first block.

    Parameters
    ----------
    template : OutputTemplate
        What the store holds.

    Returns
    -------
    dict
        Key → bytes: ``zarr.json`` of the group and its arrays, coordinates.
    """
    # Several sinks of one output ask, and making them takes longer than a block.
    return dict(_lay_out(json.dumps(template.to_dict(), sort_keys=True)))


@functools.lru_cache(maxsize=8)
def _lay_out(spec: str) -> Mapping[str, bytes]:
    template = OutputTemplate.from_dict(json.loads(spec))
    import zarr
    from zarr.codecs import ZstdCodec
    from zarr.storage import MemoryStore

    objects: dict[str, Any] = {}
    root = zarr.create_group(
        MemoryStore(objects), zarr_format=3, attributes=template.root_attrs()
    )
    # The default codec has no checksum: one flipped bit would read as data.
    codec = ZstdCodec(level=ZSTD_LEVEL, checksum=True)
    for layer in template.layers:
        shape, shard, chunk = cut_shards(template, layer)
        axis = "band" if template.forecast_from else "class"
        dims = ("time", axis, "y", "x") if layer.classes else ("time", "y", "x")
        root.create_array(
            layer.name,
            shape=shape,
            dtype=layer.dtype,
            chunks=chunk,
            shards=shard,
            compressors=[codec],
            fill_value=layer.fill_value,
            dimension_names=dims,
            attributes=template.layer_attrs(layer),
        )
    for name, (values, names, attrs) in template.coords().items():
        array = root.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=tuple(max(1, n) for n in values.shape),
            compressors=[codec],
            dimension_names=names,
            attributes=attrs,
            config={"write_empty_chunks": True},
        )
        array[...] = values
    # From the start: readers of an unfinished map need not ask for every array.
    done = {key: bytes(value.to_bytes()) for key, value in objects.items()}
    done[ROOT] = gather_metadata(done)
    return done


def consolidate(folder: Folder, attrs: Mapping[str, Any]) -> None:
    """Set root attributes and gather all metadata into the root, in one put.

    Parameters
    ----------
    folder : Folder
        The store.
    attrs : mapping
        JSON-able attributes to set on the root group.

    Raises
    ------
    OutputError
        If there is no store.
    """
    found = dict(_iter_metadata(folder))
    root = parse_json(found.get(ROOT))
    if root is None:
        raise OutputError(
            f"output {redact(folder.url)} is not there; run the job first"
        )
    root.pop("consolidated_metadata", None)
    root["attributes"] = {**root.get("attributes", {}), **attrs}
    found[ROOT] = json.dumps(root, indent=2).encode()
    folder.put(ROOT, gather_metadata(found))


def gather_metadata(found: Mapping[str, bytes]) -> bytes:
    """Make the root's ``zarr.json`` hold the metadata of all that lies below it.

    Parameters
    ----------
    found : mapping
        Key → bytes of every ``zarr.json``, the root's included.

    Returns
    -------
    bytes
        The root's new ``zarr.json``.

    Notes
    -----
    `zarr.consolidate_metadata` does the same and warns each time; a warning can
    be silenced for a whole process only, which threads that write must not do.
    """
    root: Json = json.loads(found[ROOT])
    nodes = {
        key.removesuffix(f"/{ROOT}"): json.loads(data)
        for key, data in sorted(found.items())
        if key.endswith(f"/{ROOT}")
    }
    inline: Json = {"kind": "inline", "must_understand": False}
    for node in nodes.values():
        if node["node_type"] == "group":
            node["consolidated_metadata"] = {**inline, "metadata": {}}
    root["consolidated_metadata"] = {**inline, "metadata": nodes}
    return json.dumps(root, indent=2).encode()


def open_output(url: str, *, group: str | None = None, raw: bool = False) -> xr.Dataset:
    """Open an output lazily; nothing but metadata and coordinates is read.

    Parameters
    ----------
    url : str
        Local folder or any fsspec URL.
    group : str, optional
        Group inside it, such as ``overviews/2``.
    raw : bool
        Whether quantised layers stay the integers that are stored.

    Returns
    -------
    xarray.Dataset
        Class layers as stored integers, quantised layers as floats with NaN.

    Raises
    ------
    OutputError
        If there is no output.
    """
    import xarray as xr

    store = find_store(url)
    how: dict[str, Any] = {"chunks": None, "decode_coords": "all"}
    how["mask_and_scale"] = not raw
    if store is not url:
        how["consolidated"] = False  # a snapshot has its own table of contents
    else:
        root = parse_json(Folder(url).get(ROOT))
        if root is None:
            _refuse_objects(url)
            raise OutputError(f"output {redact(url)} is not there; run the job first")
        _refuse_zones(root, url)
    found: xr.Dataset = xr.open_zarr(store, group=group, **how)
    return found


def find_store(url: str) -> Any:
    """Find what zarr opens for an output.

    Parameters
    ----------
    url : str
        Local folder or any fsspec URL.

    Returns
    -------
    str or zarr.abc.store.Store
        The URL itself; for an Icechunk repository its last commit.
    """
    return open_snapshot(url) if has_repository(url) else url


def load_template(url: str) -> OutputTemplate:
    """Rebuild the template of an output that geoscale made.

    Raises
    ------
    OutputError
        If there is no output, or another program made it.
    """
    objects: Objects = Folder(url)
    if has_repository(url):
        objects = Snapshot(open_snapshot(url), url)
    root = parse_json(objects.get(ROOT))
    if root is None:
        _refuse_objects(url)
    else:
        _refuse_zones(root, url)
    found = template_dict(root) if root is not None else None
    if found is None:
        raise OutputError(
            f"output {redact(url)} is not there or is no map of geoscale; "
            "check the path"
        )
    return OutputTemplate.from_dict(found)


def _refuse_zones(root: Json, url: str) -> None:
    ours = root.get("attributes", {}).get("geoscale", {})
    zones = list(ours.get("zones", ())) if isinstance(ours, dict) else []
    if zones:
        raise OutputError(
            f"output {redact(url)} holds one map for each UTM zone: "
            f"{', '.join(zones)}; open one of them, such as {redact(url)}/{zones[0]}"
        )


def _refuse_objects(url: str) -> None:
    if Folder(url).exists(OBJECTS):
        raise OutputError(
            f"output {redact(url)} holds objects that a detector found, a table and no "
            "map: read detections.parquet there, or write it as another file by "
            "`geoscale export OUT --to objects.gpkg`"
        )


def template_dict(root: Json) -> Json | None:
    """Layout that a root ``zarr.json`` carries; None where geoscale made none."""
    ours = root.get("attributes", {}).get("geoscale", {})
    found = ours.get("template") if isinstance(ours, dict) else None
    return found if isinstance(found, dict) else None


def cut_shards(
    template: OutputTemplate, layer: Layer
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Shape of a layer's array, of one shard and of one chunk, in px."""
    # One shard holds all classes of a block (one put); one chunk holds one
    # class, so that looking at one score does not decode the others.
    block, chunk = template.block_px, template.chunk_px
    classes = (layer.classes,) if layer.classes else ()
    return (
        template.array_shape(layer),
        (1, *classes, block, block),
        (1, *[1] * len(classes), chunk, chunk),
    )


def _iter_metadata(folder: Folder, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    data = folder.get(f"{prefix}{ROOT}")
    if data is None:
        return
    yield f"{prefix}{ROOT}", data
    if (parse_json(data) or {}).get("node_type") != "group":
        return  # below an array lie shards, perhaps a million
    below = folder / prefix.rstrip("/") if prefix else folder
    for name in below.names():
        if not name.startswith(STATE) and name != ROOT:
            yield from _iter_metadata(folder, f"{prefix}{name}/")


def parse_json(data: bytes | None) -> Json | None:
    """Object in some JSON text; None where there is none."""
    try:
        found = json.loads(data or b"")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
