"""Blocks into a sharded Zarr v3 store: one shard, one put, one digest.

A shard is encoded in memory and then put whole, and never read before it is
written: `zarr` reads the old shard even for a whole-shard write, so that a
truncated one could not be replaced. This also makes the digest that of the
bytes as they were handed over, whatever the disk did to them later, and leaves
no moment at which a duplicate writer could find the key missing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from geoscale.errors import OutputError, SinkError
from geoscale.sinks.layout import (
    ROOT,
    STATE,
    consolidate,
    lay_out,
    parse_json,
    template_dict,
)
from geoscale.sinks.shards import encode_shard
from geoscale.storage import Folder, Objects, digest_bytes
from geoscale.template import OutputTemplate
from geoscale.types import Array, Json, Layer
from geoscale.windows import Window
from geoscale.words import redact

# What of an array's metadata decides how its shards are read.
_DECIDING = ("node_type", "shape", "data_type", "chunk_grid", "fill_value", "codecs")


class ZarrSink:
    """Stores finished blocks in a Zarr v3 group.

    Every layer is one array, (time, y, x) or (time, class, y, x), cut into
    shards of ``block_px`` that hold checksummed chunks of ``chunk_px``. What no
    block wrote reads as the layer's fill value, which is never a class. Only
    the URL and the template travel to workers; several threads may write.

    Parameters
    ----------
    url : str
        Local folder or any fsspec URL.
    template : OutputTemplate
        What the store holds.
    """

    def __init__(self, url: str, template: OutputTemplate) -> None:
        self.url = str(url).rstrip("/")
        self.template = template
        self._folder: Objects | None = None
        self._checked: set[str] = set()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        """Send the URL and the template only; a worker opens its own store."""
        return ZarrSink, (self.url, self.template)

    @property
    def folder(self) -> Objects:
        """Place of the store, opened on first use in this process."""
        if self._folder is None:
            self._folder = Folder(self.url)
        return self._folder

    def create(self) -> None:
        """Write all metadata and coordinates; keep what is already there.

        Raises
        ------
        OutputError
            If the folder holds something else, or an output of another layout.
        StoppedError
            If there is no room or no right to write.
        """
        objects = lay_out(self.template)
        names = self.folder.names()
        root = parse_json(self.folder.get(ROOT)) if ROOT in names else None
        if root is None:
            self._refuse_foreign(names, objects)
        else:
            self._refuse_other(root)
        # The root first: an interrupted `create` is then known as ours. Arrays before
        # what they hold.
        for name in sorted(objects, key=lambda n: (n != ROOT, not n.endswith(ROOT), n)):
            if not self._is_sound(name, objects[name]):
                self.folder.put(name, objects[name])

    def damaged_metadata(self) -> list[str]:
        """Keys of metadata and coordinates that are not as `create` wrote them.

        Shards carry digests and are not looked at; attributes may be added.
        `create` mends what this lists, unless the file still reads as metadata.
        """
        bad = []
        for name, wanted in lay_out(self.template).items():
            found = self.folder.get(name)
            if name.endswith(ROOT):
                old, new = parse_json(found) or {}, parse_json(wanted) or {}
                there, ours = old.get("attributes", {}), new["attributes"]
                same = all(_holds(there.get(k), v) for k, v in ours.items())
                if not same or any(old.get(k) != new.get(k) for k in _DECIDING):
                    bad.append(name)
            elif found != wanted:
                bad.append(name)
        return sorted(bad)

    def _is_sound(self, name: str, wanted: bytes) -> bool:
        data = self.folder.get(name)
        # Metadata that parse are kept, though another version wrote them
        # differently: the shards there were encoded by them.
        return parse_json(data) is not None if name.endswith(ROOT) else data == wanted

    def write(
        self, time: int, core: Window, layers: Mapping[str, Array]
    ) -> dict[str, str | None]:
        """Write one block, each shard of it in one put.

        Parameters
        ----------
        time : int
            Number of the time step.
        core : Window
            Pixels of the block: a whole number of shards, or up to the edge.
        layers : mapping
            Array per layer, in the layer's dtype, (y, x) or (class, y, x); of a
            forecast (step x class, y, x).

        Returns
        -------
        dict
            Stored key → digest; None where all is fill value and nothing is
            stored.

        Raises
        ------
        SinkError
            If the block does not fit the store; nothing is written then.
        StoppedError
            If there is no room or no right to write.
        """
        return self._write_to(self.folder, time, core, layers)

    def _write_to(
        self, folder: Objects, time: int, core: Window, layers: Mapping[str, Array]
    ) -> dict[str, str | None]:
        self._check_place(time, core)
        self._check_layers(core, layers)
        self._check_arrays()
        found = {}
        for layer in self.template.layers:
            steps = np.split(layers[layer.name], self.template.together)
            for step, data in enumerate(steps):
                at = time * len(steps) + step
                for part, key in self._iter_shards(layer, at, core):
                    rows, columns = part.within(core)
                    shard = data[..., rows, columns]
                    found[key] = self._put_shard(folder, key, layer, shard)
        return found

    def fetch_digest(self, key: str) -> str | None:
        """Digest of the bytes stored under a key now; None where nothing is."""
        return self.folder.digest(key)

    def drop(self, key: str) -> None:
        """Delete a stored shard; it reads as fill value until written again."""
        self.folder.delete(key)

    def keys(self) -> Iterator[str]:
        """Yield the keys of all stored shards, layer by layer, sorted."""
        for layer in self.template.layers:
            for name in self.folder.find(f"{layer.name}/c"):
                if not name.endswith(".partial"):
                    yield f"{layer.name}/c/{name}"

    def place(self, key: str) -> tuple[int, int, int]:
        """Time step, row and column of the block whose shard a key names."""
        _, _, time, *_, row, column = key.split("/")
        return int(time) // self.template.together, int(row), int(column)

    def sweep(self, *, older_s: float = 86_400.0) -> list[str]:
        """Delete what killed writers left behind on a local disk.

        Parameters
        ----------
        older_s : float
            Age from which a partial file is taken as abandoned, in seconds, by
            the clock of the disk itself; longer than any one put.

        Returns
        -------
        list of str
            Names that were deleted.
        """
        folder = self.folder
        if isinstance(folder, Folder) and folder.is_local:
            return folder.sweep_partials(older_s)
        return []

    def finalize(self, attrs: Mapping[str, Any] | None = None) -> None:
        """Add attributes to the root and consolidate metadata; in the driver only.

        Parameters
        ----------
        attrs : mapping, optional
            JSON-able attributes to set on the root group.

        Raises
        ------
        OutputError
            If the store was not created.
        """
        consolidate(Folder(self.url), attrs or {})

    def _refuse_foreign(self, names: list[str], objects: Mapping[str, bytes]) -> None:
        foreign = [n for n in names if not self._is_ours(n, objects)]
        if foreign:
            raise OutputError(
                f"output {redact(self.url)} exists and is something else: it holds "
                f"`{foreign[0]}`; choose a new path, or empty it yourself"
            )

    def _is_ours(self, name: str, objects: Mapping[str, bytes]) -> bool:
        if name == ROOT or name.startswith(STATE) or name.endswith(".partial"):
            return True
        member = f"{name}/{ROOT}"
        return member in objects and self.folder.get(member) == objects[member]

    def _refuse_other(self, root: Json) -> None:
        found = template_dict(root)
        where = redact(self.url)
        if found is None:
            raise OutputError(
                f"output {where} exists and is something else: a Zarr store that "
                "geoscale did not make; choose a new path"
            )
        wanted = json.loads(json.dumps(self.template.layout()))
        for name in sorted({*found, *wanted}):
            old, new = found.get(name), wanted.get(name)
            if old != new:
                raise OutputError(
                    f"output {where} holds another job's map: `{name}` is "
                    f"{_short(old)} there and {_short(new)} here; choose a new path"
                )

    def _refuse_drift(self, layer: Layer, found: Json) -> None:
        wanted = parse_json(lay_out(self.template)[f"{layer.name}/{ROOT}"]) or {}
        for name in _DECIDING:
            if found.get(name) != wanted[name]:
                raise SinkError(
                    f"array `{layer.name}` in {redact(self.url)} has `{name}` "
                    f"{_short(found.get(name))}, the plan's is {_short(wanted[name])}; "
                    "do not mix two outputs"
                )

    def _check_place(self, time: int, core: Window) -> None:
        shape, block = self.template.shape, self.template.block_px
        count = len(self.template.times) // self.template.together
        if not 0 <= time < count:
            raise SinkError(f"time step {time} is outside the output's {count} steps")
        if core.is_empty or core not in Window(0, 0, *shape):
            raise SinkError(
                f"block core {core.as_tuple()} is empty or leaves the output of "
                f"{shape} px"
            )
        starts, stops = (core.y0, core.x0), (core.y1, core.x1)
        for axis, start, stop, size in zip("yx", starts, stops, shape, strict=True):
            if start % block or (stop % block and stop != size):
                raise SinkError(
                    f"block core {axis} {start} to {stop} px is not a multiple of "
                    f"the shard's {block} px (the output ends at {size} px); two "
                    f"writers would share a shard and lose data: cut cores by {block}"
                )

    def _check_layers(self, core: Window, layers: Mapping[str, Array]) -> None:
        wanted = {layer.name: layer for layer in self.template.layers}
        if set(layers) != set(wanted):
            raise SinkError(
                f"block has layers {sorted(layers)}, the output has {sorted(wanted)}; "
                "give every layer once"
            )
        for name, layer in wanted.items():
            data, shape = layers[name], layer.block_shape(core.shape)
            if layer.classes:
                shape = (shape[0] * self.template.together, *shape[1:])
            if data.dtype != np.dtype(layer.dtype) or data.shape != shape:
                raise SinkError(
                    f"layer `{name}` is {data.dtype} {data.shape}, the output has "
                    f"{layer.dtype} {shape} there; cast or cut it before writing"
                )

    def _iter_shards(
        self, layer: Layer, time: int, core: Window
    ) -> Iterator[tuple[Window, str]]:
        step = self.template.block_px
        for y0 in range(core.y0, core.y1, step):
            for x0 in range(core.x0, core.x1, step):
                part = Window(y0, x0, y0 + step, x0 + step) & core
                index = [time, *([0] if layer.classes else []), y0 // step, x0 // step]
                yield part, "/".join([layer.name, "c", *map(str, index)])

    def _put_shard(
        self, folder: Objects, key: str, layer: Layer, data: Array
    ) -> str | None:
        shard = encode_shard(
            data,
            layer.fill_value,
            block_px=self.template.block_px,
            chunk_px=self.template.chunk_px,
        )
        if shard is None:
            folder.delete(key)
            return None
        folder.put(key, shard)
        return digest_bytes(shard)

    def _check_arrays(self) -> None:
        """Look once whether the store is laid out as shards are encoded here."""
        with self._lock:
            for layer in self.template.layers:
                if layer.name not in self._checked:
                    self._check_array(layer)
                    self._checked.add(layer.name)

    def _check_array(self, layer: Layer) -> None:
        parsed = parse_json(self.folder.get(f"{layer.name}/{ROOT}"))
        if parsed is None:
            raise SinkError(
                f"output {redact(self.url)} has no array `{layer.name}`; call "
                "`create` before blocks are written"
            )
        self._refuse_drift(layer, parsed)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _holds(there: Any, ours: Any) -> bool:
    """Whether an attribute is what was written; lists of conventions may grow."""
    if isinstance(ours, list) and isinstance(there, list) and len(there) > len(ours):
        return all(item in there for item in ours)
    return bool(there == ours)
