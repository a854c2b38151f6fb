"""Features of patches: what a head is fitted to, as the map will see it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoscale.card import ModelCard
from geoscale.errors import BlockError
from geoscale.models.build import build_module, freeze
from geoscale.models.device import pick_device
from geoscale.models.own_thread import call
from geoscale.types import Float

if TYPE_CHECKING:
    from torch import nn


class Extractor:
    """A network without a head, on one device.

    Parameters
    ----------
    card : ModelCard
        Of the network alone.
    weights : Path or None
        Its file; None where its architecture has no weights.
    with_bands : bool
        Append the network's input to its features.
    trust_code : bool
        Allow an architecture outside the known packages.
    device : str
        See `pick_device`.
    """

    def __init__(
        self,
        card: ModelCard,
        weights: Path | None,
        *,
        with_bands: bool = False,
        trust_code: bool = False,
        device: str = "cpu",
    ) -> None:
        from geoscale.models.heads import Features

        self._card = card
        self._device = pick_device(device)
        self.body = _build(card, weights, trust_code)
        made = Features(self.body, card.output.take, with_bands)
        self._network = freeze(made).to(self._device)

    def __call__(self, patches: Float) -> Float:
        """Give the features of patches.

        Parameters
        ----------
        patches : ndarray of float32, (n, channel, y, x)
            Prepared as the card says.

        Returns
        -------
        ndarray of float32, (n, feature, y, x)
            One vector for each pixel.

        Raises
        ------
        BlockError
            If the network fails.
        """
        return call(self._run, patches)

    def tensors(self) -> dict[str, Any]:
        """Weights of the network, as a card with a head names them, (NumPy)."""
        from geoscale.models.heads import give_body

        return {k: v.cpu().numpy() for k, v in give_body(self.body).items()}

    def _run(self, patches: Float) -> Float:
        import torch

        try:
            with torch.inference_mode():
                x = torch.from_numpy(patches).to(self._device)
                made: Float = self._network(x).cpu().numpy()
        except RuntimeError as err:
            raise BlockError(
                f"`{self._card.name}` failed on float32 {patches.shape} (n, channel, "
                f"y, x): {err}",
                phase="predict",
            ) from err
        return made


def _build(card: ModelCard, weights: Path | None, trust_code: bool) -> nn.Module:
    if weights is not None:
        return build_module(card, weights, trust_code=trust_code)
    from geoscale.imports import load_object
    from geoscale.models.build import call_factory

    assert card.architecture is not None
    factory = load_object(card.architecture, base=card.base, trust_code=trust_code)
    return freeze(call_factory(card.architecture, card.architecture_args, factory))
