"""A block on the device: pixels go up once, layers come down, nothing in between.

The same steps as the engine's on the host, in the same order and in float32: fill and
normalise, cut patches, predict, merge, take the class, round. Imported lazily: it
imports torch.

On CUDA copies run beside the network, through pinned memory and on two streams of
their own, so that one block's pixels go up while another is inferred and the layers of
a third come down. The streams are those of the process: torch keeps freed memory for
the stream that it was asked on. What is written here for CUDA runs on a CPU as well,
without streams and pinned memory; most tests do that.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoscale.card import ModelCard
from geoscale.errors import BlockError, GeoscaleError
from geoscale.models.device_steps import Merged, as_plain, finish, prepare
from geoscale.models.own_thread import call_on
from geoscale.models.parts import Parts, is_out_of_memory
from geoscale.models.scores import check_output, say_not_finite
from geoscale.models.torch_predictor import explain_failure
from geoscale.patches import reflect_index
from geoscale.types import Array, Bool, CanvasSpec
from geoscale.windows import Window

_LOG = logging.getLogger(__name__)

Gives = tuple[Window, Window]
"""A patch's pixels, and which of them the block gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network on a device, as a canvas needs it."""

    run: Callable[[Tensor], Tensor]
    """Patches on the device → float32 scores on the device."""
    device: torch.device
    """Where it is."""
    parts: Parts
    """Patches of a batch, and at once."""
    card: ModelCard
    """Says classes and activation."""
    precision: str
    """For messages."""
    layout: torch.memory_format
    """Of the patches."""


def open_canvas(
    network: Network, spec: CanvasSpec, data: Array, valid: Bool
) -> TorchCanvas | None:
    """Begin to send a block's pixels up.

    Parameters
    ----------
    network : Network
        What runs on them.
    spec : CanvasSpec
        The block.
    data : ndarray, (time, band, y, x)
        Calibrated pixels, or the network's input as (1, channel, y, x).
    valid : ndarray of bool, (time, y, x)
        Where they are usable.

    Returns
    -------
    TorchCanvas or None
        None where the device's memory does not do; that is logged.
    """
    try:
        return TorchCanvas(network, spec, data, valid)
    except Exception as err:
        if not is_out_of_memory(err):
            raise explain_failure(err, str(network.device), data.shape) from err
        reason = str(err).splitlines()[0] if str(err) else repr(err)
    _say_full(network, spec, reason)
    return None


class TorchCanvas:
    """A block on a torch device; see `geoscale.types.Canvas`.

    Parameters
    ----------
    network : Network
        What runs on it.
    spec : CanvasSpec
        The block.
    data : ndarray, (time, band, y, x)
        Calibrated pixels, or the network's input.
    valid : ndarray of bool, (time, y, x)
        Where they are usable.
    """

    def __init__(
        self, network: Network, spec: CanvasSpec, data: Array, valid: Bool
    ) -> None:
        self._network, self._spec = network, spec
        self._cuda = network.device.type == "cuda"
        self._above: Any = None
        self._below: Any = None
        if self._cuda:
            self._above, self._below = _streams(os.getpid(), network.device)
        self._layers: dict[str, Tensor] = {}
        with torch.inference_mode(), _beside(self._above):
            pixels, unsigned = as_plain(data)
            self._channels, self._usable = prepare(
                self._up(pixels), self._up(valid), spec.pixels, unsigned
            )
            self._ready = _mark(self._above)

    def usable(self) -> Bool:
        """(y, x) of the core: True where every date holds finite values."""
        here = self._spec.core.within(self._spec.held)
        try:
            with torch.inference_mode(), _beside(self._above):
                host = self._down(self._usable[here])
                self._wait_for(_mark(self._above))
        except Exception as err:
            raise self._explain(err) from err
        return np.asarray(host.numpy())

    def run(self, patches: Sequence[Gives], keep: Bool) -> bool:
        """Run patches and finish the block; see `geoscale.types.Canvas.run`.

        Parameters
        ----------
        patches : sequence of (Window, Window)
            Pixels of each patch, and what it gives, in lattice order.
        keep : ndarray of bool, (y, x)
            Pixels of the core that get a class.

        Returns
        -------
        bool
            False where the device's memory does not do; that is logged.
        """
        try:
            if self._cuda:
                # its cache of cuDNN's plans is the one that is filled
                call_on(str(self._network.device), self._compute, patches, keep)
            else:
                self._compute(patches, keep)
            return True
        except _FullError as err:
            reason = str(err)
        except GeoscaleError:
            raise
        except Exception as err:
            if not is_out_of_memory(err):
                raise self._explain(err) from err
            reason = str(err).splitlines()[0] if str(err) else repr(err)
        self._forget()
        self._layers = {}
        _say_full(self._network, self._spec, reason)
        return False

    def fetch(self) -> dict[str, Array]:
        """Wait for the layers; see `geoscale.types.Canvas.fetch`.

        Returns
        -------
        dict of ndarray
            One array per layer.

        Raises
        ------
        BlockError
            If the network gave NaN or infinity.
        DeviceLostError
            If the device failed for good.
        """
        try:
            self._wait_for(self._ready)
        except Exception as err:
            raise self._explain(err) from err
        layers = {name: t.numpy() for name, t in self._layers.items()}
        if not layers.pop("finite"):
            # what is not finite was filled before
            raise BlockError(
                say_not_finite(True, self._network.precision), phase="predict"
            )
        return layers

    def _compute(self, patches: Sequence[Gives], keep: Bool) -> None:
        with torch.inference_mode(), self._on_device():
            self._run(patches, keep)

    def _run(self, patches: Sequence[Gives], keep: Bool) -> None:
        if self._cuda:
            torch.cuda.current_stream().wait_event(self._ready)
            for tensor in (self._channels, self._usable):
                tensor.record_stream(torch.cuda.current_stream())
        weights = self._spec.weights
        merged = Merged(
            self._spec,
            self._network.card,
            self._network.device,
            None if weights is None else self._up(weights),
        )
        size = self._network.parts.batch
        for start in range(0, len(patches), size):
            self._run_group(patches[start : start + size], merged)
        made = finish(merged.finish(), self._up(keep), self._spec)
        made["finite"] = merged.finite
        if self._below is not None:
            self._below.wait_stream(torch.cuda.current_stream())
        with _beside(self._below):
            self._layers = {name: self._down(layer) for name, layer in made.items()}
            self._ready = _mark(self._below)
        self._forget()

    def _run_group(self, group: Sequence[Gives], merged: Merged) -> None:
        """Run one batch in as many parts as the engine's `predict` would."""
        parts, done = self._network.parts, 0
        while done < len(group):
            part = group[done : done + parts.size]
            reason = self._run_part(part, merged)
            if not reason:
                done += len(part)
            elif parts.size <= parts.least:
                raise _FullError(reason)
            else:
                parts.halve((parts.size, *self._channels.shape), reason)

    def _run_part(self, part: Sequence[Gives], merged: Merged) -> str:
        """Why memory did not do, else nothing; then the part is merged."""
        network = self._network
        try:
            patches = self._gather(part)
            scores = network.run(patches)
            check_output(tuple(scores.shape), tuple(patches.shape), network.card)
            merged.watch(scores[: len(part)])
        except Exception as err:
            if not is_out_of_memory(err):
                raise
            return str(err).splitlines()[0] if str(err) else repr(err)
        # takes no memory: a part is merged wholly or not at all
        for (window, gives), one in zip(part, scores, strict=False):
            merged.add(one, window, gives)
        return ""

    def _gather(self, part: Sequence[Gives]) -> Tensor:
        held, shape = self._spec.held, self._spec.shape
        batch = torch.empty(
            (self._network.parts.size, len(self._channels), *self._spec.patch),
            device=self._network.device,
            memory_format=self._network.layout,
        )
        batch[len(part) :] = 0
        for out, (window, _) in zip(batch, part, strict=False):
            if window in held:
                out.copy_(self._channels[(slice(None), *window.within(held))])
                continue
            rows = reflect_index(window.y0, window.y1, 0, shape[0]) - held.y0
            columns = reflect_index(window.x0, window.x1, 0, shape[1]) - held.x0
            ys, xs = self._up(rows), self._up(columns)
            out.copy_(self._channels[:, ys[:, None], xs])
        return batch

    def _forget(self) -> None:
        self._channels = self._usable = torch.empty(0)

    def _explain(self, err: Exception) -> GeoscaleError:
        shape = (self._network.parts.size, *self._spec.patch)
        return explain_failure(err, str(self._network.device), shape)

    def _on_device(self) -> AbstractContextManager[object]:
        """Make this thread's CUDA device the network's."""
        if not self._cuda:
            return ExitStack()
        return torch.cuda.device(self._network.device)

    def _wait_for(self, event: Any) -> None:
        if event is not None:
            event.synchronize()

    def _up(self, array: Array) -> Tensor:
        """Copy to the device; the host does not wait for work that is queued there."""
        array = np.require(array, requirements=["C", "W"])
        host = torch.from_numpy(array)
        if not self._cuda:
            return host
        # torch keeps the pinned memory until the copy is over
        pinned = torch.empty(host.shape, dtype=host.dtype, pin_memory=True)
        return pinned.copy_(host).to(self._network.device, non_blocking=True)

    def _down(self, tensor: Tensor) -> Tensor:
        if not self._cuda:
            return tensor.contiguous()
        tensor.record_stream(torch.cuda.current_stream())
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)


@functools.cache
def _streams(_process: int, device: torch.device) -> tuple[Any, Any]:
    """Streams of a process on which pixels go up, and layers come down."""
    make: Any = torch.cuda.Stream
    return make(device), make(device)


def _beside(stream: Any) -> AbstractContextManager[object]:
    """Work on a stream of the copies."""
    return ExitStack() if stream is None else torch.cuda.stream(stream)


def _mark(stream: Any) -> Any:
    """Event behind everything that a stream was told."""
    return None if stream is None else stream.record_event()


class _FullError(Exception):
    """Not even one patch fits beside the canvas."""


def _say_full(network: Network, spec: CanvasSpec, reason: str) -> None:
    if network.device.type == "cuda":
        torch.cuda.empty_cache()
    _LOG.warning(
        "a block of %d x %d px does not fit into the memory of %s (%s); it is merged "
        "on the host, which is slower: choose a smaller `block`",
        *spec.core.shape, network.device, reason,
    )  # fmt: skip
