"""What goes into a network and what comes out: checked, padded, activated."""

from __future__ import annotations

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import BlockError, CardError
from geoscale.types import Float


def pad_to(part: Float, count: int) -> Float:
    """Fill a short batch up with zeros.

    One shape for every call: libraries choose other algorithms for other
    shapes, and results must not depend on how many patches were left.

    Parameters
    ----------
    part : ndarray of float32, (n, channel, y, x)
        At most `count` patches.
    count : int
        Patches wanted.

    Returns
    -------
    ndarray of float32, (count, channel, y, x)
        The same array if it is full.
    """
    short = count - len(part)
    if not short:
        return part
    return np.concatenate([part, np.zeros((short, *part.shape[1:]), part.dtype)])


def activate(logits: Float, activation: str) -> Float:
    """Turn logits into scores in float32, without overflow.

    Parameters
    ----------
    logits : ndarray of float32, (n, class, y, x)
        As the file gives them.
    activation : str
        ``softmax``, ``sigmoid`` or ``none``.

    Returns
    -------
    ndarray of float32, (n, class, y, x)
        Scores.

    Examples
    --------
    >>> activate(np.float32([[[[1000.0]], [[1000.0]]]]), "softmax").ravel().tolist()
    [0.5, 0.5]
    """
    if activation == "softmax":
        # plane by plane: reductions along axis 1 jump through memory
        top = logits[:, 0].copy()
        for c in range(1, logits.shape[1]):
            np.maximum(top, logits[:, c], out=top)
        scores = logits - top[:, None]
        np.exp(scores, out=scores)
        np.copyto(top, scores[:, 0])
        for c in range(1, logits.shape[1]):
            top += scores[:, c]
        scores /= top[:, None]
        return scores
    if activation == "sigmoid":
        # exp(-|x|) never overflows; both signs share it
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    return logits


def check_patches(patches: Float, card: ModelCard) -> None:
    """Refuse a batch that is not float32 (n, channels of the card, y, x).

    Raises
    ------
    CardError
        With what came and what the card wants.
    """
    if (
        patches.ndim != 4
        or patches.dtype != np.float32
        or patches.shape[1] != card.input.channels
        or not len(patches)
    ):
        raise CardError(
            f"model `{card.name}` expects float32 (n, {card.input.channels}, y, x), "
            f"got {patches.dtype} {patches.shape}"
        )


def divide(scores: Float, card: ModelCard) -> Float:
    """Give both classes a score where a network of one channel tells the second's.

    Parameters
    ----------
    scores : ndarray of float32, (n, channel, y, x)
        Activated.
    card : ModelCard
        Says whether there is one channel.

    Returns
    -------
    ndarray of float32, (n, class, y, x)
        The same array where each class has a channel.
    """
    if not card.output.single:
        return scores
    return np.concatenate([1 - scores, scores], axis=1)


def check_logits(got: tuple[int, ...], given: tuple[int, ...], card: ModelCard) -> None:
    """Refuse what is not the network's channels for every input pixel.

    Raises
    ------
    CardError
        With what came and what the card says.
    """
    wanted = (given[0], card.output.channels, *card.output.places(given[2:]))
    if got == wanted:
        return
    if not card.output.single:
        check_output(got, given, card)
    raise CardError(
        f"model `{card.name}` gave shape {got} for input {given}, expected {wanted}; "
        "its card says `output.single`, one channel: leave that out if it gives both "
        "classes, and check that the network keeps height and width"
    )


def check_output(got: tuple[int, ...], given: tuple[int, ...], card: ModelCard) -> None:
    """Refuse an output that is not one score per class and input pixel.

    Raises
    ------
    CardError
        With what came and what the card says.
    """
    wanted = (given[0], card.output.width, *card.output.places(given[2:]))
    if got != wanted:
        raise CardError(
            f"model `{card.name}` gave shape {got} for input {given}, expected "
            f"{wanted} (n, class, y, x); check {_what(card)} of the card, and that "
            f"the network {_keeps(card)}{_say_schema(got, card)}"
        )


def _what(card: ModelCard) -> str:
    output = card.output
    kinds = {"features": output.features, "bands": output.bands}
    return f"`output.{next((k for k, v in kinds.items() if v), 'classes')}`"


def _keeps(card: ModelCard) -> str:
    step = card.output.reduction
    if step is None:
        return "keeps height and width"
    if step == "patch":
        return "gives one result for a patch, (n, k); else say `output.reduction`"
    return f"gives one place for {step} x {step} px, as `output.reduction` says"


def _say_schema(got: tuple[int, ...], card: ModelCard) -> str:
    """Name both numbers, where a schema has other classes than the network."""
    name, count = card.output.class_schema, len(card.output.classes)
    if name is None or len(got) < 2 or got[1] == count:
        return ""
    return f"; schema `{name}` has {count} classes, the network gives {got[1]}"


def check_finite(scores: Float, patches: Float, precision: str) -> None:
    """Refuse NaN and infinity: `argmax` would make class 0 of them.

    Raises
    ------
    BlockError
        Saying whether the input or the network is at fault.
    """
    # one pass without a temporary: NaN and infinity survive a sum. Finite scores may
    # overflow it where nothing activates them; only then every one is looked at.
    with np.errstate(over="ignore", invalid="ignore"):
        total = scores.sum(dtype=np.float32)
    if np.isfinite(total) or np.isfinite(scores).all():
        return
    known = bool(np.isfinite(patches).all())
    raise BlockError(say_not_finite(known, precision), phase="predict")


def say_not_finite(input_finite: bool, precision: str) -> str:
    """Say whether the input or the network is at fault, and what to do."""
    if not input_finite:
        what = "its input holds NaN or infinity; fill invalid pixels before"
    elif precision == "float32":
        what = "its input is finite: the weights are damaged or the units are wrong"
    else:
        what = f"its input is finite: {precision} overflows; use precision: float32"
    return f"the network gave NaN or infinity; {what}"
