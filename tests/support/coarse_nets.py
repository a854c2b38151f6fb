"""A test user's networks whose results are coarser than their input, or are numbers."""

import torch
from torch import nn


class Strided(nn.Module):
    """Logits for every 4 x 4 px; needs 4 px around (one cell)."""

    def __init__(self, channels: int = 2, width: int = 3) -> None:
        super().__init__()
        self.cells = nn.Conv2d(channels, width, 4, stride=4)
        self.mix = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(torch.tanh(self.cells(x)))


class Scene(nn.Module):
    """One result for the whole patch, (n, k)."""

    def __init__(self, channels: int = 2, width: int = 3) -> None:
        super().__init__()
        self.body = nn.Conv2d(channels, 8, 3, padding=1)
        self.head = nn.Linear(8, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(x)).mean((2, 3)))


class Numbers(nn.Module):
    """Two numbers for every pixel; needs 1 px around."""

    def __init__(self, channels: int = 2, width: int = 2) -> None:
        super().__init__()
        self.body = nn.Conv2d(channels, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class Backbone(nn.Module):
    """Eight features for every 4 x 4 px."""

    def __init__(self, channels: int = 2, width: int = 8) -> None:
        super().__init__()
        self.net = Strided(channels, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)
