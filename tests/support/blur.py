"""A network whose answer is known: every class's score is the mean of its own band."""

import torch
from torch import nn


class Blur(nn.Module):
    def __init__(self, classes: int = 3, radius: int = 5) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.pool = nn.AvgPool2d(2 * radius + 1, 1, radius, count_include_pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(x) * self.scale
