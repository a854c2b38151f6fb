"""Detectors of torch and of ONNX Runtime, from their cards."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import BlockError, CardError, GeoscaleError, PlanError, require
from geoscale.memory import allowed_cpus
from geoscale.models.build import build_module
from geoscale.models.device import make_cuda_repeatable, pick_device
from geoscale.models.held_detector import Forward, HeldDetector
from geoscale.models.onnx_predictor import pick_providers
from geoscale.models.own_thread import call, call_on
from geoscale.models.parts import Parts, is_out_of_memory
from geoscale.models.runtimes import ModelSettings, check_patch, is_onnx, pick_batch
from geoscale.models.torch_predictor import explain_failure
from geoscale.models.weights import resolve_weights
from geoscale.types import Float, Json

if TYPE_CHECKING:
    import torch
    from torch import nn

_LOG = logging.getLogger(__name__)


def load_detector(card: ModelCard, settings: ModelSettings) -> HeldDetector:
    """Load a detector and run zeros through it.

    Parameters
    ----------
    card : ModelCard
        Of task detection.
    settings : ModelSettings
        How to run it: its file decides about the runtime, the arithmetic is float32.

    Returns
    -------
    HeldDetector
        Probed; see `geoscale.models.get_detector`, which keeps them.

    Raises
    ------
    CardError
        If the card does not fit the network.
    PlanError
        If the device is absent, or another runtime is asked for.
    """
    # building a network computes too, and a team of threads once made stays
    return call(_load, card, settings)


def _load(card: ModelCard, settings: ModelSettings) -> HeldDetector:
    patch = check_patch(card, settings)
    path, sha256 = resolve_weights(card, expected_sha256=settings.expected_sha256)
    onnx = is_onnx(card, path)
    own = ("native", "onnx" if onnx else "torch")
    if settings.runtime not in own or settings.precision != "float32":
        raise PlanError(
            f"`{card.name}` is a detector, which runs in float32 by runtime {own[1]}; "
            "leave `inference.runtime` and `inference.precision` out"
        )
    device = settings.device if onnx else str(pick_device(settings.device))
    batch = settings.batch
    if batch == "auto":
        batch = pick_batch(max(patch), "cpu" if device == "auto" else device)
    more: dict[str, Any] = {"batch": batch, "device": device, "model_id": sha256}
    more["threads"] = settings.threads
    if onnx:
        found = open_onnx(path, card, **more)
    else:
        from geoscale.models.programs import pick_fixed_batch

        module = build_module(card, path, trust_code=settings.trust_code)
        more["batch"] = pick_fixed_batch(module, batch)
        found = open_torch(module, card, **more)
    found.probe(patch)
    _LOG.info("loaded %s: %s", card.name, found.describe())
    return found


def open_torch(
    module: nn.Module,
    card: ModelCard,
    *,
    batch: int,
    device: str,
    model_id: str,
    threads: int | None,
) -> HeldDetector:
    """Hold a detector of torch.

    Parameters
    ----------
    module : torch.nn.Module
        Frozen.
    card : ModelCard
        Says the form.
    batch : int
        Patches per call; of the form ``torchvision`` as many as there are threads.
    device : str
        See `geoscale.models.pick_device`.
    model_id : str
        sha256 of the weights.
    threads : int, optional
        CPU threads of torch.

    Returns
    -------
    HeldDetector
        Not probed.
    """
    import torch

    where = pick_device(device)
    if where.type == "cuda":
        make_cuda_repeatable()
    module = module.to(where)
    count = threads or allowed_cpus()
    spec = card.output.detection
    assert spec is not None
    if spec.form == "torchvision":
        forward = _each_alone(module, card, where, count)
        batch, count = (count, 1) if where.type == "cpu" else (1, count)
    else:
        call(torch.set_num_threads, count)
        forward = _together(module, card, where)
    name, release = where.type, None
    if where.type == "cuda":
        name, release = str(torch.cuda.get_device_name(where)), torch.cuda.empty_cache
    told = {
        "runtime": "torch",
        "version": torch.__version__,
        "threads": count,
        "device": str(where),
    }
    return HeldDetector(
        forward, card, parts=Parts(batch, name, release), model_id=model_id, told=told,
        parameters=sum(p.numel() for p in module.parameters()) or None,
    )  # fmt: skip


def _together(module: nn.Module, card: ModelCard, where: torch.device) -> Forward:
    """Run the patches of a batch as one tensor."""
    import torch

    from geoscale.models.graph import take_tensor

    def _compute(patches: Float) -> Any:
        with torch.inference_mode():
            x = torch.from_numpy(patches).to(where)
            return take_tensor(module(x), card.output.take).cpu().numpy()

    def _forward(patches: Float) -> Any:
        with _explained(where, patches):
            return call_on(str(where), _compute, patches)

    return _forward


def _each_alone(
    module: nn.Module, card: ModelCard, where: torch.device, threads: int
) -> Forward:
    """Run each patch for itself, on a CPU several at a time with one thread each.

    The second stage of such networks multiplies matrices whose size is the number of
    proposals of a whole batch, and whose last bits hang on it and on the number of
    threads: so a patch is never in a batch, and never has more than one thread.
    """
    import torch

    def _compute(patch: Float) -> Json:
        with torch.inference_mode():
            out = module([torch.from_numpy(patch).to(where)])
        return _to_arrays(out[0], card)

    if where.type != "cpu":

        def _forward(patches: Float) -> Any:
            with _explained(where, patches):
                return [call_on(str(where), _compute, patch) for patch in patches]

        return _forward
    pool = ThreadPoolExecutor(
        threads,
        thread_name_prefix="geoscale-detector",
        initializer=torch.set_num_threads,
        initargs=(1,),
    )

    def _spread(patches: Float) -> Any:
        with _explained(where, patches):
            return list(pool.map(_compute, patches))

    return _spread


@contextmanager
def _explained(where: torch.device, patches: Float) -> Iterator[None]:
    """Make what torch raises ours; what tells of memory stays as it is."""
    try:
        yield
    except GeoscaleError:
        raise
    except Exception as err:
        if is_out_of_memory(err):
            raise
        raise explain_failure(err, str(where), patches.shape) from err


def _to_arrays(out: Any, card: ModelCard) -> Json:
    if not isinstance(out, Mapping):
        raise CardError(
            f"`{card.name}` gave {type(out).__name__} for an image, not a dict; mend "
            "`output.detection.form` of the card"
        )
    return {str(k): v.cpu().numpy() for k, v in out.items()}


def open_onnx(
    path: Path,
    card: ModelCard,
    *,
    batch: int,
    device: str,
    model_id: str,
    threads: int | None,
) -> HeldDetector:
    """Hold a detector in an ONNX file.

    Parameters
    ----------
    path : Path
        Verified file.
    card : ModelCard
        Says the form.
    batch : int
        Patches per call; a file of fixed batch sets its own.
    device : str
        ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
    model_id : str
        sha256 of the file.
    threads : int, optional
        Threads within an operator; default: all that this process may use.

    Returns
    -------
    HeldDetector
        Not probed.

    Raises
    ------
    CardError
        If the form is ``torchvision``, or the file has several inputs.
    PlanError
        If the file cannot be opened, or takes another size.
    """
    ort = require("onnxruntime", extra="onnx")
    spec = card.output.detection
    assert spec is not None
    if spec.form == "torchvision":
        raise CardError(
            f"`{card.name}`: `form: torchvision` is for networks of torch; say the "
            "form of the file's tensor, or name `architecture` and weights"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or allowed_cpus()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    providers = pick_providers(device)
    try:
        session = ort.InferenceSession(
            str(path), sess_options=options, providers=providers
        )
    except Exception as err:
        raise PlanError(
            f"{path} is no ONNX network that ONNX Runtime {ort.__version__} opens: "
            f"{str(err).splitlines()[0]}"
        ) from err
    ports = session.get_inputs()
    if len(ports) != 1:
        raise CardError(
            f"ONNX file of `{card.name}` has {len(ports)} inputs; one is supported"
        )
    fixed = ports[0].shape[0] if isinstance(ports[0].shape[0], int) else None

    def _forward(patches: Float) -> Any:
        try:
            return session.run(None, {ports[0].name: np.ascontiguousarray(patches)})[0]
        except Exception as err:
            if is_out_of_memory(err):
                raise
            raise BlockError(
                f"ONNX Runtime failed on float32 {patches.shape} (n, channel, y, x): "
                f"{str(err).splitlines()[0]}",
                phase="predict",
            ) from err

    told = {
        "runtime": "onnx",
        "version": ort.__version__,
        "threads": options.intra_op_num_threads,
    }
    name = str(session.get_providers()[0])
    return HeldDetector(
        _forward,
        card,
        parts=Parts(fixed or batch, name, least=fixed or 1),
        model_id=model_id,
        told=told,
    )
