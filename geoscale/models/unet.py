"""A small U-Net in plain torch: the architecture of the demo's land-cover network.

Fully convolutional and without global context (no InstanceNorm, no attention),
so that a patch with a wide enough halo gives what the whole image gives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SmallUNet(nn.Module):
    """U-Net of three levels (full, half and quarter resolution).

    Parameters
    ----------
    in_channels : int
        Bands of the input.
    classes : int
        Channels of the output, one logit for each class.
    width : int
        Channels at full resolution; doubled at each lower level.

    Attributes
    ----------
    alignment : int
        Patches must start on multiples of this, or pooling falls out of phase.
    """

    alignment: int = 4

    def __init__(self, in_channels: int = 4, classes: int = 9, width: int = 24) -> None:
        super().__init__()
        self.encode1 = _block(in_channels, width)
        self.encode2 = _block(width, 2 * width)
        self.bottom = _block(2 * width, 4 * width)
        self.decode2 = _block(6 * width, 2 * width)
        self.decode1 = _block(3 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits of every pixel.

        Parameters
        ----------
        x : Tensor
            (batch, band, y, x), normalised.

        Returns
        -------
        Tensor
            (batch, class, y, x), as large as the input.
        """
        height, width = x.shape[-2:]
        # only below and to the right: the phase of the pooling stays put
        pad = (0, -width % self.alignment, 0, -height % self.alignment)
        if any(pad):
            x = functional.pad(x, pad, mode="replicate")
        full = self.encode1(x)
        half = self.encode2(functional.max_pool2d(full, 2))
        quarter = self.bottom(functional.max_pool2d(half, 2))
        half = self.decode2(torch.cat([_double(quarter), half], dim=1))
        full = self.decode1(torch.cat([_double(half), full], dim=1))
        logits: Tensor = self.head(full)
        return logits[..., :height, :width]


def _block(channels: int, out_channels: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _double(x: Tensor) -> Tensor:
    """Twice as fine, bilinear: no checkerboard as transposed convolutions have."""
    return functional.interpolate(
        x, scale_factor=2.0, mode="bilinear", align_corners=False
    )
