"""Backbones: torchgeo's networks as (batch, feature, y, x), without their heads.

torchgeo's builders keep the heads of their libraries, a thousand classes of random
numbers or of photographs, since the weights load around them. Here there is no head:
every number that is used comes from the file.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geoscale.errors import CardError
from geoscale.models.state import load_strict

_LOG = logging.getLogger(__name__)

_HEADS = ("head.", "fc.", "head_drop.")
_NORMS = ("norm.", "fc_norm.")
# of masked autoencoders: what rebuilt the pixels, and stood for those left out
_TRAINING = ("decoder", "mask_token", "fpn", "pos_embed_gsd")


class Backbone(nn.Module):
    """A network that gives features for every `reduction` x `reduction` pixels.

    Parameters
    ----------
    name : str
        Function of ``torchgeo.models``: ``resnet50``, ``vit_small_patch16_224``.
    channels : int
        Bands of the input.
    size : int
        Height and width that the network is built for, in px, where it has to know.
    wavelengths, bandwidths : list of float, optional
        Of each band, in nm, for networks that are told. Radar bands of Panopticon
        have its negative numbers.
    clamp : tuple of float, optional
        Least and largest input: networks trained on 8 bits never saw more.
    more : dict, optional
        Further arguments of torchgeo's function.
    """

    body: Any
    """torchgeo's network."""

    def __init__(
        self,
        name: str,
        channels: int,
        *,
        size: int = 224,
        wavelengths: list[float] | None = None,
        bandwidths: list[float] | None = None,
        clamp: tuple[float, float] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.size, self.clamp = name, size, clamp
        if wavelengths is not None and len(wavelengths) != channels:
            raise CardError(
                f"{len(wavelengths)} wavelengths for {channels} bands; give one each"
            )
        self.wavelengths, self.bandwidths = wavelengths, bandwidths
        self.body = _build(name, channels, size, dict(more or {}))

    def forward(self, x: Tensor) -> Tensor:
        """Features of an image.

        Parameters
        ----------
        x : Tensor
            (batch, band, y, x), normalised.

        Returns
        -------
        Tensor
            (batch, feature, y / reduction, x / reduction).
        """
        if self.clamp is not None:
            x = x.clamp(*self.clamp)
        return _RUN[_family(self.name)](self, x)

    def take(self, state: Mapping[str, Tensor], path: Path) -> None:
        """Take the weights of torchgeo's file; only heads may be left over.

        Parameters
        ----------
        state : mapping of str to Tensor
            As in the file.
        path : Path
            Named in errors.

        Raises
        ------
        WeightsError
            If keys are missing or extra, or a shape differs.
        """
        family, body = _family(self.name), self.body
        target = body.model if family == "panopticon" else body
        wanted = set(target.state_dict())
        drop: tuple[str, ...] = (
            _HEADS if family not in ("dofa", "scalemae") else (*_HEADS, *_TRAINING)
        )
        if family == "panopticon":
            drop = (*drop, "mask_token")
            state = _resize_positions(state, self.size)
        if family == "croma":
            # of two sensors the card names one, or both
            drop = ("s1_encoder.", "s1_GAP_FFN.", "s2_encoder.", "s2_GAP_FFN.",
                    "joint_encoder.")  # fmt: skip
            # distances between tokens: computed, not learnt
            state = {"attn_bias": body.attn_bias, **state}
        left = [k for k in state if k not in wanted and k.startswith(drop)]
        # some files end before the last norm: it is not used then
        bare = [
            norm
            for norm in _NORMS
            if any(k.startswith(norm) for k in wanted)
            and not any(k.startswith(norm) for k in state)
        ]
        for norm in bare:
            setattr(target, norm[:-1], nn.Identity())
        if left or bare:
            _LOG.info(
                "%s: left out %s; without %s",
                path, ", ".join(left[:4]) or "nothing", ", ".join(bare) or "nothing",
            )  # fmt: skip
        load_strict(target, {k: v for k, v in state.items() if k not in left}, path)


def _family(name: str) -> str:
    return name.partition("_")[0].rstrip("0123456789")


def _build(  # noqa: PLR0911  (a line for each family)
    name: str, channels: int, size: int, more: dict[str, Any]
) -> Any:
    import torchgeo.models as torchgeo

    family = _family(name)
    if family not in _RUN or not hasattr(torchgeo, name):
        raise CardError(
            f"`{name}` is no backbone of torchgeo that is known here; known kinds are "
            f"{', '.join(_RUN)}"
        )
    make = getattr(torchgeo, name)
    if family == "resnet":
        return make(in_chans=channels, num_classes=0, **more)
    if family == "vit":
        return make(in_chans=channels, num_classes=0, img_size=size, **more)
    if family == "swin":
        body = make(**more)
        first = body.features[0][0]
        body.features[0][0] = nn.Conv2d(channels, first.out_channels, 4, 4)
        body.head = nn.Identity()
        return body
    if family in ("dofa", "copernicusfm"):
        return make(img_size=size, num_classes=0, **more)
    if family == "scalemae":
        return make(img_size=size, in_chans=channels, num_classes=0, **more)
    if family == "croma":
        return make(image_size=size, **more)
    if family == "panopticon":
        return make(img_size=size, **more)
    assert family == "earthloc"
    return make(in_channels=channels, image_size=size, pretrained=False, **more)


def _on_grid(tokens: Tensor, prefix: int = 1) -> Tensor:
    """Tokens (batch, prefix + n * n, feature) to (batch, feature, n, n)."""
    tokens = tokens[:, prefix:]
    side = round(tokens.shape[1] ** 0.5)
    batch, _, features = tokens.shape
    return tokens.transpose(1, 2).reshape(batch, features, side, side).contiguous()


def _run_timm(model: Backbone, x: Tensor) -> Tensor:
    features: Tensor = model.body.forward_features(x)
    if features.ndim == 4:
        return features
    return _on_grid(features, model.body.num_prefix_tokens)


def _run_swin(model: Backbone, x: Tensor) -> Tensor:
    features: Tensor = model.body.norm(model.body.features(x))
    return features.permute(0, 3, 1, 2).contiguous()


def _run_dofa(model: Backbone, x: Tensor) -> Tensor:
    body = model.body
    # its forward averages over the patch; what follows the blocks is kept here
    waves = torch.tensor(model.wavelengths, device=x.device) / 1000
    tokens, _ = body.patch_embed(x, waves.float())
    tokens = tokens + body.pos_embed[:, 1:]
    first = (body.cls_token + body.pos_embed[:, :1]).expand(len(x), -1, -1)
    tokens = torch.cat((first, tokens), dim=1)
    for block in body.blocks:
        tokens = block(tokens)
    return _on_grid(body.fc_norm(tokens))


def _run_copernicus(model: Backbone, x: Tensor) -> Tensor:
    body = model.body
    waves, widths = (
        torch.tensor(v, device=x.device).float()
        for v in (model.wavelengths, model.bandwidths)
    )
    tokens = body.patch_embed_spectral(x, wavelengths=waves, bandwidths=widths)
    # where and when is not told: the network has learnt tokens for "unknown"
    place = (
        body.coord_fc(body.coord_token)
        + body.scale_fc(body.scale_token)
        + body.time_fc(body.time_token)
    )
    positions = body.pos_embed + place
    tokens = tokens + positions[:, 1:]
    first = (body.cls_token + positions[:, :1]).expand(len(x), -1, -1)
    tokens = torch.cat((first, tokens), dim=1)
    for block in body.blocks:
        tokens = block(tokens)
    return _on_grid(body.fc_norm(tokens))


def _run_croma(model: Backbone, x: Tensor) -> Tensor:
    kinds = set(model.body.modalities)
    if kinds == {"optical"}:
        return _on_grid(model.body(x_optical=x)["optical_encodings"], 0)
    if kinds == {"sar"}:
        return _on_grid(model.body(x_sar=x)["sar_encodings"], 0)
    out = model.body(x_sar=x[:, :2], x_optical=x[:, 2:])
    return _on_grid(out["joint_encodings"], 0)


def _run_panopticon(model: Backbone, x: Tensor) -> Tensor:
    ids = torch.tensor(model.wavelengths, device=x.device).expand(len(x), -1)
    tokens = model.body.model.forward_features({"imgs": x, "chn_ids": ids})
    return _on_grid(tokens, model.body.model.num_prefix_tokens)


def _run_earthloc(model: Backbone, x: Tensor) -> Tensor:
    vector: Tensor = model.body(x)
    return vector[:, :, None, None]


_RUN = {
    "resnet": _run_timm, "vit": _run_timm, "scalemae": _run_timm, "swin": _run_swin,
    "dofa": _run_dofa, "copernicusfm": _run_copernicus, "croma": _run_croma,
    "panopticon": _run_panopticon, "earthloc": _run_earthloc,
}  # fmt: skip


def _resize_positions(state: Mapping[str, Tensor], size: int) -> Mapping[str, Tensor]:
    """Panopticon's file is for 518 px; its builder resizes too."""
    from torchgeo.models.copernicusfm import resize_abs_pos_embed

    positions = state.get("pos_embed")
    if positions is None:
        return state
    side, old = size // 14, round((positions.shape[1] - 1) ** 0.5)
    return {**state, "pos_embed": resize_abs_pos_embed(positions, side, old)}
