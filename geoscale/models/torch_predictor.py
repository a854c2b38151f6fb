"""TorchPredictor: a network on one device, fixed batches, finite scores."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import BlockError, CardError, GeoscaleError, PlanError
from geoscale.memory import keep_freed_memory
from geoscale.models.build import freeze
from geoscale.models.device import DeviceLostError, make_cuda_repeatable, pick_device
from geoscale.models.parts import Parts, is_out_of_memory
from geoscale.models.ports import probe_shape
from geoscale.models.scores import check_finite, check_output, check_patches
from geoscale.types import Array, Bool, Canvas, CanvasSpec, Float, Json

if TYPE_CHECKING:
    import torch
    from torch import nn

_LOG = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16", "float16"]


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
    compiled : bool
        Let torch.compile make code for the network; `probe` then takes a minute.

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
        compiled: bool = False,
    ) -> None:
        import torch

        from geoscale.models.graph import Scores

        if batch < 1:
            raise PlanError(f"batch {batch} is below 1")
        self._device = pick_device(device)
        self._card = card
        self._precision = precision
        self._model_id = model_id
        self._format = torch.channels_last
        self.offers_canvas = self._device.type == "cuda"
        """Whether blocks are kept on the device; see `CanvasPredictor`."""
        if self._device.type == "cuda":
            make_cuda_repeatable()
        self._keeps_memory = self._device.type == "cpu" and keep_freed_memory()
        self._parts = Parts(batch, self.device_name, self._release)
        self._network: Any = Scores(freeze(module).to(self._device), card).eval()
        self._network.to(memory_format=self._format)
        self._compiled = compiled
        self._shapes: set[tuple[int, ...]] = set()
        if compiled:
            # Static shapes: a batch is filled up, so there is one. `freezing` was
            # slower on a U-Net (0.20 against 0.40 Mpx/s) and took twice as long.
            self._network = torch.compile(self._network, dynamic=False)

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
            "runtime": "compile" if self._compiled else "torch",
            "version": torch.__version__,
            "device": str(self._device),
            "device_name": self.device_name,
            "precision": self._precision,
            "batch": self._parts.batch,
            "part": self._parts.size,
            "threads": torch.get_num_threads(),
            "channels_last": True,
            "canvas": self.offers_canvas,
            "tf32": False,
            "model_id": self._model_id,
        }

    def set_threads(self, count: int) -> None:
        """Limit the CPU threads of torch in this whole process."""
        import torch

        torch.set_num_threads(count)

    def probe(self, size: int | tuple[int, int] | None = None) -> None:
        """Run zeros, so that a wrong card fails before any pixel.

        One patch; a compiled network gets a whole batch, since it is compiled for
        that one shape: now, not in the middle of a block.

        Parameters
        ----------
        size : int or tuple of int, (y, x), optional
            Height and width in px; default: the card's patch.

        Raises
        ------
        CardError
            If the network refuses the shape or gives another one back.
        PlanError
            If it cannot be compiled.
        """
        shape = probe_shape(self._card, size)
        x = np.zeros((1, *shape[1:]), np.float32)
        try:
            if self._compiled:
                self.predict(x)
            else:
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
        return self._parts.run(patches, self._run_part)

    def open_canvas(self, spec: CanvasSpec, data: Array, valid: Bool) -> Canvas | None:
        """Keep a block on the device; see `geoscale.types.CanvasPredictor`.

        Parameters
        ----------
        spec : CanvasSpec
            The block.
        data : ndarray, (time, band, y, x)
            Calibrated pixels, or the network's input.
        valid : ndarray of bool, (time, y, x)
            Where they are usable.

        Returns
        -------
        Canvas or None
            None where the device's memory does not do.
        """
        from geoscale.models.device_path import Network, open_canvas

        network = Network(
            run=self._forward,
            device=self._device,
            parts=self._parts,
            card=self._card,
            precision=self._precision,
            layout=self._format,
        )
        return open_canvas(network, spec, data, valid)

    def _release(self) -> None:
        import torch

        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _run_part(self, part: Float) -> Float:
        import torch

        try:
            with torch.inference_mode():
                x = torch.from_numpy(np.ascontiguousarray(part)).to(
                    self._device, memory_format=self._format
                )
                scores: Float = self._forward(x).cpu().numpy()
        except GeoscaleError:
            raise
        except Exception as err:
            if is_out_of_memory(err):
                raise
            raise explain_failure(err, str(self._device), part.shape) from err
        check_output(tuple(scores.shape), part.shape, self._card)
        check_finite(scores, part, self._precision)
        return scores

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of a batch on the device; called without gradients."""
        import torch

        if self._compiled and tuple(x.shape) not in self._shapes:
            _LOG.info("compiling for batches of %s; may take minutes", tuple(x.shape))
            self._shapes.add(tuple(x.shape))
        low = (
            nullcontext()
            if self._precision == "float32"
            else torch.autocast(
                self._device.type, dtype=getattr(torch, self._precision)
            )
        )
        try:
            with low:
                scores: torch.Tensor = self._network(x)
        except Exception as err:
            if self._compiled and _is_no_compiler(err):
                raise PlanError(
                    "runtime `compile` found no compiler that works: "
                    f"{str(err).splitlines()[0]}; install g++, or say runtime: torch"
                ) from err
            raise
        return scores


def explain_failure(
    err: Exception, device: str, shape: tuple[int, ...]
) -> GeoscaleError:
    """Make a runtime's exception ours: the device is lost, or the network failed.

    Parameters
    ----------
    err : Exception
        As torch raised it, or ONNX Runtime on torch's tensors.
    device : str
        Its name.
    shape : tuple of int, (n, channel, y, x)
        Of the batch.

    Returns
    -------
    GeoscaleError
        To be raised from `err`.
    """
    import torch

    reason = str(err).splitlines()[0] if str(err) else repr(err)
    if isinstance(err, torch.AcceleratorError) or any(
        word in str(err) for word in ("CUDA error", "CUDA failure")
    ):
        return DeviceLostError(
            f"{device} failed: {reason}; this process cannot use it any more and must "
            "be replaced"
        )
    return BlockError(
        f"the network failed on float32 {shape} (n, channel, y, x): {err}",
        phase="predict",
    )


def _is_no_compiler(err: BaseException) -> bool:
    words = ("InvalidCxxCompiler", "No working C++ compiler", "CppCompileError")
    text = f"{type(err).__name__} {err}"
    return any(word in text for word in words)
