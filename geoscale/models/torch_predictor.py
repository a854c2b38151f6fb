"""TorchPredictor: a network on one device, fixed batches, finite scores."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import BlockError, CardError, GeoscaleError, PlanError
from geoscale.models.build import freeze
from geoscale.models.device import DeviceLostError, make_cuda_repeatable, pick_device
from geoscale.models.scores import check_finite, check_output, check_patches, pad_to
from geoscale.types import Float, Json

if TYPE_CHECKING:
    import torch
    from torch import nn

_LOG = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16", "float16"]

# how allocators beside torch's own CUDA one say that memory ran out
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "alloc_cpu",
    "not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class TorchPredictor:
    """A torch network held by this process; see `geoscale.types.Predictor`.

    Parameters
    ----------
    module : torch.nn.Module
        Float32 network; put into evaluation mode.
    card : ModelCard
        Says channels, classes and activation.
    batch : int
        Patches per call.
    device : str
        See `pick_device`.
    precision : str
        ``float32``, or ``bfloat16``/``float16`` by autocast.
    model_id : str
        sha256 of the weights.
    channels_last : bool
        Keep channels innermost: about twice as fast on CPUs.

    Notes
    -----
    When memory runs out the batch is run in equal parts, each half as large,
    padded to one shape; the size that fits is kept for good, so that the same
    batch keeps giving the same bytes.
    """

    def __init__(
        self,
        module: nn.Module,
        card: ModelCard,
        *,
        batch: int,
        device: str = "cpu",
        precision: Precision = "float32",
        model_id: str = "",
        channels_last: bool = True,
    ) -> None:
        import torch

        if batch < 1:
            raise PlanError(f"batch {batch} is below 1")
        self._device = pick_device(device)
        self._card = card
        self._batch = self._part = batch
        self._precision = precision
        self._model_id = model_id
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        if self._device.type == "cuda":
            make_cuda_repeatable()
        module = freeze(module).to(self._device)
        # the stubs know only `to(memory_format=…)` by itself
        self._module: nn.Module = module.to(memory_format=self._format)

    @property
    def batch(self) -> int:
        """Patches per call."""
        return self._batch

    @property
    def part(self) -> int:
        """Patches that go through the network at once, after what memory taught."""
        return self._part

    @property
    def model_id(self) -> str:
        """sha256 of the weights file."""
        return self._model_id

    @property
    def device_name(self) -> str:
        """Name of the device for logs and provenance."""
        import torch

        if self._device.type == "cuda":
            return str(torch.cuda.get_device_name(self._device))
        return self._device.type

    def describe(self) -> Json:
        """Tell what may change the last bits of a result, for provenance."""
        import torch

        return {
            "runtime": "torch",
            "version": torch.__version__,
            "device": str(self._device),
            "device_name": self.device_name,
            "precision": self._precision,
            "batch": self._batch,
            "part": self._part,
            "threads": torch.get_num_threads(),
            "channels_last": self._format == torch.channels_last,
            "tf32": False,
            "model_id": self._model_id,
        }

    def set_threads(self, count: int) -> None:
        """Limit the CPU threads of torch in this whole process."""
        import torch

        torch.set_num_threads(count)

    def probe(self, size: int | None = None) -> None:
        """Run one patch of zeros, so that a wrong card fails before any pixel.

        Parameters
        ----------
        size : int, optional
            Height and width in px; default: the card's patch.

        Raises
        ------
        CardError
            If the network refuses the shape or gives another one back.
        """
        size = size or self._card.input.patch.size
        x = np.zeros((1, self._card.input.channels, size, size), np.float32)
        try:
            self._run_part(x)
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
        while True:
            try:
                return self._run_parts(patches)
            except Exception as err:
                if not _is_out_of_memory(err):
                    raise
                message = str(err).splitlines()[0]
            # outside the except block: inside it the traceback would keep the
            # tensors alive (pytorch#18853)
            self._halve(patches.shape, message)

    def _halve(self, shape: tuple[int, ...], message: str) -> None:
        gc.collect()
        if self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()
        if self._part == 1:
            raise BlockError(
                f"one patch of {shape[1:]} float32 (channel, y, x) does not fit into "
                f"the memory of {self.device_name}: {message}; use smaller patches, "
                "precision: bfloat16, or a larger device",
                phase="predict",
            )
        self._part = (self._part + 1) // 2
        _LOG.warning(
            "out of memory on %s; from now on %d patches at once of a batch of %d",
            self.device_name, self._part, self._batch,
        )  # fmt: skip

    def _run_parts(self, patches: Float) -> Float:
        n, step = len(patches), self._part
        parts = []
        for start in range(0, n, step):
            part = patches[start : start + step]
            parts.append(self._run_part(pad_to(part, step))[: len(part)])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run_part(self, part: Float) -> Float:
        import torch

        try:
            with torch.inference_mode():
                x = torch.from_numpy(np.ascontiguousarray(part)).to(
                    self._device, memory_format=self._format
                )
                out = self._activate(self._forward(x), part.shape)
                scores: Float = out.cpu().numpy()
        except GeoscaleError:
            raise
        except Exception as err:
            if _is_out_of_memory(err):
                raise
            if isinstance(err, torch.AcceleratorError) or "CUDA error" in str(err):
                raise DeviceLostError(
                    f"{self._device} failed: {str(err).splitlines()[0]}; this process "
                    "cannot use it any more and must be replaced"
                ) from err
            raise BlockError(
                f"the network failed on float32 {part.shape} (n, channel, y, x): {err}",
                phase="predict",
            ) from err
        check_finite(scores, part, self._precision)
        return np.ascontiguousarray(scores)

    def _forward(self, x: torch.Tensor) -> Any:
        import torch

        if self._precision == "float32":
            return self._module(x)
        dtype = getattr(torch, self._precision)
        with torch.autocast(self._device.type, dtype=dtype):
            return self._module(x)

    def _activate(self, out: Any, shape: tuple[int, ...]) -> torch.Tensor:
        logits = _take_tensor(out)
        check_output(tuple(logits.shape), shape, self._card)
        logits = logits.float()
        if self._card.output.activation == "softmax":
            return logits.softmax(1)
        if self._card.output.activation == "sigmoid":
            return logits.sigmoid()
        return logits


def _take_tensor(out: Any) -> torch.Tensor:
    import torch

    if isinstance(out, dict):
        out = out["out"] if "out" in out else next(iter(out.values()), None)
    elif isinstance(out, (tuple, list)) and out:
        out = out[0]
    if not isinstance(out, torch.Tensor):
        raise CardError(
            f"the network gave {type(out).__name__}, not a tensor, a dict with `out` "
            "or a tuple; wrap it in a module that returns (n, class, y, x)"
        )
    return out


def _is_out_of_memory(err: BaseException) -> bool:
    import torch

    return isinstance(err, torch.OutOfMemoryError) or (
        isinstance(err, RuntimeError)
        and any(word in str(err) for word in _OUT_OF_MEMORY)
    )
