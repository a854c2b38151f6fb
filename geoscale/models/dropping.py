"""Monte Carlo dropout: what a network says of a patch with parts of it left out.

Layers that leave out whole planes leave out the same ones all over the map: each
run is a map of its own, without seams. What others leave out hangs on the pixels of the
patch as well. Nothing hangs on blocks, batches, workers or the order of patches.

References
----------
.. [1] Gal and Ghahramani, 2016, "Dropout as a Bayesian Approximation: Representing
   Model Uncertainty in Deep Learning", https://arxiv.org/abs/1506.02142
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.errors import CardError
from geoscale.types import Float, Json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from geoscale.models.torch_predictor import TorchPredictor

_LEVELS = 2**16
"""Chances are rounded to parts of this."""


class Masks:
    """Says what is left out of a network, and when.

    Attributes
    ----------
    run : int or None
        Number of the run; None: nothing is left out.
    """

    def __init__(self) -> None:
        self.run: int | None = None
        self._keys: list[bytes] = []
        self._calls = 0

    def begin(self, part: Float) -> None:
        """Begin a batch.

        Parameters
        ----------
        part : ndarray of float32, (n, channel, y, x)
            Patches that the network is about to see.
        """
        self._calls = 0
        if self.run is not None:
            self._keys = [
                hashlib.blake2b(np.ascontiguousarray(patch).tobytes()).digest()
                for patch in part
            ]

    def share(self, shape: tuple[int, ...], chance: float) -> Float:
        """Draw the factors of one layer that are the same for all patches of the map.

        Parameters
        ----------
        shape : tuple of int
            Of one patch.
        chance : float
            Of being left out.

        Returns
        -------
        ndarray of float32, (1, ...)
            0, or what makes up for those that are 0.
        """
        self._calls += 1
        return _draw([b""], (self.run or 0, self._calls), (1, *shape), chance)

    def draw(self, shape: tuple[int, ...], chance: float) -> Float:
        """Draw the factors of one layer, for each patch by itself: 0, or what makes up.

        Parameters
        ----------
        shape : tuple of int
            Of the tensor; its first axis holds the patches, or several entries for
            each of them.
        chance : float
            Of being left out.

        Returns
        -------
        ndarray of float32
            Of this shape.

        Raises
        ------
        CardError
            If the first axis has no whole number of entries for each patch.
        """
        patches = len(self._keys)
        self._calls += 1
        if shape[0] % patches:
            raise CardError(
                f"a dropout layer of the network sees a tensor of shape {shape} for "
                f"{patches} patches, and cannot tell which part is whose: leave "
                "`inference.mc_dropout` out"
            )
        each = (shape[0] // patches, *shape[1:])
        return _draw(self._keys, (self.run or 0, self._calls), each, chance)


def _draw(
    keys: list[bytes], numbers: tuple[int, int], shape: tuple[int, ...], chance: float
) -> Float:
    left_out = round(chance * _LEVELS)
    factor = np.float32(_LEVELS / max(1, _LEVELS - left_out))
    drawn = (_bits(key, numbers, shape) >= left_out for key in keys)
    return np.concatenate([kept * factor for kept in drawn])


def _bits(key: bytes, numbers: tuple[int, int], shape: tuple[int, ...]) -> Any:
    """Draw whole numbers below `_LEVELS` by a generator of a known definition.

    References
    ----------
    .. [1] Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3", for
       Philox, https://doi.org/10.1145/2063384.2063405
    """
    text = b"%b %d %d" % (key, *numbers)
    seed = hashlib.blake2b(text, digest_size=16).digest()
    bits = np.random.Philox(key=int.from_bytes(seed, "little"))
    count = int(np.prod(shape))
    raw = np.asarray(bits.random_raw(-(-count // 4)), "<u8")
    return raw.view("<u2")[:count].reshape(shape)


def open_dropout(module: nn.Module, name: str) -> Masks:
    """Put layers into a network that leave out what `Masks` says.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode; its dropout layers are replaced in place.
    name : str
        Of its card, for errors.

    Returns
    -------
    Masks
        Of all of these layers.

    Raises
    ------
    CardError
        If the network has no dropout.
    """
    import torch
    from torch import nn

    masks = Masks()

    class Dropping(nn.Module):
        """A dropout layer whose numbers are drawn by `Masks`."""

        def __init__(self, chance: float, *, planes: bool) -> None:
            super().__init__()
            self.chance, self.planes = chance, planes

        def forward(self, x: Tensor) -> Tensor:
            """Leave out numbers, or whole planes."""
            if masks.run is None:
                return x
            shape = tuple(x.shape)
            if self.planes or x.ndim == 2:
                each = (shape[1], *[1] * (x.ndim - 2))
                drawn = torch.from_numpy(masks.share(each, self.chance))
            else:
                drawn = torch.from_numpy(masks.draw(shape, self.chance))
            return x * drawn.to(x.device, x.dtype)

    planes = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
    found = 0
    for parent in list(module.modules()):
        # by all its names: one layer may have two
        for key, child in list(parent._modules.items()):
            if isinstance(child, (nn.Dropout, *planes)) and child.p > 0:
                made = Dropping(child.p, planes=isinstance(child, planes))
                setattr(parent, key, made.eval())
                found += 1
    if not found:
        raise CardError(
            f"`inference.mc_dropout` leaves parts of a network out by its dropout "
            f"layers, and that of `{name}` has none with a chance above 0: leave it "
            "out, or say `inference.tta: all`"
        )
    return masks


class DroppedPredictor:
    """A predictor that gives the mean of several runs with dropout, and their spread.

    Parameters
    ----------
    predictor : TorchPredictor
        Loaded with `Masks`.
    runs : int
        How often it sees each patch, 2 or more.
    """

    def __init__(self, predictor: TorchPredictor, runs: int) -> None:
        self._predictor, self._runs = predictor, runs

    @property
    def batch(self) -> int:
        """Patches per call."""
        return self._predictor.batch

    @property
    def model_id(self) -> str:
        """sha256 of the weights file."""
        return self._predictor.model_id

    @property
    def device_name(self) -> str:
        """Name of the device for logs and locks."""
        return self._predictor.device_name

    def describe(self) -> Json:
        """Tell what may change the last bits of a result, for provenance."""
        return self._predictor.describe() | {"mc_dropout": self._runs}

    def predict(self, patches: Float) -> Float:
        """Run patches, each several times.

        Parameters
        ----------
        patches : ndarray of float32, (n, channel, y, x)
            Finite.

        Returns
        -------
        ndarray of float32, (n, 2 x class, y, x)
            Means of the scores, then their standard deviations between runs.

        Raises
        ------
        CardError, BlockError, DeviceLostError
            As `HeldPredictor.predict` does.
        """
        masks = self._predictor.masks
        assert masks is not None
        mean = squares = None
        try:
            for run in range(self._runs):
                masks.run = run
                scores = self._predictor.predict(patches)
                if mean is None or squares is None:
                    mean, squares = np.array(scores), np.zeros_like(scores)
                    continue
                # Welford's: no difference of large sums, and one pass
                off = scores - mean
                mean += off / np.float32(run + 1)
                squares += off * (scores - mean)
        finally:
            masks.run = None
        assert mean is not None
        assert squares is not None
        spread = np.sqrt(squares / np.float32(self._runs - 1))
        return np.concatenate([mean, spread], axis=1)
