"""Lazy maps: a model over a stack as a dask-backed xarray object."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from geoscale.api import plan as make_plan
from geoscale.assemble import make_kernel, make_map_sink, make_task
from geoscale.card import ModelCard
from geoscale.choices import InferenceOptions
from geoscale.engine.block import Kernel, infer_block
from geoscale.errors import JobError
from geoscale.models import load_model
from geoscale.plans import InferencePlan
from geoscale.stacks import recall
from geoscale.tasks.change import CLASS_OUTPUTS
from geoscale.tasks.embedding import EMBEDDING
from geoscale.tasks.labels import LABELS
from geoscale.tasks.segmentation import OUTPUTS
from geoscale.tasks.spread import SPREAD
from geoscale.types import Array, Source
from geoscale.words import suggest

if TYPE_CHECKING:
    import xarray as xr


def predict(
    stack: xr.DataArray,
    model: str | Path | ModelCard,
    *,
    layer: str = "classes",
    change: Mapping[str, Any] | None = None,
    trust_code: bool = False,
    **options: Unpack[InferenceOptions],
) -> xr.DataArray:
    """Run a model over a stack, lazily.

    The result is what a job would store, as a dask array: it fits in any
    xarray program, computes only what is asked for, and reads nothing until
    then. For areas of more than some ten thousand blocks, and for anything
    that must survive a kill, use `plan` and `run`.

    Parameters
    ----------
    stack : xarray.DataArray
        (time, band, y, x) or less, with a CRS; from `open_stack` or elsewhere.
    model : str, path or ModelCard
        As for `load_model`.
    layer : str
        What to give. ``classes`` is uint8 with 255 for nodata; ``confidence`` and
        ``scores`` are uint8 in steps of 1/254 with 255 for nodata. Of two dates or
        more: ``change``, ``probability``, ``from_class`` or ``to_class``.
    change : mapping, optional
        How change is found; as for `plan`.
    trust_code : bool
        Allow Python code that the card names outside known packages.
    **options
        As for `plan`.

    Returns
    -------
    xarray.DataArray
        (time, y, x), or (time, class, y, x) for scores; one chunk per block.

    Raises
    ------
    PlanError
        If it cannot work; says what to change.
    """
    known = (*OUTPUTS, *CLASS_OUTPUTS, LABELS, EMBEDDING, SPREAD)
    # quantities of a regression have names of their own, which its card knows
    if layer not in known and load_model(model).task not in _NAMED:
        raise JobError(
            f"layer `{layer}` is not known{suggest(layer, known)}; choose one of "
            f"{', '.join(known)}"
        )
    task: Any = "change" if layer in CLASS_OUTPUTS else None
    task = "embedding" if layer == EMBEDDING else task
    stored = layer.removesuffix(f"_{SPREAD}")
    if layer.endswith(SPREAD):
        stored = "classes" if layer == SPREAD else stored
        if not options.get("mc_dropout"):
            raise JobError(
                f"layer `{layer}` is of runs with dropout; say how many: mc_dropout=20"
            )
    plan = make_plan(
        stack, model, task=task, change=change, output={"layers": [stored]},
        trust_code=trust_code, **options,
    )  # fmt: skip
    if plan.card.output.forecast is not None:
        raise JobError(
            f"`{plan.card.name}` makes all its dates at once, which no lazy array has "
            "block by block; store them: geoscale.run(geoscale.plan(...), to)"
        )
    return _to_xarray(plan, layer, _to_dask(plan, layer, trust_code))


_NAMED = ("regression", "forecasting")
"""Tasks whose layers have names of their own."""


def _to_dask(plan: InferencePlan, layer: str, trust_code: bool) -> Any:
    """One dask block per block of the plan; windows travel, pixels do not."""
    import dask
    import dask.array as da

    spec = next(x for x in make_task(plan).layers if x.name == layer)
    sizes: tuple[int, ...] = (1, plan.stored_block, plan.stored_block)
    shape: tuple[int, ...] = (len(plan.times), *map(int, plan.stored_geobox.shape))
    if spec.classes:
        sizes, shape = (
            (1, spec.classes, *sizes[1:]),
            (shape[0], spec.classes, *shape[1:]),
        )
    token = f"{plan.hash[:16]}-{layer}"
    bare = dataclasses.replace(plan, live=None)
    return da.map_blocks(
        _predict_block,
        # once in the graph each, whatever the number of blocks
        dask.delayed(bare, name=f"plan-{token}", traverse=False),
        dask.delayed(plan.live, name=f"source-{token}", traverse=False),
        layer,
        trust_code,
        chunks=da.core.normalize_chunks(sizes, shape),
        dtype=np.dtype(spec.dtype),
        meta=np.empty((0,) * len(shape), spec.dtype),
        name=f"geoscale-{token}",
    )


def _to_xarray(plan: InferencePlan, layer: str, data: Any) -> xr.DataArray:
    """Give it the names and coordinates that a stored output has."""
    import xarray as xr

    template = make_map_sink(plan, "memory://unused").template
    spec = template.layer(layer)
    dims = ("time", "class", "y", "x") if spec.classes else ("time", "y", "x")
    dataset = xr.Dataset({layer: (dims, data, {"grid_mapping": "spatial_ref"})})
    for name, (values, names, attrs) in template.coords().items():
        if set(names) <= set(dims):
            dataset.coords[name] = (names, values, attrs)
    attrs = {"nodata": spec.fill_value, **dict(spec.attrs)}
    array = xr.decode_cf(dataset)[layer].assign_attrs(attrs)
    array.encoding["grid_mapping"] = "spatial_ref"
    return array


_kernels: dict[tuple[str, bool], Kernel] = {}
_lock = threading.Lock()


def _predict_block(
    plan: InferencePlan,
    live: Source | None,
    layer: str,
    trust: bool,
    block_id: tuple[int, ...] = (),
) -> Array:
    """Make one block in whatever process dask chose; (1, [class,] y, x)."""
    number = plan.grid.number(block_id[0], block_id[-2], block_id[-1])
    with _lock:
        kernel = _kernels.get((plan.hash, trust))
        if kernel is None:
            _kernels.clear()
            kernel = make_kernel(plan, source=live, trust_code=trust)
            _kernels[plan.hash, trust] = kernel
    layers, _ = infer_block(kernel, plan.task(number))
    return np.asarray(layers[layer][None])


class GeoscaleAccessor:
    """``stack.geoscale``: models over any georeferenced DataArray.

    Parameters
    ----------
    stack : xarray.DataArray
        With dims y and x and a CRS.
    """

    def __init__(self, stack: xr.DataArray) -> None:
        self._stack = stack

    def segment(self, model: str | Path | ModelCard, **options: Any) -> xr.DataArray:
        """Classes of every pixel, lazily; as `geoscale.predict`."""
        return predict(self._stack, model, **options)

    def plan(self, model: str | Path | ModelCard, **options: Any) -> InferencePlan:
        """Plan a job over this stack; as `geoscale.plan`."""
        return make_plan(self._stack, model, **options)

    @property
    def valid(self) -> xr.DataArray:
        """Usable pixels, bool (time, y, x), lazily."""
        from geoscale.sources.lazy import lazy_valid
        from geoscale.sources.opening import open_source

        _, source = recall(self._stack)
        if source is None:
            source = open_source({"array": self._stack})
        return lazy_valid(source)


def register() -> None:
    """Make ``DataArray.geoscale`` known to xarray; done on importing this module."""
    import xarray as xr

    if not hasattr(xr.DataArray, "geoscale"):
        known: Any = xr.register_dataarray_accessor
        known("geoscale")(GeoscaleAccessor)


register()
