"""A small head of convolutions: it sees the pixels around a labelled pixel too.

It begins as a linear head of single pixels and learns what is to be added to that. So
few labels, which teach nothing of what lies around them, leave it as good as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geoscale.heads import Head
from geoscale.models.own_thread import call
from geoscale.types import Array, Bool, Float, Floats, Ints

HIDDEN = 32
"""Channels between the layers."""
REACH = 2
"""Pixels that it sees on each side: two layers of 3 x 3."""
EPOCHS, PATIENCE = 150, 20
"""Most passes over the labels; passes without a better loss before it stops."""
BATCH = 64
RATE, DECAY, DROP = 3e-3, 1e-2, 0.2
"""Learning rate, weight decay, and share of channels left out in training."""


class ConvHead(nn.Module):
    """A linear head, plus 1 x 1, 3 x 3, 3 x 3 and 1 x 1 convolutions.

    All see standardised features; past the edge of a patch these count as their mean.

    Parameters
    ----------
    inputs, classes, hidden : int
        Features of a pixel; channels of the output, and between the layers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, inputs: int, classes: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))
        self.pixel = nn.Conv2d(inputs, classes, 1)
        self.mix = nn.Conv2d(inputs, hidden, 1)
        self.near = nn.Conv2d(hidden, hidden, 3)
        self.far = nn.Conv2d(hidden, hidden, 3)
        self.out = nn.Conv2d(hidden, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, feature, y, x) → (n, class, y, x), logits."""
        z = (x - self.mean[:, None, None]) / self.std[:, None, None]
        around: Tensor = self.out(self.look(functional.pad(z, (REACH,) * 4)))
        made: Tensor = self.pixel(z) + around
        return made

    def look(self, z: Tensor, drop: float = 0.0) -> Tensor:
        """(n, feature, y, x), standardised → (n, hidden, y - 2 reach, x - 2 reach)."""
        for layer in (self.mix, self.near, self.far):
            z = functional.relu(layer(z))
        return functional.dropout2d(z, drop) if drop else z


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolutions:
    """A trained conv head, as arrays."""

    state: dict[str, Array]
    """As `ConvHead` names them, float32."""
    epochs: int
    """Passes over the labels that it learned for."""

    def logits(self, values: Float) -> Floats:
        """(pixel, feature, y, x) chips → (pixel, class), of their middles."""
        return call(self._logits, values)

    def spec(self) -> Head:
        """Give what the card says."""
        inputs = len(self.state["mean"])
        return Head(kind="conv", inputs=inputs, hidden=HIDDEN, reach=REACH)

    def tensors(self, heat: float) -> dict[str, Array]:
        """Give arrays of the torch head, whose logits are divided by `heat`."""
        last = ("out.weight", "out.bias", "pixel.weight", "pixel.bias")
        return {**self.state, **{k: self.state[k] / np.float32(heat) for k in last}}

    def _logits(self, values: Float) -> Floats:
        inputs, classes = len(self.state["mean"]), len(self.state["out.bias"])
        head = ConvHead(inputs, classes)
        head.load_state_dict({k: torch.from_numpy(v) for k, v in self.state.items()})
        made = []
        with torch.inference_mode():
            for start in range(0, len(values), 1024):
                z = _standardise(head, values[start : start + 1024])
                made.append(_whole(head, z).numpy())
        found: Floats = np.concatenate(made).astype(np.float64)
        return found


def train_conv(
    values: Float,
    codes: Ints,
    start: Mapping[str, Array],
    *,
    seed: int,
    stop: Bool | None = None,
    epochs: int = EPOCHS,
) -> Convolutions:
    """Train a conv head on chips around labelled pixels.

    Every labelled pixel is the middle of a chip as large as what the head sees, so the
    loss is that of dense chips whose pixels without a label are masked, and pixels
    between labels cost nothing.

    Parameters
    ----------
    values : ndarray of float32, (pixel, feature, y, x)
        Chips of ``2 * REACH + 1`` px; NaN where there is nothing.
    codes : ndarray of int, (pixel,)
        Label of each middle.
    start : mapping of str to ndarray
        ``mean``, ``std``, ``weight`` and ``bias`` of a linear head, fitted to the
        middles without those of `stop`.
    seed : int
        Of first weights, order, turns and dropout: equal seeds give equal heads on
        one machine.
    stop : ndarray of bool, (pixel,), optional
        Pixels of other ground, which tell when to stop; nothing is learned from them.
    epochs : int
        Passes over the labels, at most.

    Returns
    -------
    Convolutions
        Of the pass with the least loss at `stop`, be it the linear head itself, before
        the first; of the last where there is no `stop`.
    """
    return call(_train, values, codes, start, seed, stop, epochs)


def _train(
    values: Float,
    codes: Ints,
    start: Mapping[str, Array],
    seed: int,
    stop: Bool | None,
    epochs: int,
) -> Convolutions:
    held = np.zeros(len(codes), bool) if stop is None else stop
    # random numbers of whoever called go on as if nothing had happened
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        head = _begin(values.shape[1], start)
        x, y = _standardise(head, values), torch.from_numpy(codes.astype(np.int64))
        mine = torch.from_numpy(np.flatnonzero(~held))
        others = torch.from_numpy(np.flatnonzero(held))
        optimizer: Any = torch.optim.AdamW(
            [p for p in head.parameters() if p.requires_grad], RATE, weight_decay=DECAY
        )
        best, kept, done = _judge(head, x[others], y[others]), _copy(head), 0
        for epoch in range(1, epochs + 1):
            for some in _batches(mine):
                loss = functional.cross_entropy(_see(head, x[some]), y[some])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
            if stop is None:
                kept, done = _copy(head), epoch
                continue
            now = _judge(head, x[others], y[others])
            if now < best:
                best, kept, done = now, _copy(head), epoch
            elif epoch - done >= PATIENCE:
                break
    absent = np.setdiff1d(np.arange(len(start["bias"])), codes[~held])
    kept["out.bias"][absent] = 0
    kept["out.weight"][absent] = 0
    return Convolutions(state=kept, epochs=done)


def _begin(inputs: int, start: Mapping[str, Array]) -> ConvHead:
    """Make a head that is the linear one, which stays as it is, plus nothing."""
    head = ConvHead(inputs, len(start["bias"]))
    given = {k: torch.from_numpy(v.astype(np.float32)) for k, v in start.items()}
    nothing = {
        f"out.{k}": torch.zeros_like(v) for k, v in head.out.state_dict().items()
    }
    state = {
        **head.state_dict(),
        **nothing,
        "mean": given["mean"],
        "std": given["std"],
        "pixel.weight": given["weight"][:, :, None, None],
        "pixel.bias": given["bias"],
    }
    head.load_state_dict(state)
    head.pixel.requires_grad_(False)
    return head


def _judge(head: ConvHead, chips: Tensor, codes: Tensor) -> float:
    with torch.no_grad():
        return float(functional.cross_entropy(_whole(head, chips), codes))


def _whole(head: ConvHead, chips: Tensor, drop: float = 0.0) -> Tensor:
    """Logits of the middles of chips, (n, class)."""
    middle = chips[:, :, REACH : REACH + 1, REACH : REACH + 1]
    made: Tensor = head.pixel(middle) + head.out(head.look(chips, drop))
    return made[:, :, 0, 0]


def _see(head: ConvHead, chips: Tensor) -> Tensor:
    """Logits of chips that are turned and mirrored at random: ground has no up."""
    turns, mirrored = (int(n) for n in torch.randint(0, 4, (2,)))
    chips = torch.rot90(chips, turns, (2, 3))
    chips = chips.flip(3) if mirrored % 2 else chips
    return _whole(head, chips, DROP)


def _batches(rows: Tensor) -> Iterator[Tensor]:
    order = rows[torch.randperm(len(rows))]
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def _standardise(head: ConvHead, values: Float) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    z = (x - head.mean[:, None, None]) / head.std[:, None, None]
    return torch.nan_to_num(z, nan=0.0)


def _copy(head: ConvHead) -> dict[str, Array]:
    return {k: v.detach().numpy().copy() for k, v in head.state_dict().items()}
