"""Calibrated probabilities, as a part of a network: the same for every pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geoscale.heads import LEAST, Calibrated


class Sigmoid(nn.Module):
    """A line through the log odds of each class, then shares of their sum.

    Parameters
    ----------
    classes : int
        Channels.
    """

    slope: Tensor
    bias: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        for name in ("slope", "bias"):
            self.register_buffer(name, torch.zeros(classes))

    def forward(self, logits: Tensor) -> Tensor:
        """(n, class, y, x) logits → logarithms of probabilities that do not add to 1.

        Softmax, which the card says, divides them by their sum.
        """
        p = logits.softmax(1).clamp(LEAST, 1 - LEAST)
        odds = torch.log(p) - torch.log1p(-p)
        made = torch.sigmoid(
            odds * self.slope[:, None, None] + self.bias[:, None, None]
        )
        return torch.log(made.clamp_min(LEAST))


class Isotonic(nn.Module):
    """A rising line of straight parts for each class, then shares of their sum.

    Parameters
    ----------
    classes, knots : int
        Channels; knots of each line.
    """

    x: Tensor
    y: Tensor
    rise: Tensor

    def __init__(self, classes: int, knots: int) -> None:
        super().__init__()
        for name in ("x", "y", "rise"):
            self.register_buffer(name, torch.zeros(classes, knots))

    def forward(self, logits: Tensor) -> Tensor:
        """(n, class, y, x) logits → logarithms of probabilities, as `Sigmoid` does."""
        made = []
        for k, p in enumerate(logits.softmax(1).unbind(1)):
            x, y, rise = self.x[k], self.y[k], self.rise[k]
            p = torch.maximum(p, x[0])
            at = torch.bucketize(p, x, right=True) - 1
            made.append(y[at] + rise[at] * (p - x[at]))
        return torch.log(torch.stack(made, 1).clamp_min(LEAST))


def make_calibration(spec: Calibrated, classes: int) -> nn.Module:
    """Make the part that a card asks for, without its numbers."""
    if spec.kind == "sigmoid":
        return Sigmoid(classes)
    return Isotonic(classes, spec.knots)
