"""What a source tells of the dates of a block, beside its pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geoscale.engine.journal import Ledger
from geoscale.passes import BlockTask, join_steps
from geoscale.plans import InferencePlan
from geoscale.types import Array, Bool, Json, Pixels

if TYPE_CHECKING:
    from geoscale.engine.block import Kernel


class Dates:
    """Layers of a source, cut to the core of a block; and how much was never clear.

    Parameters
    ----------
    kernel : Kernel
        Says which layers there are, and what lies outside the area of interest.
    task : BlockTask
        Which block.
    """

    def __init__(self, kernel: Kernel, task: BlockTask) -> None:
        self._task, self._extra = task, kernel.extra
        self._votes = bool(kernel.plan.votes)
        ahead = kernel.plan.card.output.forecast
        self._least = None if ahead is None else ahead.least_dates
        self._inside = None if kernel.mask is None else kernel.mask
        self._parts: dict[str, list[Array]] = {one.name: [] for one in kernel.extra}
        self._shown: Bool | None = None
        self._unclear: Bool | None = None

    def add(self, pixels: Pixels) -> None:
        """Take what was read for one pass."""
        core = self._task.core.within(self._task.read)
        for name, parts in self._parts.items():
            # a copy, that the rest of what was read may go
            parts.extend(layer.copy() for layer in pixels.layers[name][:, *core])
        if pixels.shown is None:
            return
        shown, valid = pixels.shown[:, *core], pixels.valid[:, *core]
        some: Bool = np.logical_or.reduce(shown)
        # of dates that are seen together, or compared, all must be clear
        cloudy: Bool = np.logical_or.reduce(shown & ~valid)
        if self._least is not None:
            cloudy = some & (valid.sum(axis=0) < self._least)
        if self._shown is None or self._unclear is None:
            self._shown, self._unclear = some, cloudy
        elif self._votes:
            # of scenes that vote, one clear one is enough
            clear = (self._shown & ~self._unclear) | (some & ~cloudy)
            self._shown = self._shown | some
            self._unclear = self._shown & ~clear
        else:
            self._shown, self._unclear = self._shown | some, self._unclear | cloudy

    def layers(self) -> dict[str, Array]:
        """One array per layer, (y, x), or (date, y, x) where several are compared."""
        found = {}
        for layer in self._extra:
            parts = self._parts[layer.name]
            array = np.stack(parts) if layer.classes else parts[0]
            if self._inside is not None:
                array[..., ~self._inside(self._task.core)] = layer.fill_value
            found[layer.name] = array
        return found

    def tell(self) -> Json:
        """Counters: time step of the map, pixels never clear, pixels with imagery."""
        if self._shown is None or self._unclear is None:
            return {}
        inside: Bool | bool = True
        if self._inside is not None:
            inside = self._inside(self._task.core)
        unclear, shown = self._unclear & inside, self._shown & inside
        return {"clouds": [self._task.time, int(unclear.sum()), int(shown.sum())]}


def list_unclear(plan: InferencePlan, ledger: Ledger) -> list[Json]:
    """Say for which time steps of a map some pixels have imagery but no clear view.

    Parameters
    ----------
    plan : InferencePlan
        What was run.
    ledger : Ledger
        Of its output.

    Returns
    -------
    list of dict
        ``time`` (label), ``periods`` (names), ``no_clear_view_px``, ``imagery_px``;
        time steps that are clear everywhere are left out.
    """
    names = [one[0] for one in plan.votes or plan.source.get("periods", ())]
    found = []
    for time, (unclear, shown) in sorted(ledger.clouds.items()):
        if not unclear:
            continue
        steps = [time] if plan.votes else join_steps(plan.groups[time])
        row = {"time": plan.times[time], "periods": [names[step] for step in steps]}
        found.append(row | {"no_clear_view_px": unclear, "imagery_px": shown})
    return found


def say_unclear(row: Json) -> str:
    """Say one of these in a sentence.

    Examples
    --------
    >>> say_unclear({"time": "2024", "periods": ["june"], "no_clear_view_px": 5,
    ...              "imagery_px": 5})
    'june: no pixel of 5 with imagery has a clear view; all are nodata'
    """
    name = " and ".join(row["periods"])
    unclear, shown = row["no_clear_view_px"], row["imagery_px"]
    if unclear == shown:
        text = f"no pixel of {shown:,} with imagery has a clear view; all are nodata"
        return f"{name}: {text}"
    share = f"{unclear:,} of {shown:,} px with imagery ({unclear / shown:.1%})"
    return f"{name}: {share} have no clear view and are nodata"
