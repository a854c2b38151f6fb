"""What a part inside a network gives, and features enlarged to pixels.

Imported lazily: it imports torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geoscale.card import ModelCard
from geoscale.errors import CardError, GeoscaleError
from geoscale.imports import load_object
from geoscale.models.build import call_factory, freeze
from geoscale.words import suggest


class Hidden(nn.Module):
    """A network of which one part is listened to.

    Parameters
    ----------
    net : torch.nn.Module
        With its weights.
    layer : str
        Name of the part, as `named_modules` gives it.

    Raises
    ------
    CardError
        If there is no such part.
    """

    def __init__(self, net: nn.Module, layer: str) -> None:
        super().__init__()
        self.net, self.layer = net, layer
        parts = dict(net.named_modules())
        if layer not in parts or not layer:
            near = suggest(layer, parts)
            known = ", ".join(name for name, _ in net.named_children())
            raise CardError(
                f"the network has no layer `{layer}`; its parts are {known}, and parts "
                f"of those, as in `encoder.layer3`{near}"
            )
        self._seen: list[Any] = []
        parts[layer].register_forward_hook(self._keep)

    def _keep(self, _part: nn.Module, _args: Any, output: Any) -> None:
        self._seen.append(output)

    def forward(self, x: Tensor) -> Tensor:
        """Features of patches, (n, channel, y, x) → (n, feature, y', x').

        Parameters
        ----------
        x : Tensor
            As the network takes it.

        Returns
        -------
        Tensor
            What the part gave; where it is run several times, the last time.
        """
        self._seen = []
        self.net(x)
        seen, self._seen = self._seen, []
        found = seen[-1] if seen else None
        if isinstance(found, (list, tuple)):
            found = next((one for one in found if isinstance(one, Tensor)), None)
        if not isinstance(found, Tensor) or found.ndim != 4:
            gave = tuple(found.shape) if isinstance(found, Tensor) else found
            raise CardError(
                f"layer `{self.layer}` gives {gave!r}, no (n, feature, y, x); choose "
                "one that does"
            )
        return found


class Enlarged(nn.Module):
    """Features for every pixel: between places of the network's grid bilinear.

    Parameters
    ----------
    net : torch.nn.Module
        Gives (n, feature, y', x') for (n, channel, y, x).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Features of patches, (n, channel, y, x) → (n, feature, y, x)."""
        found: Tensor = self.net(x)
        return functional.interpolate(
            found, size=x.shape[-2:], mode="bilinear", align_corners=False
        )


def open_layer(module: nn.Module, card: ModelCard) -> nn.Module:
    """Give what of a network a card names as its features.

    Parameters
    ----------
    module : torch.nn.Module
        With its weights.
    card : ModelCard
        Says `output.layer` and `output.enlarge`, or neither.

    Returns
    -------
    torch.nn.Module
        The same where neither is said.

    Raises
    ------
    CardError
        If there is no such part.
    """
    if card.output.layer is not None:
        module = Hidden(module, card.output.layer)
    if card.output.enlarge:
        module = Enlarged(module)
    return freeze(module)


def measure_layer(
    card: ModelCard, layer: str, *, trust_code: bool = False
) -> tuple[int, int]:
    """Find how many features a part of a network gives, and for which squares.

    Parameters
    ----------
    card : ModelCard
        Of a network of one date; its weights are not loaded.
    layer : str
        Name of the part.
    trust_code : bool
        Allow an architecture outside the known packages.

    Returns
    -------
    features : int
        Numbers for each place.
    reduction : int
        Input pixels, along each side, for which there is one place.

    Raises
    ------
    CardError
        If there is no such part, it gives no image, or its places are no whole
        number of pixels wide.
    """
    assert card.architecture is not None
    factory = load_object(card.architecture, base=card.base, trust_code=trust_code)
    net = freeze(call_factory(card.architecture, card.architecture_args, factory))
    size = card.input.patch.size
    listening, shape = Hidden(net, layer), (1, card.input.channels, size, size)
    try:
        with torch.inference_mode():
            found = listening(torch.zeros(shape))
    except GeoscaleError:
        raise
    except Exception as err:
        raise CardError(
            f"the network of `{card.name}` failed on float32 {shape} (n, channel, y, "
            f"x): {err}; check `input.patch` and `architecture_args` of the card"
        ) from err
    features, height, width = found.shape[1:]
    if height != width or size % height:
        raise CardError(
            f"layer `{layer}` gives {height} x {width} places for a patch of {size} x "
            f"{size} px: these are no squares of whole pixels; choose another layer or "
            "`input.patch.size`"
        )
    return int(features), size // int(height)
