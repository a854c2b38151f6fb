"""Networks that are programs in a file: TorchScript and torch.export, only if trusted.

Both hold the operations beside the numbers. Reading them runs what they say, so they
need the trust that Python files need.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geoscale.card import ModelCard
from geoscale.errors import CardError, WeightsError


class Program(nn.Module):
    """A network whose file holds it: it is frozen, and refuses to be frozen again.

    Parameters
    ----------
    network : torch.nn.Module
        As it was loaded, in evaluation mode.
    batch : int, optional
        Patches that it takes at once, where its file says so.

    Attributes
    ----------
    batch : int or None
        As given.
    """

    def __init__(self, network: Any, batch: int | None = None) -> None:
        super().__init__()
        self.batch = batch
        # in a list, so that eval() and requires_grad_() do not reach it
        self._held = [network]

    def forward(self, x: Tensor) -> Tensor:
        """Run the network.

        Parameters
        ----------
        x : Tensor
            (batch, band, y, x), of the shape it was exported for.

        Returns
        -------
        Tensor
            What it gives.
        """
        out: Tensor = self._held[0](x)
        return out

    def _apply(self, fn: Any, recurse: bool = True) -> Program:
        """Move the program, which is no part of this module."""
        self._held[0]._apply(fn, recurse)
        return self


def load_program(card: ModelCard, path: Path, *, trust_code: bool = False) -> nn.Module:
    """Load a network that its file holds.

    Parameters
    ----------
    card : ModelCard
        Says the format, or the suffix ``.pt2`` does.
    path : Path
        Local file, verified.
    trust_code : bool
        Whether the user trusts it.

    Returns
    -------
    torch.nn.Module
        On the CPU, in evaluation mode.

    Raises
    ------
    CardError
        If it is not trusted.
    WeightsError
        If it is no such file.
    """
    kind = "torchscript" if card.weights.format == "torchscript" else "pt2"
    if not trust_code:
        raise CardError(
            f"{path} is a program ({kind}); allow it with `--trust-code` (Python: "
            "trust_code=True) if you trust who made it"
        )
    if not zipfile.is_zipfile(path):
        raise WeightsError(f"{path} is no {kind} file; fetch or export it again")
    try:
        if kind == "pt2":
            program = torch.export.load(path)
            return Program(program.module(), _find_batch(program))
        with warnings.catch_warnings():
            # torch tells of its own plans, which whoever runs the file cannot change
            warnings.simplefilter("ignore", FutureWarning)
            network = torch.jit.load(  # type: ignore[no-untyped-call]
                str(path), map_location="cpu"
            )
        return Program(network.eval())
    except Exception as err:
        # whatever the two raise: their readers have no errors of their own
        raise WeightsError(
            f"{path} cannot be read as {kind} by torch {torch.__version__}: "
            f"{' '.join(str(err).split())[:300]}"
        ) from err


def pick_fixed_batch(network: nn.Module, batch: int) -> int:
    """Give the batch that a network takes: that of its file, else what is wanted.

    Parameters
    ----------
    network : torch.nn.Module
        Any.
    batch : int
        Wanted.

    Returns
    -------
    int
        Patches per call.
    """
    fixed = network.batch if isinstance(network, Program) else None
    return fixed or batch


def _find_batch(program: Any) -> int | None:
    """First side of the input; None where it was exported as a variable one."""
    names = program.graph_signature.user_inputs
    for node in program.graph.nodes:
        if node.op == "placeholder" and names and node.name == names[0]:
            side = node.meta["val"].shape[0]
            return side if isinstance(side, int) else None
    return None
