"""HeldPredictor: what every runtime does alike around its own forward call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import BlockError, CardError, PlanError
from geoscale.models.heap import keep_freed_memory
from geoscale.models.parts import Parts
from geoscale.models.ports import probe_shape
from geoscale.models.scores import check_finite, check_output, check_patches
from geoscale.types import Float, Json

Precision = Literal["float32", "bfloat16", "float16"]


class HeldPredictor(ABC):
    """A network that this process holds; see `geoscale.types.Predictor`.

    A runtime opens its network, sets `_parts`, and says how one part is run.

    Parameters
    ----------
    card : ModelCard
        Says channels, classes, patch and activation.
    batch : int
        Patches per call, at least 1.
    precision : str
        In which the network computes.
    model_id : str
        sha256 of the weights.

    Raises
    ------
    PlanError
        If the batch is below 1.

    Notes
    -----
    When memory runs out the batch is run in equal parts, each half as large,
    padded to one shape; the size that fits is kept for good, so that the same
    batch keeps giving the same bytes.
    """

    _parts: Parts

    def __init__(
        self,
        card: ModelCard,
        *,
        batch: int,
        precision: Precision = "float32",
        model_id: str = "",
    ) -> None:
        if batch < 1:
            raise PlanError(f"batch {batch} is below 1")
        # whatever the device: blocks are prepared and merged on the host
        self._heap = keep_freed_memory()
        self._card = card
        self._precision: Precision = precision
        self._model_id = model_id

    @property
    def batch(self) -> int:
        """Patches per call."""
        return self._parts.batch

    @property
    def part(self) -> int:
        """Patches that go through the network at once, after what memory taught."""
        return self._parts.size

    @property
    def model_id(self) -> str:
        """sha256 of the weights file."""
        return self._model_id

    @property
    @abstractmethod
    def runtime(self) -> str:
        """Name of the runtime, as jobs say it."""

    @property
    @abstractmethod
    def device_name(self) -> str:
        """Name of the device for logs and locks."""

    def describe(self) -> Json:
        """Tell what may change the last bits of a result, for provenance."""
        return {
            "runtime": self.runtime,
            "device": self.device_name,
            "device_name": self.device_name,
            "precision": self._precision,
            "batch": self._parts.batch,
            "part": self._parts.size,
            "model_id": self._model_id,
        } | self._describe()

    def probe(self, size: int | tuple[int, int] | None = None) -> None:
        """Run zeros, so that a wrong card fails before any pixel.

        Parameters
        ----------
        size : int or tuple of int, (y, x), optional
            Height and width in px; default: the card's patch.

        Raises
        ------
        CardError
            If the network refuses the shape or gives another one back.
        PlanError
            If it cannot be compiled for it.
        """
        try:
            self._probe(np.zeros(probe_shape(self._card, size), np.float32))
        except BlockError as err:
            raise CardError(f"card `{self._card.name}` does not fit: {err}") from err

    def predict(self, patches: Float) -> Float:
        """Run patches; see `geoscale.types.Predictor.predict`.

        Parameters
        ----------
        patches : ndarray of float32, (n, channel, y, x)
            Finite.

        Returns
        -------
        ndarray of float32, (n, class, y, x)
            Scores after the card's activation, finite.

        Raises
        ------
        CardError
            If channels or the shape of the output differ from the card's.
        BlockError
            If the network fails, gives NaN, or one patch exceeds the memory.
        DeviceLostError
            If the device failed for good.
        """
        check_patches(patches, self._card)
        return self._parts.run(patches, self._run_checked)

    def _run_checked(self, part: Float) -> Float:
        if self._heap is not None:
            self._heap.tidy()
        scores = self._run(np.ascontiguousarray(part))
        check_output(tuple(scores.shape), part.shape, self._card)
        check_finite(scores, part, self._precision)
        return scores

    def _probe(self, patch: Float) -> None:
        """Run one patch of zeros; a whole batch, unless a runtime needs less."""
        self.predict(patch)

    @abstractmethod
    def _describe(self) -> Json:
        """Give what only this runtime tells, or tells better."""

    @abstractmethod
    def _run(self, part: Float) -> Float:
        """Run exactly `part` patches: contiguous float32 in, scores out.

        Raises
        ------
        Exception
            One that `is_out_of_memory` knows, where half the patches may do.
        """
