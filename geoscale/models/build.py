"""A card's architecture with its weights: a network that cannot learn."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoscale.card import ModelCard
from geoscale.errors import CardError
from geoscale.imports import is_trusted, load_object
from geoscale.models.state import load_strict, read_state_dict

if TYPE_CHECKING:
    from torch import nn

# arguments by which smp, torchvision and torchgeo download weights; ours replace them
_NO_DOWNLOAD = ("encoder_weights", "weights", "weights_backbone")


def build_module(
    card: ModelCard, weights: Path, *, trust_code: bool = False
) -> nn.Module:
    """Make the network of a card and load its weights.

    Parameters
    ----------
    card : ModelCard
        Names the architecture and its arguments.
    weights : Path
        Local file, verified.
    trust_code : bool
        Allow an architecture outside the known packages.

    Returns
    -------
    torch.nn.Module
        float32, on the CPU, in evaluation mode, without gradients.

    Raises
    ------
    CardError
        If the architecture is missing, not trusted, or refuses its arguments.
    WeightsError
        If the weights do not fit it exactly.
    """
    if card.holds_code:
        from geoscale.models.programs import load_program

        return load_program(card, weights, trust_code=trust_code)
    if card.architecture is None:
        raise CardError(
            f"card `{card.name}` names no `architecture`, and {weights.name} holds "
            "only numbers; add `architecture: package.module:Name`"
        )
    from geoscale.models.backbones import Backbone

    factory = load_object(card.architecture, base=card.base, trust_code=trust_code)
    module = call_factory(card.architecture, card.architecture_args, factory)
    state = read_state_dict(weights)
    if card.output.head is not None:
        from geoscale.models.heads import add_head

        module = add_head(module, card, state, weights)
    elif isinstance(module, Backbone):
        module.take(state, weights)
    else:
        load_strict(module, state, weights)
    if card.output.layer is not None or card.output.enlarge:
        from geoscale.models.hidden import open_layer

        return open_layer(module, card)
    return freeze(module)


def freeze(module: nn.Module) -> nn.Module:
    """Put a network into evaluation mode and make sure that it stays there.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place.

    Returns
    -------
    torch.nn.Module
        The same.

    Raises
    ------
    CardError
        If a part of it is still in training mode (dropout, batch norm).
    """
    module.eval()
    module.requires_grad_(False)
    for name, part in module.named_modules():
        if part.training:
            raise CardError(
                f"part `{name or type(part).__name__}` of the network stays in "
                "training mode after eval(): its dropout or batch norm would make "
                "results random; mend its `train`/`eval` method"
            )
    return module


def call_factory(path: str, args: Mapping[str, Any], factory: Any) -> nn.Module:
    """Make a network without weights of its own.

    Parameters
    ----------
    path : str
        ``package.module:Name`` of what makes it.
    args : mapping
        Its keyword arguments; those that would download weights are None.
    factory : callable
        What lies at `path`.

    Returns
    -------
    torch.nn.Module
        As it was made.

    Raises
    ------
    CardError
        If the arguments are refused, or it makes no network.
    """
    from torch import nn

    given = dict(args)
    takes = _parameters(factory)
    if is_trusted(path):
        given |= {name: None for name in _NO_DOWNLOAD if name in takes}
    try:
        module = factory(**given)
    except Exception as err:
        known = ", ".join(takes) or "nothing by name"
        raise CardError(
            f"`{path}` refused `architecture_args` {dict(args)}: {err}; it takes "
            f"{known}"
        ) from err
    if not isinstance(module, nn.Module):
        raise CardError(
            f"`{path}` gave {type(module).__name__}, not a torch.nn.Module; name a "
            "class or a function that returns one"
        )
    return module


def _parameters(factory: Any) -> list[str]:
    """Names of a factory's arguments; of its parents' too, where it hands on any."""
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names: list[str] = []
    for one in factory.__mro__ if inspect.isclass(factory) else (factory,):
        try:
            found = inspect.signature(one).parameters
        except (TypeError, ValueError):
            break
        names += [n for n, p in found.items() if p.kind in plain and n not in names]
        if all(p.kind != inspect.Parameter.VAR_KEYWORD for p in found.values()):
            break
    return names
