"""Check a model: weights, keys, one patch, and what it needs around it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import CardError
from geoscale.models.measure import find_context
from geoscale.models.runtimes import ModelSettings, load_predictor
from geoscale.models.weights import resolve_weights
from geoscale.preprocess import Preprocessor
from geoscale.types import Float, Json

if TYPE_CHECKING:
    from collections.abc import Iterator

HALO_LIMIT_PX = 64
"""Largest ring that is tried."""
_RUNS = 3


@dataclass(slots=True, kw_only=True)
class Checked:
    """What `check_model` found."""

    name: str
    """Of the card."""
    task: str
    """Of the card."""
    weights: str
    """Local file."""
    sha256: str
    """Of it."""
    bytes: int
    """Its size."""
    parameters: int | None
    """Numbers in the network; None where the file holds it (ONNX)."""
    input: tuple[int, ...]
    """Shape of the patch that was run, (1, channel, y, x)."""
    output: tuple[int, ...]
    """What came: (1, class or feature, y, x)."""
    dtype: str
    """Of it."""
    seconds: float
    """Least time of one patch."""
    mpx_s: float
    """Input pixels of the patch by it, in millions per second."""
    halo: int | None = None
    """Measured, in px; None where there is none, or it was not measured."""
    alignment: int | None = None
    """Measured, in px."""
    found: int | None = None
    """Detections of a detector that reach its card's least score, in noise."""
    context: str = ""
    """What there is to say about halo and alignment."""
    said: list[str] = field(default_factory=list)
    """What was mended or left out while the weights were loaded."""

    def to_json(self) -> Json:
        """Plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


def check_model(
    card: ModelCard,
    *,
    trust_code: bool = False,
    measure: bool = True,
    limit: int = HALO_LIMIT_PX,
) -> Checked:
    """Load a model, run one patch, and measure halo and alignment.

    Parameters
    ----------
    card : ModelCard
        The model.
    trust_code : bool
        Allow Python code that the card brings along.
    measure : bool
        Also find the smallest ring at which a tile equals the whole image, and
        the step on whose multiples tiles must start.
    limit : int
        Largest ring that is tried, in px.

    Returns
    -------
    Checked
        Figures; nothing of the card was changed.

    Raises
    ------
    CardError
        If the card does not fit the network.
    WeightsError
        If the weights are missing, changed, unsafe, or their keys do not fit.
    """
    path, sha256 = resolve_weights(card)
    patch = card.input.patch
    image = make_image(card, patch.size, patch.size, trust_code=trust_code)
    if card.task == "detection":
        return _check_detector(card, image, (path, sha256), trust_code, measure)
    with _listening() as said:
        run, parameters = _open(card, trust_code)
    given = image[None]
    out = run(given)
    seconds = min(_time(run, given) for _ in range(_RUNS))
    found = Checked(
        name=card.name,
        task=card.task,
        weights=str(path),
        sha256=sha256,
        bytes=path.stat().st_size,
        parameters=parameters,
        input=tuple(given.shape),
        output=tuple(out.shape),
        dtype=str(out.dtype),
        seconds=seconds,
        mpx_s=patch.size**2 / 1e6 / seconds,
        said=said,
    )
    if measure:
        _measure(found, card, run, limit, trust_code)
    return found


def _check_detector(
    card: ModelCard,
    image: Float,
    file: tuple[Path, str],
    trust_code: bool,
    measure: bool,
) -> Checked:
    from geoscale.models.check_detector import measure_reach, try_detector

    with _listening() as said:
        tried = try_detector(card, image, trust_code=trust_code)
    given = np.repeat(image[None], tried.detector.batch, axis=0)
    each = [_time(tried.detector.detect, given) for _ in range(_RUNS)]
    seconds = min(each) / len(given)
    return Checked(
        name=card.name,
        task=card.task,
        weights=str(file[0]),
        sha256=file[1],
        bytes=file[0].stat().st_size,
        parameters=tried.detector.parameters,
        input=(1, *image.shape),
        output=tried.output,
        dtype=tried.dtype,
        seconds=seconds,
        mpx_s=image[0].size / 1e6 / seconds,
        found=tried.found,
        context=measure_reach(card, tried, image) if measure else "",
        said=said,
    )


def make_image(
    card: ModelCard, height: int, width: int, *, trust_code: bool = False
) -> Float:
    """Make noise in the range that a network was trained on.

    Parameters
    ----------
    card : ModelCard
        The model.
    height, width : int
        In px.
    trust_code : bool
        Allow the card's own normalisation.

    Returns
    -------
    ndarray of float32, (channel, y, x)
        The network's input.
    """
    rng = np.random.default_rng(0)
    spec = card.input
    shape = (spec.frames, len(spec.bands), height, width)
    if spec.normalization.type == "mean-std":
        noise = rng.normal(size=(spec.channels, height, width))
        return np.ascontiguousarray(noise, np.float32)
    top = 0.6 if spec.units == "reflectance" else 255.0
    data = (rng.uniform(0, top, shape) * spec.multiply).astype(np.float32)
    prepare = Preprocessor.from_card(card, trust_code).prepare
    return prepare(data, np.ones((spec.frames, height, width), bool))[0]


def _open(
    card: ModelCard, trust_code: bool
) -> tuple[Callable[[Float], Float], int | None]:
    """Give the network as a function of patches; scores are not squeezed yet."""
    if card.task == "backbone":
        import torch

        from geoscale.models.build import build_module

        module = build_module(card, resolve_weights(card)[0], trust_code=trust_code)

        def run(x: Float) -> Float:
            with torch.inference_mode():
                out = module(torch.from_numpy(x))
            found: Float = out.numpy()
            return found

        return run, sum(p.numel() for p in module.parameters())
    raw = card.output.model_copy(update={"activation": "none"})
    settings = ModelSettings(device="cpu", batch=1, trust_code=trust_code)
    predictor = load_predictor(card.model_copy(update={"output": raw}), settings)
    network: Any = getattr(predictor, "_network", None)
    count = None
    if hasattr(network, "parameters"):
        count = sum(p.numel() for p in network.parameters())
    return predictor.predict, count


def _measure(
    found: Checked,
    card: ModelCard,
    run: Callable[[Float], Float],
    limit: int,
    trust_code: bool,
) -> None:
    patch = card.input.patch
    if card.task == "backbone":
        found.context = "not measured: features of a backbone lie on a coarser grid"
        return
    if card.output.reduction is not None:
        found.context = "not measured: results lie on a coarser grid than the pixels"
        return
    if patch.fixed:
        found.context = (
            f"not measured: it takes patches of {patch.size} px only; they are blended"
        )
        return
    step = patch.multiple_of
    # room for the ring on both sides, and a few steps between
    phases = max(8, step)
    side = ceil((2 * limit + 4 * phases) / (2 * phases)) * 2 * phases
    image = make_image(card, side, side, trust_code=trust_code)
    try:
        exact = _in_float64(card, trust_code)
        halo, alignment = find_context(
            exact or run,
            image,
            step=step,
            limit=limit,
            relative=1e-10 if exact else 2e-5,
        )
    except CardError as err:
        found.context = f"not measured: {err}"
        return
    found.halo, found.alignment = halo, alignment
    if halo is None:
        found.context = (
            f"no ring up to {limit} px makes a tile equal to the whole image: "
            "patches are blended"
        )
    else:
        found.context = (
            f"a ring of {halo} px makes a tile equal to the whole image, where tiles "
            f"start on multiples of {alignment} px"
        )


def _in_float64(card: ModelCard, trust_code: bool) -> Callable[[Float], Float] | None:
    """Give the network in float64, where it is one of torch's: no rounding to allow."""
    path, _ = resolve_weights(card)
    if card.holds_code or "onnx" in (card.weights.format, path.suffix.lstrip(".")):
        return None
    import torch

    from geoscale.models.build import build_module
    from geoscale.models.graph import run_raw

    module = build_module(card, path, trust_code=trust_code).double()

    def run(x: Float) -> Float:
        with torch.inference_mode():
            found: Float = run_raw(module, torch.from_numpy(x).double(), card).numpy()
        return found

    return run


def _time(run: Callable[[Float], Any], given: Float) -> float:
    start = time.perf_counter()
    run(given)
    return time.perf_counter() - start


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Keep what is said while weights are loaded: prefixes, heads left out."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler = Keep(level=logging.INFO)
    loggers = [
        logging.getLogger(f"geoscale.models.{name}") for name in ("state", "backbones")
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield said
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
