"""A plan as JSON and Parquet, and back."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import OutputError
from geoscale.options import Change, Embedding, Inference, Output
from geoscale.passes import join_steps
from geoscale.plans import (
    BLOCKS,
    ITEMS,
    RESULT_VERSION,
    RUN,
    InferencePlan,
)
from geoscale.storage import Folder
from geoscale.types import Json, Source

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

AT_ONCE = 16_384
"""Blocks that are matched with items at a time: the pairs of more need much memory."""


def iter_tables(plan: InferencePlan) -> Iterator[tuple[str, bytes]]:
    """Yield what is stored of a plan beside its JSON: name and content of each table.

    Parameters
    ----------
    plan : InferencePlan
        Made in this process, or loaded from an output.

    Yields
    ------
    str, bytes
        The tables of its source, then that of its blocks.
    """
    if plan.live is not None:
        yield from plan.live.tables().items()
    elif plan.home is not None:
        folder = Folder(plan.home)
        found = ((name, folder.get(name)) for name in (ITEMS, BLOCKS))
        yield from ((name, data) for name, data in found if data is not None)
        return
    yield BLOCKS, states_parquet(plan)


def states_parquet(plan: InferencePlan) -> bytes:
    """Block table as Parquet: number, window, state, and the items it needs.

    Items are told by the source, where the plan was made in this process, as their
    numbers in the table of items; null for blocks that are not run.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    small = ("time", "iy", "ix", "y0", "x0", "y1", "x1")
    fields = [("block", pa.int64()), *((name, pa.int32()) for name in small)]
    fields += [("state", pa.uint8()), ("items", pa.list_(pa.int32()))]
    schema, buffer = pa.schema(fields), io.BytesIO()
    reads = _find_reads(plan)
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for first in range(0, len(plan.grid), AT_ONCE):
            numbers = np.arange(first, min(first + AT_ONCE, len(plan.grid)))
            columns = _rows(plan, numbers, reads)
            writer.write_table(pa.table(columns, schema=schema), AT_ONCE)
    return buffer.getvalue()


def _rows(plan: InferencePlan, numbers: Any, reads: tuple[Any, Any]) -> dict[str, Any]:
    _times, rows, columns = plan.grid.counts
    size, (height, width) = plan.grid.block_px, plan.shape
    time, rest = np.divmod(numbers, rows * columns)
    iy, ix = np.divmod(rest, columns)
    return {
        "block": numbers,
        "time": time,
        "iy": iy,
        "ix": ix,
        "y0": iy * size,
        "x0": ix * size,
        "y1": np.minimum((iy + 1) * size, height),
        "x1": np.minimum((ix + 1) * size, width),
        "state": plan.states[numbers],
        "items": _items(plan, numbers, (time, iy, ix), reads),
    }


def _items(plan: InferencePlan, numbers: Any, index: Any, reads: Any) -> Any:
    """Numbers of the items of some blocks, as a column; null for blocks not run."""
    import pyarrow as pa

    runs = plan.states[numbers] == RUN
    if plan.live is None:
        return pa.nulls(len(numbers), pa.list_(pa.int32()))
    time, iy, ix = (axis[runs] for axis in index)
    boxes = np.concatenate([reads[0][iy], reads[1][ix]], axis=1)[:, [0, 2, 1, 3]]
    found = [(np.zeros(0, np.intp), np.zeros(0, np.intp))]
    for step in np.unique(time):
        mine = np.flatnonzero(time == step)
        blocks, items = _match(plan, plan.live, int(step), boxes[mine])
        found.append((mine[blocks], items))
    blocks, items = (np.concatenate(some) for some in zip(*found, strict=True))
    counts = np.zeros(len(numbers), np.int64)
    counts[runs] = np.bincount(blocks, minlength=int(runs.sum()))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets, mask=np.append(~runs, False)),
        pa.array(items.astype(np.int32)),
    )


def _match(plan: InferencePlan, source: Source, step: int, boxes: Any) -> Any:
    """Pair windows with the items of a time step; sorted, without repeats."""
    steps = join_steps(plan.groups[step])
    pairs = [source.match(boxes, one) for one in steps]
    if len(steps) == 1:
        return pairs[0]
    both = np.concatenate([np.stack(pair) for pair in pairs], axis=1)
    return tuple(np.unique(both, axis=1))


def _find_reads(plan: InferencePlan) -> tuple[Any, Any]:
    """Read windows of all rows and of all columns of blocks: (n, 2) first and end."""
    # what is read along y depends on the row only, along x on the column
    grid, lattice = plan.grid, plan.lattice
    _, rows, columns = grid.counts
    ys = [lattice.read_window(grid.core(grid.number(0, y, 0))) for y in range(rows)]
    xs = [lattice.read_window(grid.core(grid.number(0, 0, x))) for x in range(columns)]
    return (
        np.array([(w.y0, w.y1) for w in ys], float),
        np.array([(w.x0, w.x1) for w in xs], float),
    )


def plan_json(plan: InferencePlan) -> bytes:
    """Plan without its block table."""
    data = {"plan_hash": plan.hash, **plan.to_dict()}
    return json.dumps(data, indent=1, sort_keys=True).encode()


def load_plan(data: bytes, parquet: bytes, home: str | None = None) -> InferencePlan:
    """Rebuild a plan from what `plan_json` and `states_parquet` gave.

    Parameters
    ----------
    data : bytes
        JSON.
    parquet : bytes
        Table of the blocks.
    home : str, optional
        Folder with the tables that the plan's source names.

    Raises
    ------
    OutputError
        If the two do not give the hash that is written in them.
    """
    import pyarrow.parquet as pq

    stored = json.loads(data)
    if stored.get("result_version") != RESULT_VERSION:
        raise OutputError(
            f"the output's plan has result version {stored.get('result_version')}, "
            f"this geoscale makes {RESULT_VERSION}; go on with the version that "
            "began it, or write to a new output"
        )
    # No thread of pyarrow's and no reading ahead (`pq.read_table` does): one that lets
    # go of Python's bytes while a short command exits aborts the process ("terminate
    # called without an active exception", 10 of 240 runs on busy cores).
    file = pq.ParquetFile(io.BytesIO(parquet), pre_buffer=False)
    table = file.read(columns=["state"], use_threads=False)
    states = table["state"].to_numpy()
    asked, change = stored["asked"], stored.get("change")
    embedding = stored.get("embedding")
    plan = InferencePlan(
        source=stored["source"],
        card=ModelCard.from_dict(stored["card"], where="stored plan"),
        weights_sha256=stored["weights_sha256"],
        code_sha256=stored["code_sha256"],
        geobox=_make_geobox(stored["grid"]),
        source_times=tuple(stored["times"]),
        inference=Inference.model_validate(stored["inference"]),
        output=Output.model_validate(stored["output"]),
        itemsize=stored["itemsize"],
        states=np.asarray(states, np.uint8),
        change=None if change is None else Change.model_validate(change),
        embedding=None if embedding is None else Embedding.model_validate(embedding),
        aoi=stored["aoi"],
        notes=tuple(stored["notes"]),
        asked=None if asked is None else Inference.model_validate(asked),
        tuning=stored["tuning"],
        statistics=stored.get("statistics"),
        job=stored["job"],
        home=home,
    )
    if plan.hash != stored["plan_hash"]:
        raise OutputError(
            f"the output's plan was changed: it is written as "
            f"{stored['plan_hash'][:12]} but hashes to {plan.hash[:12]}; restore "
            "plan.json and blocks.parquet, or write to a new output"
        )
    return plan


def name_differences(ours: Json, theirs: Json) -> list[str]:
    """Say in which named parts two plans differ, with both values if short."""
    lines = []
    for name, value in ours.items():
        other = theirs.get(name)
        if other == value:
            continue
        if isinstance(value, dict) and isinstance(other, dict):
            lines += [
                f"{name}.{key}: {other.get(key)} there, {value.get(key)} here"
                for key in sorted(value.keys() | other.keys())
                if value.get(key) != other.get(key)
            ]
        else:
            lines.append(f"{name}: {_short(other)} there, {_short(value)} here")
    return lines


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "…"


def _make_geobox(grid: Json) -> GeoBox:
    """Rebuild a geobox from ``{"crs", "transform", "shape"}``."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    return GeoBox(tuple(grid["shape"]), Affine(*grid["transform"]), grid["crs"])
