"""HeldDetector: a network that finds objects, held by this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import BlockError, CardError
from geoscale.models.decoders import decode_dict, decode_tensor
from geoscale.models.parts import Parts, is_out_of_memory
from geoscale.models.ports import probe_shape
from geoscale.models.scores import check_patches, pad_to, say_not_finite
from geoscale.objects import Found
from geoscale.types import Float, Json

Forward = Callable[[Float], Any]
"""Float32 (n, channel, y, x) → a tensor, or a dict for each patch, as arrays."""


class HeldDetector:
    """A detector of any form; see `geoscale.objects.Detector`.

    Parameters
    ----------
    forward : callable
        Float32 (n, channel, y, x) → a tensor, or a dict for each patch.
    card : ModelCard
        Of task detection.
    parts : Parts
        Patches per call, the device's name, and what to do where memory runs out.
    model_id : str
        sha256 of the weights.
    told : mapping
        Runtime, its version and threads, for provenance.
    parameters : int, optional
        Numbers in the network; left out where its file holds it.
    """

    def __init__(
        self,
        forward: Forward,
        card: ModelCard,
        *,
        parts: Parts,
        model_id: str,
        told: Mapping[str, Any],
        parameters: int | None = None,
    ) -> None:
        self.parameters = parameters
        self._forward, self._card = forward, card
        self._parts = parts
        self.batch, self.device_name, self.model_id = parts.batch, parts.where, model_id
        self._told = dict(told)

    @property
    def part(self) -> int:
        """Patches that go through the network at once, after what memory taught."""
        return self._parts.size

    def describe(self) -> Json:
        """Tell what may change the last bits of a result, for provenance."""
        return {
            "device": self.device_name,
            "device_name": self.device_name,
            "precision": "float32",
            "batch": self.batch,
            "part": self.part,
            "model_id": self.model_id,
        } | self._told

    def probe(self, size: int | tuple[int, int] | None = None) -> None:
        """Run zeros, so that a wrong card fails before any pixel.

        Raises
        ------
        CardError
            If the network refuses the shape, or gives what its form does not.
        """
        _, *rest = probe_shape(self._card, size)
        try:
            self.detect(np.zeros((self.batch, *rest), np.float32))
        except BlockError as err:
            raise CardError(f"card `{self._card.name}` does not fit: {err}") from err

    def run(self, patches: Float) -> Any:
        """Give what the network says of patches, not decoded.

        Parameters
        ----------
        patches : ndarray of float32, (n, channel, y, x)
            Finite.

        Returns
        -------
        ndarray or list of dict
            A tensor of all, or arrays by name for each patch.
        """
        check_patches(patches, self._card)
        return self._forward(patches)

    def detect(self, patches: Float) -> Sequence[Found]:
        """Run a batch; see `geoscale.objects.Detector.detect`.

        Parameters
        ----------
        patches : ndarray of float32, (n, channel, y, x)
            Finite.

        Returns
        -------
        list of Found
            What reaches the card's least score, in px of each patch.

        Raises
        ------
        CardError
            If what the network gives is not of the card's form.
        BlockError
            If it fails, gives NaN, or one patch exceeds the memory.
        """
        check_patches(patches, self._card)
        while True:
            try:
                return self._detect(patches)
            except Exception as err:
                if not is_out_of_memory(err):
                    raise
                message = str(err).splitlines()[0] if str(err) else repr(err)
            # outside the except block, whose traceback would keep tensors alive
            self._parts.halve(patches.shape, message)

    def _detect(self, patches: Float) -> list[Found]:
        step, found = self._parts.size, list[Found]()
        for start in range(0, len(patches), step):
            part = patches[start : start + step]
            found += self._decode(pad_to(part, step))[: len(part)]
        return found

    def _decode(self, patches: Float) -> list[Found]:
        raw = self.run(patches)
        if isinstance(raw, list):
            found = [decode_dict(one, self._card) for one in raw]
        else:
            found = decode_tensor(raw, self._card, patches.shape[2:])
        for one in found:
            if not (np.isfinite(one.corners).all() and np.isfinite(one.scores).all()):
                known = bool(np.isfinite(patches).all())
                raise BlockError(say_not_finite(known, "float32"), phase="predict")
        return found
