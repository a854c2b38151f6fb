"""Survey: one pass over the items of a source, however many, into a listing.

Every item is met once and let go. What is kept of it is its JSON, compressed, and
numbers; of what many have in common (calibration, the grid of their files) one
example.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.errors import SourceError
from geoscale.sources.choosing import Chooser
from geoscale.sources.fields import format_label
from geoscale.sources.footprints import Outline, find_outline, project_outlines
from geoscale.sources.items import Asset, Item
from geoscale.sources.listing import GROUP, META, Listing, seal, sum_columns
from geoscale.sources.steps import GroupBy, find_middle, find_solar_days

if TYPE_CHECKING:
    from geoscale.sources.targets import Target

_TO_JSON = json.JSONEncoder(separators=(",", ":"))


class Survey:
    """What a source has to know of its items.

    Parameters
    ----------
    items : iterable of Item
        Any order; each is asked for once. Repeated ones are dropped.
    bands : sequence of str
        Wanted bands.
    sensor : str, optional
        Sensor whose band names `bands` uses.

    Raises
    ------
    SourceError
        If there is no item, one lacks a band, or two differ under one id.
    """

    def __init__(
        self, items: Iterable[Item], bands: Sequence[str], sensor: str | None = None
    ) -> None:
        self.bands = tuple(bands)
        """Names of the bands, as they were asked for."""
        self.own = len(self.bands)
        """How many of them, from the first, the stack has; others are a mask's."""
        self._chooser = Chooser(bands, sensor)
        self._texts: list[bytes] = []
        self._sums: list[int] = []
        self._order: list[tuple[Any, str]] = []
        self._middles: list[float | None] = []
        self._clouds: list[float | None] = []
        self._kinds, self._outlines = _Numbers(), _Numbers()
        self._kind_of: list[int] = []
        self._outline_of: list[int] = []
        self._remote = False
        self._only: frozenset[int] | None = None
        self.examples: list[Item] = []
        """One item of each grid that files have; with its bands by name."""
        self._counts: Counter[int] = Counter()
        self._collections: list[str | None] = []
        for item in items:
            self._add(item)
        self._chooser.check(len(self._texts))
        if not self._texts:
            raise SourceError("0 items; check the search or the file")

    @property
    def layout(self) -> list[list[Asset]]:
        """Assets of the examples, in the order of the stack's bands."""
        own = self.bands[: self.own]
        return [[item.assets[b] for b in own] for item in self.examples]

    @property
    def counts(self) -> list[int]:
        """How many items each example stands for."""
        return [self._counts[i] for i in range(len(self.examples))]

    @property
    def outlines(self) -> list[Outline]:
        """Where the files of each example lie."""
        return self._outlines.values

    def within(self, examples: Iterable[int]) -> Survey:
        """Give a survey of just those items that some examples stand for.

        Parameters
        ----------
        examples : iterable of int
            Numbers of examples.

        Returns
        -------
        Survey
            To be finished; it shares what this one holds.
        """
        other = copy.copy(self)
        other._only = frozenset(examples)
        return other

    def list_clouds(self) -> list[float | None]:
        """Percent of cloud of each item, in the order of the listing."""
        return [self._clouds[k] for k in self._sort()]

    def finish(
        self, target: Target, groupby: GroupBy, *, anywhere: bool = False
    ) -> Listing:
        """Lay the items out on a grid.

        Parameters
        ----------
        target : Target
            The grid.
        groupby : {"solar_day", "item", "all"}
            What makes one time step.
        anywhere : bool
            Whether what the metadata say of places is not to be believed.

        Returns
        -------
        Listing
            In memory.
        """
        kept = self._sort()
        if anywhere:
            boxes = np.tile([-np.inf, -np.inf, np.inf, np.inf], (len(kept), 1))
        else:
            found = project_outlines(self._outlines.values, target)
            boxes = found[[self._outline_of[k] for k in kept]]
        steps, labels = self._step(kept, groupby)
        meta = {
            "digest": self._digest(kept),
            "remote": self._remote,
            "steps": labels,
        }
        return Listing(self._write(kept, boxes, steps, meta))

    def _add(self, item: Item) -> None:
        row = self._chooser.choose(item)
        if row is None:
            return
        assets = {b: item.assets[k] for b, k in zip(self.bands, row, strict=True)}
        chosen = dataclasses.replace(item, assets=assets)
        text = _TO_JSON.encode(chosen.to_json())
        self._texts.append(zlib.compress(text.encode(), 1))
        self._sums.append(zlib.crc32(text.encode()))
        self._order.append((item.when, item.id))
        self._collections.append(item.collection)
        self._middles.append(find_middle(item))
        self._clouds.append(item.cloud_cover)
        self._kind_of.append(self._kinds.give(_find_kind(chosen)))
        outline = find_outline(chosen)
        number = self._outlines.give(outline)
        self._outline_of.append(number)
        if number == len(self.examples):
            self.examples.append(chosen)
        self._counts[number] += 1
        self._remote |= any("://" in asset.href for asset in assets.values())

    def _sort(self) -> list[int]:
        """Numbers of the items by (time, id), each id once."""
        some: Iterable[int] = range(len(self._order))
        if self._only is not None:
            some = (k for k in some if self._outline_of[k] in self._only)
        ordered = sorted(some, key=self._order.__getitem__)
        seen: dict[tuple[str | None, str], int] = {}
        kept = []
        for k in ordered:
            key = (self._collections[k], self._order[k][1])
            first = seen.setdefault(key, k)
            if first == k:
                kept.append(k)
            elif zlib.decompress(self._texts[first]) != zlib.decompress(self._texts[k]):
                raise SourceError(
                    f"item {key[1]} appears twice with different metadata; keep one of "
                    "the two"
                )
        return kept

    def _step(
        self, kept: Sequence[int], groupby: GroupBy
    ) -> tuple[np.ndarray[Any, Any], list[str]]:
        """Give the step of each item, and the label of each step: its first item's."""
        groups = _Numbers()
        if groupby == "solar_day":
            whens = [self._order[k][0] for k in kept]
            days = find_solar_days(whens, [self._middles[k] for k in kept])
            found = [groups.give(day) for day in days]
        elif groupby == "item":
            found = list(range(len(kept)))
        else:
            found = [0] * len(kept)
        of, first = np.unique(np.array(found), return_index=True)
        labels = [format_label(self._order[kept[int(i)]][0]) for i in first]
        ranked = sorted(range(len(of)), key=lambda g: (labels[g], int(first[g])))
        rank = np.empty(len(of), np.int32)
        rank[ranked] = np.arange(len(of))
        return rank[np.array(found)], [labels[g] for g in ranked]

    def _digest(self, kept: Sequence[int]) -> str:
        total = hashlib.blake2b(digest_size=16)
        for k in kept:
            text = zlib.decompress(self._texts[k])
            total.update(hashlib.blake2b(text, digest_size=16).digest())
        return total.hexdigest()

    def _write(
        self, kept: Sequence[int], boxes: Any, steps: Any, meta: dict[str, Any]
    ) -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as pq

        place = _along_a_curve(boxes)
        kinds = _Numbers()
        kind = np.array([kinds.give(self._kind_of[k]) for k in kept], np.int32)
        numbers = dict.fromkeys(("number", "step", "kind"), pa.int32())
        numbers["sum"] = pa.int64()
        floats = dict.fromkeys(("y0", "x0", "y1", "x1"), pa.float64())
        texts = {"id": pa.string(), "datetime": pa.string(), "item": pa.string()}
        fields = [pa.field(n, t) for n, t in (numbers | floats | texts).items()]
        # a checksum of Parquet covers what is in a page, not the page's header
        sums = np.array([self._sums[k] for k in kept], np.int64)
        numbers_of = [place, steps[place], kind[place], sums[place], *boxes[place].T]
        told = meta | {"columns": sum_columns(numbers_of)}
        schema = pa.schema(fields, metadata={META: seal(told)})
        buffer = io.BytesIO()
        writer = pq.ParquetWriter(
            buffer, schema, compression="zstd", write_page_checksum=True,
            use_dictionary=["datetime"],
        )  # fmt: skip
        with writer:
            for start in range(0, len(kept), GROUP):
                rows = place[start : start + GROUP]
                some = [kept[int(i)] for i in rows]
                whens = [self._order[k][0].isoformat() for k in some]
                columns = [
                    *(column[start : start + GROUP] for column in numbers_of),
                    [self._order[k][1] for k in some], whens,
                    [zlib.decompress(self._texts[k]).decode() for k in some],
                ]  # fmt: skip
                arrays = [
                    pa.array(c, f.type) for c, f in zip(columns, fields, strict=True)
                ]
                writer.write_table(pa.table(arrays, schema=schema), GROUP)
        return buffer.getvalue()


class _Numbers:
    """Numbers things as they come; equal ones have one number."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def give(self, value: Hashable) -> int:
        return self._numbers.setdefault(value, len(self._numbers))

    @property
    def values(self) -> list[Any]:
        return list(self._numbers)


def _find_kind(item: Item) -> Hashable:
    """Everything of an item that decides its calibration and dtype."""
    return (
        item.sensor,
        item.baseline,
        item.offset_applied,
        tuple(
            (a.scale, a.offset, a.dtype, a.common_name) for a in item.assets.values()
        ),
    )


def _along_a_curve(boxes: Any) -> Any:
    """Order in which neighbours on the ground lie near each other (Z order)."""
    known = np.nan_to_num(boxes, posinf=0.0, neginf=0.0)
    middle = np.stack([known[:, 0] + known[:, 2], known[:, 1] + known[:, 3]])
    low = middle.min(axis=1, keepdims=True)
    span = np.maximum(np.ptp(middle, axis=1, keepdims=True), 1.0)
    cell = ((middle - low) / span * 0xFFFF).astype(np.uint64)
    code = np.zeros(cell.shape[1], np.uint64)
    for bit in range(16):
        for axis in (0, 1):
            one = (cell[axis] >> np.uint64(bit)) & np.uint64(1)
            code |= one << np.uint64(2 * bit + axis)
    return np.argsort(code, kind="stable")
