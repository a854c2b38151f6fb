"""A plan as JSON and Parquet, and back."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import OutputError
from geoscale.options import Inference, Output
from geoscale.plans import RESULT_VERSION, RUN, InferencePlan, make_geobox
from geoscale.types import Json, Source


def states_parquet(plan: InferencePlan) -> bytes:
    """Block table as Parquet: number, window, state, and the items it needs.

    The items are told by the source, where the plan was made in this process.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = np.arange(len(plan.grid))
    _times, rows, columns = plan.grid.counts
    size = plan.grid.block_px
    t, rest = np.divmod(numbers, rows * columns)
    iy, ix = np.divmod(rest, columns)
    height, width = plan.shape
    table = pa.table(
        {
            "block": numbers,
            "time": t.astype(np.int32),
            "iy": iy.astype(np.int32),
            "ix": ix.astype(np.int32),
            "y0": (iy * size).astype(np.int32),
            "x0": (ix * size).astype(np.int32),
            "y1": np.minimum((iy + 1) * size, height).astype(np.int32),
            "x1": np.minimum((ix + 1) * size, width).astype(np.int32),
            "state": plan.states,
            "items": _items(plan),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _items(plan: InferencePlan) -> Any:
    """Ids of the items of every block that is run, as a column; null for others."""
    import pyarrow as pa

    runs = plan.states == RUN
    blocks, items = np.zeros(0, np.intp), np.zeros(0, np.intp)
    ids: list[str] = []
    if plan.live is not None:
        ids = plan.live.item_ids
        blocks, items = _match(plan, plan.live)
        kept = runs[blocks]
        blocks, items = blocks[kept], items[kept]
    counts = np.bincount(blocks, minlength=len(plan.grid))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    missing = np.append(~runs if plan.live is not None else np.ones_like(runs), False)
    return pa.ListArray.from_arrays(
        pa.array(offsets, mask=missing),
        pa.DictionaryArray.from_arrays(
            pa.array(items.astype(np.int32)), pa.array(ids, pa.string())
        ),
    )


def _match(plan: InferencePlan, source: Source) -> tuple[Any, Any]:
    """Pair blocks with the items of their read windows; sorted, without repeats."""
    grid, frames = plan.grid, plan.card.input.frames
    _, rows, columns = grid.counts
    # what is read along y depends on the row only, along x on the column
    ys = [
        plan.lattice.read_window(grid.core(grid.number(0, y, 0))) for y in range(rows)
    ]
    xs = [
        plan.lattice.read_window(grid.core(grid.number(0, 0, x)))
        for x in range(columns)
    ]
    boxes = np.empty((rows, columns, 4))
    boxes[..., 0] = np.array([w.y0 for w in ys])[:, None]
    boxes[..., 2] = np.array([w.y1 for w in ys])[:, None]
    boxes[..., 1] = np.array([w.x0 for w in xs])
    boxes[..., 3] = np.array([w.x1 for w in xs])
    flat, found = boxes.reshape(-1, 4), []
    for time in range(grid.times):
        for frame in range(time * frames, (time + 1) * frames):
            cells, items = source.match(flat, frame)
            found.append(np.stack([cells + time * rows * columns, items]))
    pairs = np.unique(np.concatenate(found, axis=1), axis=1)
    return pairs[0], pairs[1]


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
    # One thread: pyarrow's pool, still starting when a short command exits, aborts
    # the process ("terminate called without an active exception", 30 of 60 runs).
    table = pq.read_table(io.BytesIO(parquet), columns=["state"], use_threads=False)
    states = table["state"].to_numpy()
    asked = stored["asked"]
    plan = InferencePlan(
        source=stored["source"],
        card=ModelCard.from_dict(stored["card"], where="stored plan"),
        weights_sha256=stored["weights_sha256"],
        code_sha256=stored["code_sha256"],
        geobox=make_geobox(stored["grid"]),
        source_times=tuple(stored["times"]),
        inference=Inference.model_validate(stored["inference"]),
        output=Output.model_validate(stored["output"]),
        itemsize=stored["itemsize"],
        states=np.asarray(states, np.uint8),
        aoi=stored["aoi"],
        notes=tuple(stored["notes"]),
        asked=None if asked is None else Inference.model_validate(asked),
        tuning=stored["tuning"],
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
