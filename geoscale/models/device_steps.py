"""The steps of a block on its device: what the host does in numpy, in torch.

The same operations in the same order and in float32. Imported lazily: it imports
torch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from geoscale.card import ModelCard
from geoscale.tasks.sureness import (
    ENTROPY,
    STEPS,
    SureSpec,
    entropy_scale,
    make_table,
)
from geoscale.types import Array, CanvasSpec, ChangeSpec, LayerSpec, PixelSpec
from geoscale.windows import Window

# dtypes that torch takes as they are; others become float32 on the host
_PLAIN = frozenset(
    ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8",
     "bool")
)  # fmt: skip


class Merged:
    """Scores of a block: the engine's crop or its `Accumulator`, on the device.

    Parameters
    ----------
    spec : CanvasSpec
        The block.
    card : ModelCard
        Says classes and activation.
    device : torch.device
        Where it is.
    weights : Tensor of float32, (y, x), or None
        Of one patch that is blended; None: patches are cropped.
    """

    def __init__(
        self,
        spec: CanvasSpec,
        card: ModelCard,
        device: torch.device,
        weights: Tensor | None,
    ) -> None:
        classes = card.output.width
        self._core, self._bounded = spec.core, card.output.activation != "none"
        self._scores = torch.zeros((classes, *spec.core.shape), device=device)
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        """Whether every score so far is; known on the device only."""
        self._weights = weights
        if weights is not None:
            self._sum = torch.zeros(spec.core.shape, device=device)
            self._scratch = torch.empty((classes, *spec.patch), device=device)

    def watch(self, scores: Tensor) -> None:
        """Note NaN and infinity; they are told of when the block is fetched."""
        # a sum of values in [0, 1] cannot overflow
        seen = scores.sum() if self._bounded else scores
        self.finite &= torch.isfinite(seen).all()

    def add(self, scores: Tensor, window: Window, gives: Window) -> None:
        """Merge one patch, as `Accumulator.add` does."""
        (ys, xs), here = gives.within(window), gives.within(self._core)
        target, part = self._scores[(slice(None), *here)], scores[:, ys, xs]
        if self._weights is None:
            target.copy_(part)
            return
        # product and sum apart, as on the host: addcmul would round once, not twice
        weights = self._weights[ys, xs]
        scratch = self._scratch[:, : part.shape[1], : part.shape[2]]
        target.add_(torch.mul(part, weights, out=scratch))
        self._sum[here].add_(weights)

    def finish(self) -> Tensor:
        """Mean of the patches, (class, y, x)."""
        if self._weights is not None:
            self._sum.masked_fill_(self._sum == 0, 1)
            self._scores.div_(self._sum)
        return self._scores


def as_plain(data: Array) -> tuple[Array, bool]:
    """Take a dtype that torch computes with.

    Parameters
    ----------
    data : ndarray
        Any real dtype.

    Returns
    -------
    ndarray
        The same values; uint16 as int16 of the same bits.
    bool
        Whether they are such.
    """
    data = np.asarray(data, dtype=data.dtype.newbyteorder("="))
    if data.dtype == np.uint16:
        # torch can hardly do more with uint16 than store it
        return np.ascontiguousarray(data).view(np.int16), True
    if data.dtype.name in _PLAIN:
        return data, False
    with np.errstate(over="ignore", invalid="ignore"):
        return data.astype(np.float32), False


def prepare(
    data: Tensor, valid: Tensor, spec: PixelSpec | None, unsigned: bool
) -> tuple[Tensor, Tensor]:
    """Make the network's input, as `Preprocessor.prepare` does.

    Parameters
    ----------
    data : Tensor, (time, band, y, x)
        Calibrated pixels, or the input itself as (1, channel, y, x).
    valid : Tensor of bool, (time, y, x)
        Where they are usable.
    spec : PixelSpec or None
        How; None: they are the input.
    unsigned : bool
        Whether int16 stands for uint16.

    Returns
    -------
    Tensor of float32, (channel, y, x)
        Normalised and finite.
    Tensor of bool, (y, x)
        Usable pixels.
    """
    if spec is None:
        return data[0], valid[0]
    frames, bands, *shape = data.shape
    device = data.device
    channels = torch.empty((frames * bands, *shape), device=device)
    usable = valid.all(dim=0)
    order = range(frames - 1, -1, -1) if spec.newest_first else range(frames)
    planes = (data[t, b] for t in order for b in range(bands))
    # plane by plane: a copy of all in another dtype would be twice the memory
    for channel, plane in zip(channels, planes, strict=True):
        if unsigned:
            plane = plane.to(torch.int32).bitwise_and_(0xFFFF)
        usable &= torch.isfinite(channel.copy_(plane))
    holes = ~usable
    # Numbers on the device, not Python's: CUDA divides by those by multiplying with
    # the reciprocal, which rounds otherwise than the host.
    constants = [
        None if v is None else torch.tensor(v, dtype=torch.float32, device=device)
        for v in (spec.mean, spec.std)
    ]
    mean, std = constants
    for c, channel in enumerate(channels):
        channel.masked_fill_(holes, spec.fill[c])
        if mean is not None and std is not None:
            channel.sub_(mean[c]).div_(std[c])
    return channels, usable


def finish(scores: Tensor, keep: Tensor, spec: CanvasSpec) -> dict[str, Tensor]:
    """Make the layers, as the task's own `finish` does.

    Parameters
    ----------
    scores : Tensor of float32, (class, y, x)
        Merged; used up.
    keep : Tensor of bool, (y, x)
        Pixels that get a class.
    spec : CanvasSpec
        Which layers.

    Returns
    -------
    dict of Tensor
        One per layer.
    """
    layers, holes = spec.layers, ~keep

    def quantise(plane: Tensor) -> Tensor:
        """Round to steps; the plane is used up."""
        steps = plane.clamp_(0, 1).mul_(layers.steps).round_().to(torch.uint8)
        return steps.masked_fill_(holes, layers.nodata)

    if isinstance(layers, ChangeSpec):
        score = scores[1]
        least = torch.tensor(layers.threshold, device=score.device)
        changed = (score >= least).to(torch.uint8)
        made = {"change": changed.masked_fill_(holes, layers.nodata)}
        if layers.probability == "uint8":
            made["probability"] = quantise(score)
        elif layers.probability:
            half = score.masked_fill_(holes, torch.nan).to(torch.float16)
            made["probability"] = half
        return made
    top = scores[0].clone()
    best = torch.full_like(holes, layers.values[0], dtype=torch.uint8)
    # strictly greater: the first of equal classes wins, as on the host
    for value, plane in zip(layers.values[1:], scores[1:], strict=True):
        best.masked_fill_(plane > top, value)
        torch.maximum(top, plane, out=top)
    made = {"classes": best.masked_fill_(holes, layers.nodata)}
    made |= {name: quantise(plane) for name, plane in _sureness(scores, layers)}
    if layers.confidence:
        made["confidence"] = quantise(top)
    if layers.scores == "uint8":
        made["scores"] = torch.empty_like(scores, dtype=torch.uint8)
        for out, plane in zip(made["scores"], scores, strict=True):
            out.copy_(quantise(plane))
    elif layers.scores:
        made["scores"] = scores.masked_fill_(holes, torch.nan).to(torch.float16)
    return made


def _sureness(scores: Tensor, layers: LayerSpec) -> Iterator[tuple[str, Tensor]]:
    """Give each layer that says how sure the scores are, before it is rounded."""
    if not isinstance(layers, SureSpec):
        return
    for name in layers.sure:
        if name == ENTROPY:
            yield name, _entropy(scores, shared=layers.shared)
        else:
            yield name, _margin(scores)


def _entropy(scores: Tensor, *, shared: bool) -> Tensor:
    """As `geoscale.tasks.sureness.put_entropy`, before it is rounded."""
    device, count = scores.device, len(scores)
    table = torch.from_numpy(make_table()).to(device)
    total = torch.zeros(scores.shape[1:], dtype=torch.int32, device=device)
    whole = none = None
    if not shared:
        whole = torch.zeros(scores.shape[1:], device=device)
        for plane in scores:
            whole += plane
        none = whole <= 0
        whole.masked_fill_(none, 1)
    for plane in scores:
        share = plane if whole is None else plane / whole
        if none is not None:
            share = share.masked_fill(none, 1 / count)
        # NaN is told of when the block is fetched; as an index it would end the device
        steps = share.nan_to_num(0).clamp_(0, 1).mul_(STEPS).round_()
        total += table[steps.to(torch.int64)]
    return total.to(torch.float32).mul_(float(entropy_scale(count)))


def _margin(scores: Tensor) -> Tensor:
    """As `geoscale.tasks.sureness.put_margin`, before it is rounded."""
    top, second = scores[0].clone(), torch.full_like(scores[0], -torch.inf)
    for plane in scores[1:]:
        torch.maximum(second, torch.minimum(top, plane), out=second)
        torch.maximum(top, plane, out=top)
    return top.sub_(second)
