"""OnnxPredictor: a network in an ONNX file, through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import (
    BlockError,
    GeoscaleError,
    PlanError,
    WeightsError,
    require,
)
from geoscale.memory import allowed_cpus
from geoscale.models.device import DeviceLostError
from geoscale.models.held import HeldPredictor
from geoscale.models.parts import Parts, is_out_of_memory
from geoscale.models.ports import Port, check_ports
from geoscale.models.scores import activate, check_logits, check_output, divide
from geoscale.types import Array, Bool, Canvas, CanvasSpec, Float, Json

if TYPE_CHECKING:
    import torch

Export = Callable[[int], bytes]
"""Patches at once → an ONNX file for so many, which gives scores."""


class OnnxPredictor(HeldPredictor):
    """An ONNX network held by this process; see `HeldPredictor`.

    Parameters
    ----------
    network : Path or callable
        Verified file; or what exports a torch network for so many patches.
    card : ModelCard
        Says channels, classes, patch and activation.
    batch : int
        Patches per call; a file of fixed batch sets its own.
    device : str
        ``cpu``, ``cuda``, ``cuda:N`` or ``auto`` (CUDA if the runtime has it).
    threads : int, optional
        Threads within an operator; default: all that this process may use.
    model_id : str
        sha256 of the file.
    open_session : callable, optional
        Makes a session of a path or bytes, options and providers; default:
        ``onnxruntime.InferenceSession``.

    Raises
    ------
    MissingDependencyError
        If onnxruntime is not installed.
    WeightsError
        If the file is no ONNX network.
    CardError
        If its inputs or outputs differ from the card's.
    PlanError
        If the device is absent.

    Notes
    -----
    The batch of a file that fixes it cannot be halved when memory runs out.
    """

    def __init__(
        self,
        network: Path | Export,
        card: ModelCard,
        *,
        batch: int,
        device: str = "cpu",
        threads: int | None = None,
        model_id: str = "",
        open_session: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(card, batch=batch, model_id=model_id)
        self._network = network
        self._providers = pick_providers(device)
        self._threads = threads or allowed_cpus()
        self._open_session = open_session
        self.offers_canvas = self._providers[0] != "CPUExecutionProvider"
        """Whether blocks are kept on the device; see `CanvasPredictor`."""
        # only a file's own logits are still to be activated
        self._activation = card.output.activation
        if not isinstance(network, Path):
            self._activation = "none"
        self._session, self._opened_for = self._open(batch), batch
        self._input, self._fixed = _check_session(self._session, card, network)

        fixed = self._fixed
        self._parts = Parts(fixed or batch, self.device_name, least=fixed or 1)

    @property
    def runtime(self) -> str:
        """Name of the runtime, as jobs say it."""
        return "onnx"

    @property
    def device_name(self) -> str:
        """Provider that runs the network."""
        return str(self._session.get_providers()[0])

    def set_threads(self, count: int) -> None:
        """Limit the threads of this network; the session is opened anew."""
        self._threads = count
        self._session = self._open(self._parts.size)

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
        import torch

        from geoscale.models.device_path import Network, open_canvas

        kind, number = self._torch_device()
        network = Network(
            run=self._bind,
            device=torch.device(kind, number) if kind == "cuda" else torch.device(kind),
            parts=self._parts,
            card=self._card,
            precision="float32",
            layout=torch.contiguous_format,
        )
        return open_canvas(network, spec, data, valid)

    def _describe(self) -> Json:
        kind, number = self._torch_device()
        return ({"device": f"cuda:{number}"} if kind == "cuda" else {}) | {
            "version": require("onnxruntime", extra="onnx").__version__,
            "threads": self._threads,
            "exported": not isinstance(self._network, Path),
            "canvas": self.offers_canvas,
        }

    def _torch_device(self) -> tuple[str, int]:
        chosen = self._providers[0]
        if isinstance(chosen, tuple):
            return "cuda", int(chosen[1]["device_id"])
        return "cpu", 0

    def _bind(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of a batch that is on the device, which they do not leave."""
        import torch

        self._fit_session()
        kind, number = self._torch_device()
        count = self._card.output.width
        if isinstance(self._network, Path):
            count = self._card.output.channels
        shape = (len(x), count, *x.shape[2:])
        out = torch.empty(shape, dtype=torch.float32, device=x.device)
        binding = self._session.io_binding()
        binding.bind_input(
            self._input, kind, number, np.float32, tuple(x.shape), x.data_ptr()
        )
        binding.bind_output(
            self._session.get_outputs()[0].name, kind, number, np.float32, shape,
            out.data_ptr(),
        )  # fmt: skip
        # ONNX Runtime has a stream of its own: what torch was told must be done first
        if kind == "cuda":
            torch.cuda.current_stream(x.device).synchronize()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        if self._activation == "softmax":
            return out.softmax(1)
        if self._activation == "sigmoid":
            out = out.sigmoid()
        if count < self._card.output.width:
            return torch.cat([1 - out, out], 1)
        return out

    def _fit_session(self) -> None:
        """Export again for fewer patches once memory has taught so."""
        if isinstance(self._network, Path) or self._opened_for == self._parts.size:
            return
        self._session, self._opened_for = self._open(self._parts.size), self._parts.size

    def _run(self, part: Float) -> Float:
        self._fit_session()
        try:
            out = self._session.run(None, {self._input: part})[0]
        except Exception as err:
            raise self._explain(err, part.shape) from err
        if np.ndim(out) == 2:  # one result for the whole patch
            out = np.asarray(out)[:, :, None, None]
        # a wrong shape gets its own words before activation trips over it
        own = isinstance(self._network, Path)
        check = check_logits if own else check_output
        check(tuple(out.shape), part.shape, self._card)
        scores = activate(np.asarray(out, np.float32), self._activation)
        return divide(scores, self._card) if own else scores

    def _explain(self, err: Exception, shape: tuple[int, ...]) -> Exception:
        """Memory ran out (halve, if the file lets us), or what cannot be mended."""
        reason = str(err).splitlines()[0] if str(err) else repr(err)
        if is_out_of_memory(err):
            if self._fixed is None or self._fixed == 1:
                return err
            return BlockError(
                f"the batch of {self._fixed} patches that {self._network} fixes does "
                f"not fit into the memory of {self.device_name}: {reason}; export it "
                "with a free batch, or use a larger device",
                phase="predict",
            )
        if "CUDA failure" in str(err):
            return DeviceLostError(
                f"{self.device_name} failed: {reason}; this process cannot use it any "
                "more and must be replaced"
            )
        return BlockError(
            f"ONNX Runtime failed on float32 {shape} (n, channel, y, x): {reason}",
            phase="predict",
        )

    def _open(self, part: int) -> Any:
        ort = require("onnxruntime", extra="onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # spinning between two runs would starve the readers beside the model
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        network = self._network
        make = self._open_session or ort.InferenceSession
        try:
            return make(
                str(network) if isinstance(network, Path) else network(part),
                sess_options=options,
                providers=self._providers,
            )
        except GeoscaleError:
            raise
        except Exception as err:
            if is_out_of_memory(err):
                raise
            raise WeightsError(
                f"{network} is no ONNX network that ONNX Runtime "
                f"{ort.__version__} opens: {str(err).splitlines()[0]}"
            ) from err


def pick_providers(device: str) -> list[Any]:
    """Name what runs a network on a device, in ONNX Runtime's words.

    Raises
    ------
    PlanError
        If the device is absent.
    """
    ort = require("onnxruntime", extra="onnx")
    here = ort.get_available_providers()
    kind, _, number = device.partition(":")
    if kind == "auto":
        kind = "cuda" if "CUDAExecutionProvider" in here else "cpu"
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    if kind != "cuda":
        raise PlanError(f"ONNX Runtime runs on cpu or cuda here, not `{device}`")
    if "CUDAExecutionProvider" not in here:
        raise PlanError(
            f"device `{device}`: this onnxruntime has {', '.join(here)}; install "
            "onnxruntime-gpu, or say device: cpu"
        )
    return [("CUDAExecutionProvider", {"device_id": int(number or 0), "use_tf32": 0})]


def _check_session(
    session: Any, card: ModelCard, network: Path | Export
) -> tuple[str, int | None]:
    """Name of the only input and its batch, if the file fixes that."""
    ports = [
        [Port(p.name, p.type == "tensor(float)", p.type, list(p.shape)) for p in side]
        for side in (session.get_inputs(), session.get_outputs())
    ]
    if not isinstance(network, Path):
        return ports[0][0].name, None
    return check_ports(ports[0], ports[1], card)
