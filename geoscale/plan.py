"""The plan: everything that decides the result, fixed before a pixel is read.

A plan is data. It says what is read, by which model, on which lattice, in
which blocks, and what is stored; its hash names the result. It can be shown,
refused, saved, and run anywhere.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from geoscale.blend import Taper
from geoscale.card import ModelCard
from geoscale.chunks import BlockGrid
from geoscale.errors import OutputError
from geoscale.patches import Lattice, Merge
from geoscale.types import Json
from geoscale.windows import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

RESULT_VERSION = 1
"""Raised whenever the same plan would give other pixels than before."""

RUN, OUTSIDE, NO_ITEM = 0, 1, 2
"""State of a block: to be run, outside the area of interest, no imagery."""


class Inference(BaseModel):
    """How the model is run; every value is resolved once the plan is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    block: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Height and width of a block, in px; default: 8 strides or so, >= 1024."""
    patch: Annotated[int, Field(ge=1, le=8192)] | None = None
    """Height and width of a patch, in px; default: the card's."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """Pixels between patches; default: patch less twice the halo (crop), or
    three quarters of the patch (blend)."""
    merge: Merge | None = None
    """Default: ``crop`` where the card knows the halo, else ``blend``."""
    taper: Taper = "hann"
    """Shape of the weights of ``blend``."""
    batch: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = "auto"
    """Patches that go through the network together."""
    runtime: Literal["auto", "torch", "onnx"] = "auto"
    """Library that runs the network."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the network."""
    device: Annotated[
        str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", exclude=False)
    ] = "auto"
    """``cuda`` never falls back to the CPU."""
    in_flight: Annotated[int, Field(ge=1, le=16)] = 2
    """Blocks a process works on at a time, so that reading and writing overlap
    with inference."""


class Output(BaseModel):
    """What is stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: tuple[str, ...] = ("classes", "confidence")
    """Some of classes, confidence, scores."""
    scores_dtype: Literal["uint8", "float16"] = "uint8"
    """How scores are stored."""
    chunk: Annotated[int, Field(ge=1)] | None = None
    """Height and width of a chunk inside a shard, in px; default: a divisor of
    the block, at most 512."""
    overviews: bool = True
    """Whether coarser copies are made for viewing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTask:
    """One block: everything a worker must know, and nothing it must carry."""

    number: int
    """Number in the plan."""
    name: str
    """``time-y-x``, its name in the journal and in errors."""
    time: int
    """Time step of the output."""
    times: tuple[int, ...]
    """Time steps of the stack that it reads, one for each of the model's frames."""
    core: Window
    """Pixels this task writes; the cores of a plan cover the stack once."""
    read: Window
    """Pixels this task reads: all its patches, clipped to the stack."""


@dataclass(frozen=True, kw_only=True)
class InferencePlan:
    """Everything that decides a result.

    Made by `geoscale.plan`; immutable.
    """

    source: Json
    """Spec from which every worker rebuilds the source; hrefs are unsigned."""
    card: ModelCard
    """The model's card."""
    weights_sha256: str
    """Of the weights file that was found when the plan was made."""
    code_sha256: str | None
    """Of the user's own Python files that the card names."""
    geobox: GeoBox
    """Grid of the output."""
    source_times: tuple[str, ...]
    """Label of every time step of the stack."""
    inference: Inference
    """All values resolved."""
    output: Output
    """All values resolved."""
    itemsize: int
    """Bytes of one stored value of the source."""
    states: NDArray[np.uint8] = field(repr=False)
    """State of every block: `RUN`, `OUTSIDE` or `NO_ITEM`."""
    aoi: Json | None = None
    """Area of interest as GeoJSON geometry in the grid's CRS; pixels outside are
    nodata."""
    notes: tuple[str, ...] = ()
    """What the user should know; not hashed."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the output, in px."""
        height, width = self.geobox.shape
        return int(height), int(width)

    @property
    def times(self) -> tuple[str, ...]:
        """Label of every time step of the output: that of its newest frame."""
        frames = self.card.input.frames
        return self.source_times[frames - 1 :: frames]

    @cached_property
    def grid(self) -> BlockGrid:
        """How the output is cut."""
        assert self.inference.block is not None
        return BlockGrid(len(self.times), self.shape, self.inference.block)

    @cached_property
    def lattice(self) -> Lattice:
        """Where patches lie."""
        chosen, patch = self.inference, self.card.input.patch
        assert chosen.patch is not None
        assert chosen.stride is not None
        assert chosen.merge is not None
        return Lattice.over(
            self.shape,
            patch=chosen.patch,
            stride=chosen.stride,
            merge=chosen.merge,
            alignment=patch.alignment,
            multiple_of=None if patch.fixed else patch.multiple_of,
        )

    def task(self, number: int) -> BlockTask:
        """Give one block."""
        time, _, _ = self.grid.index(number)
        frames = self.card.input.frames
        core = self.grid.core(number)
        return BlockTask(
            number=number,
            name=self.grid.name(number),
            time=time,
            times=tuple(range(time * frames, (time + 1) * frames)),
            core=core,
            read=self.lattice.read_window(core),
        )

    def numbers(self) -> NDArray[np.intp]:
        """Numbers of the blocks that are to be run, ascending."""
        return np.flatnonzero(self.states == RUN)

    def iter_tasks(self) -> Iterator[BlockTask]:
        """Yield the blocks that are to be run."""
        for number in self.numbers():
            yield self.task(int(number))

    def count_patches(self) -> int:
        """Count patches that the blocks to be run need, shared ones twice."""
        return sum(
            self.lattice.count_touching(self.grid.core(int(n))) for n in self.numbers()
        )

    def to_dict(self) -> Json:
        """Everything but the states, as JSON-able data."""
        return {
            "result_version": RESULT_VERSION,
            "source": self.source,
            "card": self.card.to_dict(),
            "weights_sha256": self.weights_sha256,
            "code_sha256": self.code_sha256,
            "grid": {
                "crs": str(self.geobox.crs),
                "transform": list(self.geobox.affine)[:6],
                "shape": list(self.shape),
            },
            "times": list(self.source_times),
            "inference": self.inference.model_dump(mode="json"),
            "output": self.output.model_dump(mode="json"),
            "itemsize": self.itemsize,
            "aoi": self.aoi,
            "notes": list(self.notes),
        }

    def identity(self) -> Json:
        """Split what decides the result into named parts.

        Where two plans differ, the names say in what. Device, blocks in
        flight, paths and notes decide nothing.
        """
        data = self.to_dict()
        free = {"device", "in_flight"}
        inference = {k: v for k, v in data["inference"].items() if k not in free}
        return {
            "result version": RESULT_VERSION,
            "imagery": _digest(data["source"]),
            "model card": self.card.hash(),
            "weights": self.weights_sha256,
            "model code": self.code_sha256,
            "grid": data["grid"],
            "times": _digest(data["times"]),
            "inference": inference,
            "output": data["output"],
            "area of interest": _digest(self.aoi),
            "empty blocks": hashlib.sha256(self.states.tobytes()).hexdigest(),
        }

    @cached_property
    def hash(self) -> str:
        """Name of the result: sha256 of its canonical identity."""
        return _digest(self.identity())

    def states_parquet(self) -> bytes:
        """Block table as Parquet: number, name, window, state."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        numbers = np.arange(len(self.grid))
        times, rows, columns = self.grid.counts
        size = self.grid.block_px
        t, rest = np.divmod(numbers, rows * columns)
        iy, ix = np.divmod(rest, columns)
        height, width = self.shape
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
                "state": self.states,
            }
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()

    def to_json(self) -> bytes:
        """Plan without its block table."""
        data = {"plan_hash": self.hash, **self.to_dict()}
        return json.dumps(data, indent=1, sort_keys=True).encode()

    @classmethod
    def from_stored(cls, data: bytes, parquet: bytes) -> InferencePlan:
        """Rebuild a plan from what `to_json` and `states_parquet` gave.

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
        states = pq.read_table(io.BytesIO(parquet))["state"].to_numpy()
        plan = cls(
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
        )
        if plan.hash != stored["plan_hash"]:
            raise OutputError(
                f"the output's plan was changed: it is written as "
                f"{stored['plan_hash'][:12]} but hashes to {plan.hash[:12]}; restore "
                "plan.json and blocks.parquet, or write to a new output"
            )
        return plan


def make_geobox(grid: Json) -> GeoBox:
    """Rebuild a geobox from ``{"crs", "transform", "shape"}``."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    return GeoBox(tuple(grid["shape"]), Affine(*grid["transform"]), grid["crs"])


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


def _digest(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
