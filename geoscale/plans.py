"""The plan: everything that decides the result, fixed before a pixel is read.

A plan is data. It says what is read, by which model, on which lattice, in which blocks,
and what is stored; its hash names the result. It is shown, refused, saved, and run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import lcm
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoscale.card import ModelCard
from geoscale.changes import group_steps, label_groups
from geoscale.chunks import NO_ITEM as NO_ITEM
from geoscale.chunks import OUTSIDE as OUTSIDE
from geoscale.chunks import RUN as RUN
from geoscale.chunks import BlockGrid
from geoscale.coarse import coarse_geobox, find_cell, shrink
from geoscale.contrast.cards import is_open
from geoscale.memory import BlockMemory
from geoscale.needs import check_plan, project_memory
from geoscale.notebook import draw_cell
from geoscale.options import Change, Embedding, Inference, Output
from geoscale.passes import BlockTask, Passes, join_steps
from geoscale.patches import Lattice
from geoscale.sums import count_distinct_patches, count_patches, count_pixels
from geoscale.types import Json, Source
from geoscale.windows import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

RESULT_VERSION = 4
"""Raised whenever the same plan would give other pixels than before, or be stored in
another way."""

ITEMS = "items.parquet"
"""Table of the items, beside a stored plan."""
BLOCKS = "blocks.parquet"
"""Table of the blocks, there too."""


@dataclass(frozen=True, kw_only=True)
class InferencePlan:
    """Everything that decides a result; made by `geoscale.plan`, immutable."""

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
    change: Change | None = None
    """How change between dates is found, resolved; None: a map of classes."""
    embedding: Embedding | None = None
    """How features become embeddings; None where nothing of the kind is made."""
    aoi: Json | None = None
    """Area of interest as GeoJSON geometry in the grid's CRS; pixels outside are
    nodata."""
    notes: tuple[str, ...] = ()
    """What the user should know; not hashed."""
    asked: Inference | None = None
    """What the user chose, where something of it is to be measured; not hashed."""
    tuning: Json | None = None
    """What was measured to choose, with figures; not hashed."""
    statistics: Json | None = None
    """What was learned of the whole area, with figures; not hashed: numbers that decide
    something are in the card."""
    job: str | None = field(default=None, compare=False)
    """Digest of what the job that was planned says; not hashed."""
    live: Source | None = field(default=None, compare=False, repr=False)
    """The source in this process, if it was planned here; not stored."""
    home: str | None = field(default=None, compare=False, repr=False)
    """Folder that this plan was loaded from, with the tables that `source` names."""
    to: str | None = field(default=None, compare=False, repr=False)
    """Output that its job names; not stored."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the output, in px."""
        height, width = self.geobox.shape
        return int(height), int(width)

    @property
    def goal(self) -> str:
        """What is made, as jobs call it: a `geoscale.card.TaskName`."""
        if self.change is not None:
            return "change"
        return "embedding" if self.card.task == "backbone" else self.card.task

    @cached_property
    def cell(self) -> int:
        """Input pixels, along each side, for which one value is stored."""
        assert self.inference.patch is not None
        return find_cell(self.card, self.inference.patch, pooled=self.is_pooled)

    @property
    def width(self) -> int:
        """Length of the axis of what is merged: scores, and how far runs are apart."""
        return self.card.output.width * (2 if self.inference.mc_dropout else 1)

    @property
    def is_pooled(self) -> bool:
        """Whether the features of a patch become one vector."""
        return self.embedding is not None and self.embedding.per == "patch"

    @property
    def stored_geobox(self) -> GeoBox:
        """Grid of what is stored: of the cells."""
        return coarse_geobox(self.geobox, self.cell)

    @property
    def stored_block(self) -> int:
        """Height and width of what a block stores, in px of the stored grid."""
        return self.grid.block_px // self.cell

    def stored(self, window: Window) -> Window:
        """Give a window of whole cells on the stored grid."""
        return shrink(window, self.cell)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of what is stored."""
        assert self.output.layers is not None
        return self.output.layers

    @property
    def votes(self) -> Sequence[Any]:
        """Name, label and time steps of each period whose scenes vote."""
        found: Sequence[Any] = self.source.get("votes", ())
        return found

    @property
    def times(self) -> tuple[str, ...]:
        """Label of every time step: its newest frame, where a vote begins, or ahead."""
        if self.votes:
            return tuple(label for _, label, _ in self.votes)
        return label_groups(self.groups, self.source_times, self.card)

    @cached_property
    def groups(self) -> tuple[Passes, ...]:
        """Passes of every time step of the output, by time steps of the stack."""
        if self.votes:
            return tuple(tuple((s,) for s in steps) for _, _, steps in self.votes)
        return group_steps(self.change, self.source_times, self.card)

    def newest(self, time: int) -> int:
        """Newest time step of the stack that a time step of the output is made of."""
        # all steps of a forecast are made of one group
        return join_steps(self.groups[min(time, len(self.groups) - 1)])[-1]

    @cached_property
    def grid(self) -> BlockGrid:
        """How the output is cut; all steps of a forecast are one block's."""
        assert self.inference.block is not None
        return BlockGrid(len(self.groups), self.shape, self.inference.block)

    @property
    def in_flight(self) -> int:
        """Most blocks that a process works on at a time."""
        return self.inference.in_flight or 2

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
            alignment=lcm(patch.alignment, self.cell),
            multiple_of=None if patch.fixed else patch.multiple_of,
        )

    def task(self, number: int) -> BlockTask:
        """Give one block."""
        time, _, _ = self.grid.index(number)
        core = self.grid.core(number)
        return BlockTask(
            number=number,
            name=self.grid.name(number),
            time=time,
            passes=self.groups[time],
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
        return count_patches(self._passes_run(), self.grid, self.lattice)

    def runs(self) -> NDArray[np.bool_]:
        """Which blocks are to be run, (time, y, x)."""
        runs: NDArray[np.bool_] = self.states == RUN
        return runs.reshape(self.grid.counts)

    def _passes_run(self) -> NDArray[np.bool_]:
        """Which passes of which blocks are to be run, (pass, y, x)."""
        return np.repeat(self.runs(), [len(passes) for passes in self.groups], axis=0)

    def memory(self, batch: int | None = None) -> BlockMemory:
        """Project the peak host memory of a worker; see `project_memory`."""
        return project_memory(self, batch)

    def count_distinct_patches(self) -> int:
        """Count patches that the blocks to be run need, shared ones once."""
        return count_distinct_patches(self._passes_run(), self.grid, self.lattice)

    def recompute(self, *, shared: bool = False) -> float:
        """Pixels the network sees per pixel of the blocks to be run.

        Parameters
        ----------
        shared : bool
            Count a patch at the edge of two blocks once, as where one process runs
            both; else twice.
        """
        pixels = count_pixels(self.runs(), self.grid)
        count = self.count_distinct_patches() if shared else self.count_patches()
        return count * int(np.prod(self.lattice.patch_shape)) / pixels

    def output_bytes(self, layers: int) -> int:
        """Bound the stored size before compression, in bytes."""
        height, width = self.stored_geobox.shape
        return int(height) * int(width) * len(self.times) * layers

    def validate(self, *, allowed_bytes: int | None = None) -> None:
        """Refuse what cannot work, before a pixel is read.

        Parameters
        ----------
        allowed_bytes : int, optional
            Memory that a worker process may use.

        Raises
        ------
        PlanError
            If a patch has less context than the model needs, or no block has
            imagery.
        MemoryPlanError
            If a block is projected to need more than is allowed.
        """
        check_plan(self, allowed_bytes)

    def explain(
        self,
        *,
        allowed_bytes: int | None = None,
        mpx_per_s: float | None = None,
        cost_per_hour: float | None = None,
    ) -> str:
        """Say what will be run, and what it will need.

        Parameters
        ----------
        allowed_bytes : int, optional
            Memory that a worker process may use.
        mpx_per_s : float, optional
            Measured speed of the whole cluster, in output megapixels per second.
        cost_per_hour : float, optional
            Price of the whole cluster per hour, in any currency.

        Returns
        -------
        str
            Several lines.
        """
        from geoscale.explain import describe_plan

        return describe_plan(
            self,
            allowed_bytes=allowed_bytes,
            mpx_per_s=mpx_per_s,
            cost_per_hour=cost_per_hour,
        )

    def __str__(self) -> str:
        return self.explain()

    def _repr_html_(self) -> str:
        return draw_cell(*self.explain().split("\n", 1))

    def patches_per_block(self) -> int:
        """Count the patches of a block with neighbours on all sides."""
        return self.lattice.count_touching(self.grid.middle())

    def to_dict(self) -> Json:
        """Everything but the states, as JSON-able data."""
        # absent where nothing is compared: such plans keep the hash that they have
        change = {} if self.change is None else {"change": self.change.model_dump()}
        if self.embedding is not None:
            change["embedding"] = self.embedding.model_dump(exclude_none=True)
        return change | {
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
            "asked": None if self.asked is None else self.asked.model_dump(mode="json"),
            "tuning": self.tuning,
            "statistics": self.statistics,
            "job": self.job,
        }

    def identity(self) -> Json:
        """Split what decides the result into named parts.

        Where two plans differ, the names say in what. Device, blocks in
        flight, paths and notes decide nothing.
        """
        data = self.to_dict()
        free = {"device", "in_flight", "min_agreement", "epoch_s"}
        inference = {k: v for k, v in data["inference"].items() if k not in free}
        output = {k: v for k, v in data["output"].items() if k not in free}
        if self.change is not None and self.change.coregister != "shift":
            del data["change"]["coregister"]
        change = {k: data[k] for k in ("change", "embedding") if k in data}
        return change | {
            "result version": RESULT_VERSION,
            "imagery": _digest(data["source"]),
            "model card": self.card.hash(),
            "weights": self.weights_sha256,
            "model code": self.code_sha256,
            "grid": data["grid"],
            "times": _digest(data["times"]),
            "inference": inference,
            "output": output,
            "area of interest": _digest(self.aoi),
            "empty blocks": hashlib.sha256(self.states.tobytes()).hexdigest(),
        }

    @cached_property
    def hash(self) -> str:
        """Name of the result: sha256 of its canonical identity."""
        return _digest(self.identity())

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to be measured before the first block."""
        return self.is_learned and (self.asked is None or self.tuning is not None)

    @property
    def is_learned(self) -> bool:
        """Whether no number of the whole area is missing; see `geoscale.learn`."""
        if self.embedding is not None:
            return not self.embedding.needs_numbers(self.output.dtype)
        shifts = self.change is not None and self.change.coregister == "shift"
        return self.statistics is not None or not (is_open(self.card) or shifts)


def _digest(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
