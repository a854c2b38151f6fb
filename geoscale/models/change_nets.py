"""Networks without weights that compare two dates; their numbers stand in the card.

A score is ``m / (m + t)`` for a magnitude m and its threshold t: 1/2 at the threshold
and never saturated, so that the order of pixels survives the rounding to 254 steps. (A
chi-square probability would be 1 for most of what lies beyond the threshold.)

Values are added one band after the other, by operations that IEEE rounds the same
everywhere, so that no batch, thread or vector unit changes a bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geoscale.imports import load_object
from geoscale.models.build import call_factory

Rows = Sequence[Sequence[float]]


class _Comparison(nn.Module):
    """Scores of no change and change from a magnitude.

    Parameters
    ----------
    threshold : float
        Magnitude at which the score is 1/2; above 0.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = float(threshold)

    def magnitude(self, before: Tensor, after: Tensor) -> Tensor:
        """(n, band, y, x) twice → (n, 1, y, x), 0 or more."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2 bands, y, x) → (n, 2, y, x): scores of no change and of change."""
        before, after = x.chunk(2, dim=1)
        m = self.magnitude(before, after)
        whole = m + self.threshold
        return torch.cat((self.threshold / whole, m / whole), dim=1)


class ChangeVector(_Comparison):
    """Length of the step between two dates, each in standard deviations.

    Parameters
    ----------
    mean, std : sequence of sequence of float, (2, band)
        Of the first date, then of the second.
    threshold : float
        Length at which the score is 1/2.
    """

    def __init__(self, mean: Rows, std: Rows, threshold: float) -> None:
        super().__init__(threshold)
        self.mean, self.std = mean, std

    def magnitude(self, before: Tensor, after: Tensor) -> Tensor:
        """(n, band, y, x) twice → (n, 1, y, x)."""
        total = torch.zeros_like(before[:, :1])
        (m1, m2), (s1, s2) = self.mean, self.std
        for band in range(before.shape[1]):
            z1 = (before[:, band : band + 1] - m1[band]) / s1[band]
            z2 = (after[:, band : band + 1] - m2[band]) / s2[band]
            step = z2 - z1
            total = total + step * step
        return torch.sqrt(total)


class IrMad(_Comparison):
    """Length of the difference between canonical variates of two dates.

    Parameters
    ----------
    mean : sequence of sequence of float, (2, band)
        Of the first date, then of the second.
    before, after : sequence of sequence of float, (variate, band)
        Mixtures of the bands, scaled so that differences have variance 1 where
        nothing changed.
    threshold : float
        Length at which the score is 1/2.
    """

    def __init__(self, mean: Rows, before: Rows, after: Rows, threshold: float) -> None:
        super().__init__(threshold)
        self.mean, self.before, self.after = mean, before, after

    def magnitude(self, before: Tensor, after: Tensor) -> Tensor:
        """(n, band, y, x) twice → (n, 1, y, x)."""
        x = [before[:, b : b + 1] - v for b, v in enumerate(self.mean[0])]
        y = [after[:, b : b + 1] - v for b, v in enumerate(self.mean[1])]
        total = torch.zeros_like(x[0])
        for a, b in zip(self.before, self.after, strict=True):
            mad = torch.zeros_like(total)
            for band, (first, second) in enumerate(zip(x, y, strict=True)):
                mad = mad + (first * a[band] - second * b[band])
            total = total + mad * mad
        return torch.sqrt(total)


class FeatureDistance(_Comparison):
    """Cosine distance between what a pretrained network sees at two dates.

    Parameters
    ----------
    architecture : str
        ``package.module:Name`` of the network, in a known package.
    architecture_args : dict
        Its keyword arguments.
    layer : str
        Name of the part whose output is compared, as in `named_modules`.
    threshold : float
        Distance at which the score is 1/2.

    Notes
    -----
    Features are brought to length 1 at every pixel, compared, and the distance, one
    minus the cosine, is enlarged to the patch: between pixels it is bilinear.
    """

    def __init__(
        self,
        architecture: str,
        architecture_args: dict[str, Any],
        layer: str,
        threshold: float,
    ) -> None:
        super().__init__(threshold)
        self.net = call_factory(
            architecture, architecture_args, load_object(architecture)
        )
        parts = dict(self.net.named_modules())
        if layer not in parts:
            known = ", ".join(name for name, _ in self.net.named_children())
            raise ValueError(
                f"`{architecture}` has no layer `{layer}`; its parts are {known}, and "
                "parts of those, as in `layer2.0`"
            )
        self.layer = layer
        self._seen: list[Tensor] = []
        parts[layer].register_forward_hook(self._keep)

    def _keep(self, _part: nn.Module, _args: Any, output: Any) -> None:
        self._seen.append(output)

    def _features(self, x: Tensor) -> Tensor:
        self._seen = []
        self.net(x)
        found = self._seen[0]
        self._seen = []
        if not isinstance(found, Tensor) or found.ndim != 4:
            raise ValueError(f"layer `{self.layer}` gives no (n, channel, y, x)")
        return functional.normalize(found, dim=1)

    def magnitude(self, before: Tensor, after: Tensor) -> Tensor:
        """(n, band, y, x) twice → (n, 1, y, x)."""
        pair = self._features(before), self._features(after)
        far = 1 - (pair[0] * pair[1]).sum(dim=1, keepdim=True)
        far = functional.interpolate(
            far, size=before.shape[-2:], mode="bilinear", align_corners=False
        )
        return far.clamp(min=0)

    # The file of weights knows the network's own names.

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Tensors of the network that is looked into, by their names there."""
        return self.net.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Put tensors into the network that is looked into."""
        return self.net.load_state_dict(state_dict, *args, **kwargs)
