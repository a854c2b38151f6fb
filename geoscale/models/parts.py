"""Batches in equal parts: smaller ones, for good, once memory has run out.

Every part has one shape, so that the same batch keeps giving the same bytes.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable

import numpy as np

from geoscale.errors import BlockError
from geoscale.models.scores import pad_to
from geoscale.types import Float

_LOG = logging.getLogger(__name__)

# how allocators beside torch's own CUDA one say that memory ran out: torch on CPUs,
# the CUDA libraries, ONNX Runtime's arena and its CUDA provider, C++ itself (OpenVINO)
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "alloc_cpu",
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    # torch tries each plan of cuDNN; where no plan gets its workspace it says this
    "unable to find an engine to execute this computation",
    "Failed to allocate memory",
    "Available memory of",
    "bad_alloc",
    "bad allocation",
)


def is_out_of_memory(err: BaseException) -> bool:
    """Tell whether a runtime failed because memory ran out.

    Parameters
    ----------
    err : BaseException
        Of torch, ONNX Runtime or OpenVINO.

    Returns
    -------
    bool
        By type (torch's own, Python's) or by the words of the message.
    """
    if isinstance(err, MemoryError) or type(err).__name__ == "OutOfMemoryError":
        return True
    # ONNX Runtime's exceptions derive from Exception alone
    known = isinstance(err, RuntimeError) or "onnxruntime" in type(err).__module__
    return known and any(word in str(err) for word in _OUT_OF_MEMORY)


class Parts:
    """How many patches of a batch go through the network at once.

    Parameters
    ----------
    batch : int
        Patches of a batch.
    where : str
        Name of the device, for messages.
    release : callable, optional
        Gives memory back to the device before the next try.
    least : int
        Fewest patches at once; more than 1 where a file fixes its batch.
    """

    def __init__(
        self,
        batch: int,
        where: str,
        release: Callable[[], None] | None = None,
        least: int = 1,
    ) -> None:
        self.batch = batch
        """Patches of a batch."""
        self.size = batch
        """Patches at once, after what memory taught."""
        self.least = least
        """Fewest patches at once."""
        self.where = where
        """Name of the device."""
        self._release = release

    def run(self, patches: Float, run_part: Callable[[Float], Float]) -> Float:
        """Run patches in parts; halve the part when memory runs out.

        Parameters
        ----------
        patches : ndarray of float32, (n, channel, y, x)
            Any number of them.
        run_part : callable
            Runs exactly `size` patches.

        Returns
        -------
        ndarray of float32, (n, class, y, x)
            Scores.

        Raises
        ------
        BlockError
            If one patch alone exceeds the memory.
        """
        while True:
            try:
                return self._run(patches, run_part)
            except Exception as err:
                if not is_out_of_memory(err):
                    raise
                message = str(err).splitlines()[0] if str(err) else repr(err)
            # outside the except block: inside it the traceback would keep the
            # tensors alive (pytorch#18853)
            self.halve(patches.shape, message)

    def halve(self, shape: tuple[int, ...], message: str) -> None:
        """Take half as many patches from now on.

        Parameters
        ----------
        shape : tuple of int, (n, channel, y, x)
            What did not fit.
        message : str
            What the runtime said.

        Raises
        ------
        BlockError
            If it was one patch already.
        """
        gc.collect()
        if self._release is not None:
            self._release()
        if self.size <= self.least:
            raise BlockError(
                f"one patch of {shape[1:]} float32 (channel, y, x) does not fit into "
                f"the memory of {self.where}: {message}; use smaller patches, "
                "precision: bfloat16, or a larger device",
                phase="predict",
            )
        self.size = (self.size + 1) // 2
        _LOG.warning(
            "out of memory on %s; from now on %d patches at once of a batch of %d",
            self.where, self.size, self.batch,
        )  # fmt: skip

    def _run(self, patches: Float, run_part: Callable[[Float], Float]) -> Float:
        n, step = len(patches), self.size
        parts = []
        for start in range(0, n, step):
            part = patches[start : start + step]
            parts.append(run_part(pad_to(part, step))[: len(part)])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
