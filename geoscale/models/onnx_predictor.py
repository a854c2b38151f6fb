"""OnnxPredictor: a network in an ONNX file, through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import (
    BlockError,
    CardError,
    GeoscaleError,
    PlanError,
    WeightsError,
    require,
)
from geoscale.memory import allowed_cpus
from geoscale.models.device import DeviceLostError
from geoscale.models.scores import (
    activate,
    check_finite,
    check_output,
    check_patches,
    pad_to,
)
from geoscale.types import Float, Json


class OnnxPredictor:
    """An ONNX network held by this process; see `geoscale.types.Predictor`.

    Parameters
    ----------
    path : Path
        Verified file.
    card : ModelCard
        Says channels, classes, patch and activation.
    batch : int
        Patches per call; a network of fixed batch sets its own.
    device : str
        ``cpu``, ``cuda``, ``cuda:N`` or ``auto`` (CUDA if the runtime has it).
    threads : int, optional
        Threads within an operator; default: all that this process may use.
    model_id : str
        sha256 of the file.

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
    """

    def __init__(
        self,
        path: Path,
        card: ModelCard,
        *,
        batch: int,
        device: str = "cpu",
        threads: int | None = None,
        model_id: str = "",
    ) -> None:
        if batch < 1:
            raise PlanError(f"batch {batch} is below 1")
        self._path, self._card, self._model_id = path, card, model_id
        self._providers = _pick_providers(device)
        self._threads = threads or allowed_cpus()
        self._session = self._open()
        self._input, fixed = _check_input(self._session, card)
        _check_outputs(self._session, card)
        self._batch = self._part = fixed or batch

    @property
    def batch(self) -> int:
        """Patches per call."""
        return self._batch

    @property
    def model_id(self) -> str:
        """sha256 of the weights file."""
        return self._model_id

    @property
    def device_name(self) -> str:
        """Provider that runs the network."""
        return str(self._session.get_providers()[0])

    def describe(self) -> Json:
        """Tell what may change the last bits of a result, for provenance."""
        return {
            "runtime": "onnxruntime",
            "version": require("onnxruntime", extra="onnx").__version__,
            "device": self.device_name,
            "device_name": self.device_name,
            "precision": "float32",
            "batch": self._batch,
            "part": self._batch,
            "threads": self._threads,
            "model_id": self._model_id,
        }

    def set_threads(self, count: int) -> None:
        """Limit the threads of this network; the session is opened anew."""
        self._threads = count
        self._session = self._open()

    def probe(self, size: int | None = None) -> None:
        """Run one batch of zeros, so that a wrong card fails before any pixel.

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
        shape = (1, self._card.input.channels, size, size)
        try:
            self.predict(np.zeros(shape, np.float32))
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
            If the runtime fails or gives NaN.
        """
        check_patches(patches, self._card)
        n, step = len(patches), self._batch
        parts = [
            self._run(pad_to(patches[start : start + step], step))
            for start in range(0, n, step)
        ]
        return (parts[0] if len(parts) == 1 else np.concatenate(parts))[:n]

    def _run(self, part: Float) -> Float:
        try:
            out = self._session.run(None, {self._input: np.ascontiguousarray(part)})[0]
        except Exception as err:
            if "CUDA failure" in str(err) and "out of memory" not in str(err):
                raise DeviceLostError(
                    f"{self.device_name} failed: {str(err).splitlines()[0]}; this "
                    "process cannot use it any more and must be replaced"
                ) from err
            raise BlockError(
                f"ONNX Runtime failed on float32 {part.shape} (n, channel, y, x): "
                f"{str(err).splitlines()[0]}",
                phase="predict",
            ) from err
        check_output(tuple(out.shape), part.shape, self._card)
        scores = activate(np.asarray(out, np.float32), self._card.output.activation)
        check_finite(scores, part, "float32")
        return scores

    def _open(self) -> Any:
        ort = require("onnxruntime", extra="onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # spinning threads starve the readers that run beside the model
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            return ort.InferenceSession(
                str(self._path), sess_options=options, providers=self._providers
            )
        except GeoscaleError:
            raise
        except Exception as err:
            raise WeightsError(
                f"{self._path} is no ONNX network that ONNX Runtime "
                f"{ort.__version__} opens: {str(err).splitlines()[0]}"
            ) from err


def _pick_providers(device: str) -> list[Any]:
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


def _check_input(session: Any, card: ModelCard) -> tuple[str, int | None]:
    """Name of the only input and its batch, if that is fixed."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise CardError(
            f"ONNX file of `{card.name}` has {len(inputs)} inputs; one is supported"
        )
    shape = list(inputs[0].shape)
    size, channels = card.input.patch.size, card.input.channels
    wanted = [None, channels, size, size]
    fits = len(shape) == 4 and all(
        not isinstance(have, int) or want in (None, have)
        for have, want in zip(shape, wanted, strict=True)
    )
    if not fits or inputs[0].type != "tensor(float)":
        raise CardError(
            f"ONNX file of `{card.name}` takes {inputs[0].type} {shape}, but the card "
            f"says float32 (n, {channels}, {size}, {size}); mend `input.bands` or "
            "`input.patch` of the card"
        )
    return inputs[0].name, shape[0] if isinstance(shape[0], int) else None


def _check_outputs(session: Any, card: ModelCard) -> None:
    shape, count = list(session.get_outputs()[0].shape), len(card.output.classes)
    if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != count):
        raise CardError(
            f"ONNX file of `{card.name}` gives {shape}, but the card lists {count} "
            "classes: (n, class, y, x); mend `output.classes`"
        )
