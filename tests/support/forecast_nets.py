"""A test user's networks that look ahead: (n, T, C, y, x) in, (n, T', C, y, x) out."""

import torch
from torch import nn


class SmallConvLstm(nn.Module):
    """One convolutional LSTM, run over the dates it sees, then over those ahead.

    Each step adds to the one before, as EarthNet's baselines do. Its memory reaches
    one pixel further with every date.
    """

    def __init__(self, bands: int = 4, steps: int = 3, hidden: int = 4) -> None:
        super().__init__()
        self.steps, self.hidden = steps, hidden
        self.gates = nn.Conv2d(bands + hidden, 4 * hidden, 3, padding=1)
        self.out = nn.Conv2d(hidden, bands, 1)

    def step(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor):
        i, f, o, g = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, dates, _, *place = x.shape
        h = c = x.new_zeros(n, self.hidden, *place)
        for date in range(dates):
            h, c = self.step(x[:, date], h, c)
        last, found = x[:, -1], []
        for _ in range(self.steps):
            last = last + 0.1 * self.out(h)
            found.append(last)
            h, c = self.step(last, h, c)
        return torch.stack(found, 1)


class Trend(nn.Module):
    """What a line through the first and the last date says: no weights, no context."""

    def __init__(self, steps: int = 3) -> None:
        super().__init__()
        self.steps = steps
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slope = (x[:, -1] - x[:, 0]) / (x.shape[1] - 1)
        ahead = [x[:, -1] + slope * n for n in range(1, self.steps + 1)]
        return torch.stack(ahead, 1)


class Swapped(Trend):
    """Gives (n, band, step, y, x): bands where steps belong."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).transpose(1, 2)


class Dropped(Trend):
    """As `Trend`, with bands left out at each date."""

    def __init__(self, steps: int = 3) -> None:
        super().__init__(steps)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.drop(x))
