"""Inputs and outputs of a network in a file, beside what its card says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from geoscale.card import ModelCard
from geoscale.errors import CardError


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output, as the runtime tells of it."""

    name: str
    """What it is called in the file."""
    is_float32: bool
    """Whether it takes or gives float32."""
    type: str
    """Element type in the runtime's words."""
    shape: list[int | str | None]
    """Length of each axis; a name or None where it is free."""


def check_ports(
    inputs: Sequence[Port], outputs: Sequence[Port], card: ModelCard
) -> tuple[str, int | None]:
    """Compare a file's inputs and outputs with its card.

    Parameters
    ----------
    inputs, outputs : sequence of Port
        Of the file.
    card : ModelCard
        Says channels, patch and classes.

    Returns
    -------
    name : str
        Of the only input.
    batch : int or None
        Patches per call, where the file fixes them.

    Raises
    ------
    CardError
        If they differ.
    """
    if card.input.pair not in (None, "channels"):
        raise CardError(
            f"`{card.name}` takes its dates as `{card.input.pair}`, which files of "
            "ONNX cannot: export it with all dates stacked as channels (`input.pair: "
            "channels`), or name its `architecture` and weights"
        )
    if len(inputs) != 1:
        raise CardError(
            f"ONNX file of `{card.name}` has {len(inputs)} inputs; one is supported"
        )
    shape = inputs[0].shape
    size, channels = card.input.patch.size, card.input.channels
    wanted = [None, channels, size, size]
    fits = len(shape) == 4 and all(
        not isinstance(have, int) or want in (None, have)
        for have, want in zip(shape, wanted, strict=True)
    )
    if not fits or not inputs[0].is_float32:
        raise CardError(
            f"ONNX file of `{card.name}` takes {inputs[0].type} {shape}, but the card "
            f"says float32 (n, {channels}, {size}, {size}); mend `input.bands` or "
            "`input.patch` of the card"
        )
    given, count = outputs[0].shape, card.output.channels
    lengths = (2, 4) if card.output.reduction == "patch" else (4,)
    if len(given) not in lengths or (isinstance(given[1], int) and given[1] != count):
        raise CardError(
            f"ONNX file of `{card.name}` gives {given}, but the card lists {count} "
            "channels: (n, channel, y, x); mend `output.classes`"
        )
    return inputs[0].name, shape[0] if isinstance(shape[0], int) else None


def probe_shape(
    card: ModelCard, size: int | tuple[int, int] | None
) -> tuple[int, int, int, int]:
    """Shape of one patch, (1, channel, y, x), of the card's size by default."""
    size = size or card.input.patch.size
    height, width = (size, size) if isinstance(size, int) else size
    return 1, card.input.channels, height, width
