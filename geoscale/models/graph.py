"""The network and its activation as one graph, for runtimes that take a whole one.

Imported lazily: it imports torch.
"""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from geoscale.card import ModelCard
from geoscale.errors import CardError, PlanError, require
from geoscale.models.scores import check_logits


class Scores(nn.Module):
    """A network that gives float32 scores, whatever its own output looks like.

    Parameters
    ----------
    module : torch.nn.Module
        Gives logits: a tensor, a dict with ``out``, or a tuple. One of task change
        takes two dates as its card says.
    card : ModelCard
        Says classes and activation.
    """

    def __init__(self, module: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.module = module
        self._card = card
        self._activation = card.output.activation

    def forward(self, x: Tensor) -> Tensor:
        """Score patches, (n, channel, y, x) → (n, class, y, x), contiguous."""
        logits = run_raw(self.module, x, self._card)
        if logits.ndim == 2:  # one result for the whole patch
            logits = logits[:, :, None, None]
        # a traced graph has one shape, which was checked before
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):  # type: ignore[attr-defined, no-untyped-call]
            check_logits(tuple(logits.shape), tuple(x.shape), self._card)
        # the layout first: softmax across planes is twice as fast as over pixels of
        # few classes, and the engine takes planes
        logits = logits.float().contiguous()
        if self._activation == "softmax":
            return logits.softmax(1)
        if self._activation == "sigmoid":
            logits = logits.sigmoid()
        if self._card.output.single:
            return torch.cat([1 - logits, logits], 1)
        return logits


def run_raw(module: nn.Module, x: Tensor, card: ModelCard) -> Tensor:
    """Give dates to a network in the way that it takes them, and take its logits.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    x : Tensor
        (n, channel, y, x), of any precision.
    card : ModelCard
        Says how dates come, and what of the output counts.

    Returns
    -------
    Tensor
        (n, channel, y, x), or (n, channel) for one result a patch.

    Raises
    ------
    CardError
        If there is no tensor, or a forecast of other steps or bands.
    """
    spec = card.input
    bands = len(spec.bands)
    if spec.pair == "time-axis":
        out = module(torch.unflatten(x, 1, (spec.frames, bands)))  # a view, no copy
    elif spec.pair == "two":
        out = module(x[:, :bands], x[:, bands:])
    else:
        out = module(x)
    logits = take_tensor(out, card.output.take)
    return logits if card.output.forecast is None else join_ahead(logits, card)


def take_tensor(out: Any, name: str | None = None) -> Tensor:
    """Find the logits in what a network gave.

    Parameters
    ----------
    out : object
        A tensor, a dict with ``out``, or a tuple.
    name : str, optional
        Of the entry, where a dict has several.

    Returns
    -------
    Tensor
        The logits.

    Raises
    ------
    CardError
        If there is no tensor in it.
    """
    if name is not None and not (isinstance(out, dict) and name in out):
        has = (
            f"a dict of {', '.join(map(str, out))}"
            if isinstance(out, dict)
            else (type(out).__name__)
        )
        raise CardError(
            f"the card says `output.take: {name}`, but the network gave {has}; mend "
            "the card"
        )
    if name is not None:
        out = out[name]
    elif isinstance(out, dict):
        out = out["out"] if "out" in out else next(iter(out.values()), None)
    elif isinstance(out, (tuple, list)) and out:
        out = out[0]
    if not isinstance(out, Tensor):
        raise CardError(
            f"the network gave {type(out).__name__}, not a tensor, a dict with `out` "
            "or a tuple; wrap it in a module that returns (n, class, y, x)"
        )
    return out


def join_ahead(out: Tensor, card: ModelCard) -> Tensor:
    """Put the steps of a forecast behind each other, as channels.

    Parameters
    ----------
    out : Tensor
        (n, step, band, y, x), or (n, step x band, y, x).
    card : ModelCard
        Says how many steps and bands there are.

    Returns
    -------
    Tensor
        (n, step x band, y, x).

    Raises
    ------
    CardError
        If it has other steps or bands.
    """
    if out.ndim == 4:
        return out
    ahead, bands = card.output.forecast, len(card.output.bands)
    assert ahead is not None
    if out.ndim != 5 or out.shape[1:3] != (ahead.steps, bands):
        raise CardError(
            f"model `{card.name}` gave shape {tuple(out.shape)}; by its card it gives "
            f"(n, {ahead.steps}, {bands}, y, x): check `output.forecast.steps` and "
            "`output.bands`"
        )
    return out.flatten(1, 2)


def export_onnx(module: nn.Module, shape: tuple[int, int, int, int]) -> bytes:
    """Write a network as ONNX, in memory.

    Parameters
    ----------
    module : torch.nn.Module
        On the CPU.
    shape : tuple of int, (n, channel, y, x)
        The one shape that it will take.

    Returns
    -------
    bytes
        The file; its input is ``x``, its output ``scores``.

    Raises
    ------
    MissingDependencyError
        If onnx or onnxscript is not installed.
    PlanError
        If the exporter refuses the network.
    """
    for name in ("onnx", "onnxscript"):
        require(name, extra="onnx")
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # the exporter tells of its own deprecations
        warnings.simplefilter("ignore")
        # and prints each step, through loggers as well
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            made = torch.onnx.export(
                module, (torch.zeros(shape),), input_names=["x"],
                output_names=["scores"], dynamo=True, verbose=False,
            )  # fmt: skip
            assert made is not None
            made.save(buffer)  # type: ignore[arg-type]
        except Exception as err:
            reason = str(err).strip().splitlines()
            raise PlanError(
                "runtime `onnx`: torch cannot export this network to ONNX: "
                f"{reason[0] if reason else err!r}; say runtime: torch"
            ) from err
        finally:
            logging.disable(before)
    return buffer.getvalue()
