"""A test user's own network: the SimpleCNN of WorldFloods, as its authors wrote it."""

import torch
from torch import nn


def _double(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(out, out, 3, padding=1),
        nn.ReLU(),
    )


class SimpleCNN(nn.Module):
    def __init__(self, in_channels: int = 13, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _double(in_channels, 64), _double(64, 128), nn.Conv2d(128, classes, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)
