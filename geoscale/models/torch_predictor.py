"""TorchPredictor: a network on one device, fixed batches, finite scores."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from geoscale.card import ModelCard
from geoscale.errors import BlockError, GeoscaleError, PlanError
from geoscale.models.build import freeze
from geoscale.models.device import (
    DeviceLostError,
    make_cuda_repeatable,
    pick_device,
    uses_tf32,
)
from geoscale.models.held import HeldPredictor, Precision
from geoscale.models.own_thread import call, call_on
from geoscale.models.parts import Parts, is_out_of_memory
from geoscale.types import Array, Bool, Canvas, CanvasSpec, Float, Json

if TYPE_CHECKING:
    import torch
    from torch import nn

    from geoscale.models.dropping import Masks

_LOG = logging.getLogger(__name__)

_NO_VIEW = ("view size is not compatible", "Cannot view a tensor")
"""What torch and its compiler say where a network flattens by `view`, as many do before
their last layers: that is for planes in order."""


class TorchPredictor(HeldPredictor):
    """A torch network held by this process; see `HeldPredictor`.

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

        super().__init__(card, batch=batch, precision=precision, model_id=model_id)
        self._device = pick_device(device)
        self._format = pick_layout(self._device.type, precision)
        self.offers_canvas = self._device.type == "cuda"
        """Whether blocks are kept on the device; see `CanvasPredictor`."""
        if self._device.type == "cuda":
            make_cuda_repeatable()
        self._parts = Parts(batch, self.device_name, self._release)
        self._network: Any = Scores(freeze(module).to(self._device), card).eval()
        self._network.to(memory_format=self._format)
        self.masks: Masks | None = None
        """What is left out of the network, where anything can be."""
        self._compiled = compiled
        self._shapes: set[tuple[int, ...]] = set()
        if compiled:
            # static shapes: a batch is filled up, so there is one
            self._network = torch.compile(self._network, dynamic=False)

    @property
    def runtime(self) -> str:
        """Name of the runtime, as jobs say it."""
        return "compile" if self._compiled else "torch"

    @property
    def device_name(self) -> str:
        """Name of the device for logs and provenance."""
        import torch

        if self._device.type == "cuda":
            return str(torch.cuda.get_device_name(self._device))
        return self._device.type

    def set_threads(self, count: int) -> None:
        """Limit the CPU threads of torch in this whole process."""
        import torch

        # OpenMP keeps this number for each thread
        call(torch.set_num_threads, count)

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

    def _describe(self) -> Json:
        import torch

        return {
            "version": torch.__version__,
            "device": str(self._device),
            "threads": call(torch.get_num_threads),
            "channels_last": self._format == torch.channels_last,
            "canvas": self.offers_canvas,
            "tf32": self._device.type == "cuda" and uses_tf32(),
        }

    def _probe(self, patch: Float) -> None:
        import torch

        try:
            self._try(patch)
        except BlockError as err:
            if not any(word in str(err) for word in _NO_VIEW):
                raise
            _LOG.info(
                "%s: its network wants planes, not channels last", self._card.name
            )
            self._format = torch.contiguous_format
            self._network.to(memory_format=self._format)
            self._try(patch)

    def _try(self, patch: Float) -> None:
        # A compiled network gets a whole batch, since it is compiled for that one
        # shape, and cuDNN plans for it: now, not in the middle of a block.
        if self._compiled or self._device.type == "cuda":
            self.predict(patch)
        else:
            self._run_checked(patch)

    def _run(self, part: Float) -> Float:
        return call_on(str(self._device), self._compute, part)

    def _compute(self, part: Float) -> Float:
        import torch

        if self.masks is not None:
            self.masks.begin(part)
        try:
            with torch.inference_mode():
                x = torch.from_numpy(part).to(self._device, memory_format=self._format)
                scores: Float = self._forward(x).cpu().numpy()
        except GeoscaleError:
            raise
        except Exception as err:
            if is_out_of_memory(err):
                raise
            raise explain_failure(err, str(self._device), part.shape) from err
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


def pick_layout(device: str, precision: str) -> torch.memory_format:
    """Choose in which order a network's arrays lie in memory.

    Parameters
    ----------
    device : str
        ``cpu``, ``cuda`` or ``mps``.
    precision : str
        As of `TorchPredictor`.

    Returns
    -------
    torch.memory_format
        Pixel by pixel, except for float32 on CUDA: there tensor cores, which want
        that, are not used, and planes are a tenth to two fifths faster.
    """
    import torch

    if device == "cuda" and precision == "float32":
        return torch.contiguous_format
    return torch.channels_last


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
    words = (
        "InvalidCxxCompiler",
        "No working C++ compiler",
        "CppCompileError",
        "Failed to find C compiler",  # triton, which makes code for CUDA
    )
    text = f"{type(err).__name__} {err}"
    return any(word in text for word in words)
