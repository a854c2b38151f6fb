"""OpenvinoPredictor: a torch or ONNX network on this machine's CPU, by OpenVINO.

By `convert_model`: torch.compile's backend for OpenVINO keeps torch's own layout. What
it gives on a machine is measured there: `runtime: auto`.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
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
from geoscale.models.held import HeldPredictor, Precision
from geoscale.models.parts import Parts, is_out_of_memory
from geoscale.models.ports import Port, check_ports
from geoscale.models.scores import divide
from geoscale.types import Float, Json

if TYPE_CHECKING:
    from torch import nn

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16"}


class OpenvinoPredictor(HeldPredictor):
    """A network compiled for the CPU; see `HeldPredictor`.

    Parameters
    ----------
    network : Path or torch.nn.Module
        Verified ONNX file; or a float32 network on the CPU, in evaluation mode.
    card : ModelCard
        Says channels, classes, patch and activation.
    batch : int
        Patches per call; a file of fixed batch sets its own.
    precision : str
        ``float32``, or ``bfloat16`` where the CPU has instructions for it.
    threads : int, optional
        Default: all that this process may use.
    model_id : str
        sha256 of the file.
    core : openvino.Core, optional
        What compiles; default: a new one.

    Raises
    ------
    MissingDependencyError
        If openvino is not installed.
    PlanError
        If the CPU has no instructions for the precision.
    WeightsError
        If the file is no ONNX network.
    CardError
        If its inputs or outputs differ from the card's.
    """

    def __init__(
        self,
        network: Path | nn.Module,
        card: ModelCard,
        *,
        batch: int,
        precision: Precision = "float32",
        threads: int | None = None,
        model_id: str = "",
        core: Any = None,
    ) -> None:
        super().__init__(card, batch=batch, precision=precision, model_id=model_id)
        self._ov = import_openvino()
        self._core = core or self._ov.Core()
        check_precision(self._core, precision)
        self._network = network
        self._threads = threads or allowed_cpus()
        self._fixed = None
        if isinstance(network, Path):
            self._fixed = self._check_file(network)
        self._parts = Parts(self._fixed or batch, self.device_name)
        self._request: Any = None
        self._shape: tuple[int, ...] = ()

    @property
    def runtime(self) -> str:
        """Name of the runtime, as jobs say it."""
        return "openvino"

    @property
    def device_name(self) -> str:
        """Name of the device for logs and locks."""
        return "cpu"

    def set_threads(self, count: int) -> None:
        """Limit the threads of this network; it is compiled anew."""
        self._threads, self._shape = count, ()

    def _describe(self) -> Json:
        return {
            "version": self._ov.__version__,
            "device_name": str(self._core.get_property("CPU", "FULL_DEVICE_NAME")),
            "threads": self._threads,
        }

    def _run(self, part: Float) -> Float:
        try:
            if part.shape != self._shape:
                self._compile(part.shape)
            # the result is copied out of the request, which the next part overwrites
            given = self._request.infer([part], share_inputs=True)
            scores = np.asarray(given[0], np.float32)
            if scores.ndim == 2:  # one result for the whole patch
                scores = scores[:, :, None, None]
            # a graph of ours has both classes already
            own = isinstance(self._network, Path)
            return divide(scores, self._card) if own else scores
        except GeoscaleError:
            raise
        except Exception as err:
            if is_out_of_memory(err) and (self._fixed or 1) == 1:
                raise
            reason = str(err).strip().splitlines()
            raise BlockError(
                f"OpenVINO failed on float32 {part.shape} (n, channel, y, x): "
                f"{reason[-1] if reason else err!r}",
                phase="predict",
            ) from err

    def _compile(self, shape: tuple[int, ...]) -> None:
        """Compile for one shape: kernels are chosen, and weights laid out, for it."""
        self._request = None
        network = self._network
        if isinstance(network, Path):
            model = self._read(network)
            model.reshape(list(shape))
            model = self._activated(model)
        else:
            model = self._convert(network, shape)
        self._request = self._core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[self._precision],
                "INFERENCE_NUM_THREADS": self._threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
                # processes that share a host would all be pinned to its first cores
                "ENABLE_CPU_PINNING": False,
            },
        ).create_infer_request()
        self._shape = shape

    def _convert(self, network: nn.Module, shape: tuple[int, ...]) -> Any:
        import torch

        from geoscale.models.graph import Scores

        # softmax stays in float32 in a graph of bfloat16: the scores are the same as
        # of softmax outside of it
        whole = Scores(network, self._card).eval()
        with _logging_kept(), warnings.catch_warnings(), torch.no_grad():
            # torch warns that a trace has one shape, which is what is wanted
            warnings.simplefilter("ignore")
            try:
                return self._ov.convert_model(
                    whole, example_input=torch.zeros(shape), input=[list(shape)]
                )
            except Exception as err:
                if is_out_of_memory(err):
                    raise
                raise PlanError(
                    "runtime `openvino`: OpenVINO cannot convert this network: "
                    f"{str(err).strip().splitlines()[0]}; say runtime: torch"
                ) from err

    def _read(self, path: Path) -> Any:
        try:
            return self._core.read_model(str(path))
        except Exception as err:
            raise WeightsError(
                f"{path} is no ONNX network that OpenVINO {self._ov.__version__} "
                f"opens: {str(err).strip().splitlines()[-1]}"
            ) from err

    def _activated(self, model: Any) -> Any:
        """Append the card's activation to a file's graph."""
        from openvino import opset13 as ops

        activation = self._card.output.activation
        if activation == "none":
            return model
        result = model.output(0).get_node()
        logits = result.input_value(0)
        made = ops.sigmoid(logits)
        if activation == "softmax":
            made = ops.softmax(logits, axis=1)
        result.input(0).replace_source_output(made.output(0))
        model.validate_nodes_and_infer_types()
        return model

    def _check_file(self, path: Path) -> int | None:
        model = self._read(path)
        sides = [
            [_read_port(number, port) for number, port in enumerate(side)]
            for side in (model.inputs, model.outputs)
        ]
        return check_ports(sides[0], sides[1], self._card)[1]


def import_openvino() -> ModuleType:
    """Import OpenVINO, which then tells nobody of it.

    Returns
    -------
    ModuleType
        ``openvino``.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    # It sends an event over the network on import and at every conversion, unless its
    # telemetry package cannot be imported; there is no setting for one process.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    found = require("openvino", extra="openvino")
    # Whoever imported OpenVINO before let it in: what holds it gets the stub.
    for name, module in list(sys.modules.items()):
        if name.startswith("openvino.tools.ovc") and hasattr(module, "tm"):
            stub = importlib.import_module("openvino.tools.ovc.telemetry_stub")
            module.tm = stub  # type: ignore[attr-defined]
    return found


def check_precision(core: Any, precision: str) -> None:
    """Refuse a precision for which the CPU has no instructions.

    OpenVINO itself would take another one and not say so.

    Parameters
    ----------
    core : openvino.Core
        Or what tells the same properties.
    precision : str
        As in `ModelSettings`.

    Raises
    ------
    PlanError
        Naming what would work.
    """
    needed = _CAPABILITIES.get(precision)
    known = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if needed is None or needed in known:
        return
    others = [name for name, word in _CAPABILITIES.items() if word in known]
    raise PlanError(
        f"precision {precision}: OpenVINO has no {needed} arithmetic on this CPU; say "
        f"precision: {' or '.join(['float32', *others])}"
    )


def _read_port(number: int, port: Any) -> Port:
    names = sorted(port.get_names())
    kind = port.get_element_type().get_type_name()
    shape: list[int | str | None] = [
        d.get_length() if d.is_static else None for d in port.get_partial_shape()
    ]
    return Port(names[0] if names else str(number), kind == "f32", kind, shape)


@contextlib.contextmanager
def _logging_kept() -> Iterator[None]:
    """Give the root logger back as it was.

    A conversion that fails leaves it at ERROR: nobody's warnings would be seen.
    """
    root = logging.getLogger()
    before = root.level, list(root.filters), list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(before[0])
        root.filters, root.handlers = before[1:]
