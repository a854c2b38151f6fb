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


class Doubtful(nn.Module):
    """Logits of every pixel; single numbers and whole planes may be left out."""

    def __init__(self, channels: int = 2, width: int = 3) -> None:
        super().__init__()
        self.body = nn.Conv2d(channels, 8, 3, padding=1)
        self.some = nn.Dropout(0.25)
        self.planes = nn.Dropout2d(0.5)
        self.head = nn.Conv2d(8, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.planes(self.some(torch.relu(self.body(x)))))


class Planes(Doubtful):
    """Leaves out whole planes only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.planes(torch.relu(self.body(x))))


class Entries(Doubtful):
    """As a transformer of windows: each patch is four entries of the first axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.body(x))
        n, c, h, w = x.shape
        cut = x.reshape(n, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 1, 3, 5)
        cut = self.some(cut.reshape(4 * n, c, h // 2, w // 2))
        back = cut.reshape(n, 2, 2, c, h // 2, w // 2).permute(0, 3, 1, 4, 2, 5)
        return self.head(back.reshape(n, c, h, w))


class Mixed(Doubtful):
    """Puts the patches of a batch into one entry: whose part is whose is lost."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.some(self.body(x)[None])[0])


class Deep(nn.Module):
    """Classes of pixels, by way of six features for every 4 x 4 px."""

    def __init__(self, channels: int = 2, width: int = 3) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"cells": nn.Conv2d(channels, 6, 4, stride=4)})
        self.up = nn.Upsample(scale_factor=4, mode="nearest")
        self.fine = nn.Conv2d(channels, 5, 3, padding=1)
        self.head = nn.Conv2d(11, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deep = self.up(torch.relu(self.encoder["cells"](x)))
        return self.head(torch.cat([deep, torch.relu(self.fine(x))], 1))


class Ragged(nn.Module):
    """Whose places are no whole number of pixels wide for most patches."""

    def __init__(self, channels: int = 2, width: int = 3) -> None:
        super().__init__()
        self.cells = nn.Conv2d(channels, 6, 4, stride=4)
        self.head = nn.Conv2d(6, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(x))
