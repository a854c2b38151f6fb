"""Cards of torchgeo's pretrained networks that end in a map.

Of torchgeo's transforms only the scaling is taken, as numbers: they also
resize and crop, which would change the ground resolution of a tile without a
word, and normalise in place, which would overwrite shared pixels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from geoscale.card import ModelCard
from geoscale.errors import CardError, WeightsError
from geoscale.models.fetch import check_first_bytes, fetch_file
from geoscale.parcels import sha256_file
from geoscale.words import suggest


@dataclass(frozen=True, slots=True)
class TorchgeoRow:
    """What torchgeo's table does not say."""

    title: str
    """One line for people."""
    license: str
    """As in torchgeo's metadata; repeated to list models without importing it."""
    classes: tuple[str, ...]
    """Names in channel order."""


_FIELDS2 = ("background", "field")
_FIELDS3 = ("background", "field", "boundary")
_TREES = ("background", "tree_canopy")
_NC = "non-commercial"

TORCHGEO: dict[str, TorchgeoRow] = {
    f"Unet_Weights.{name}": TorchgeoRow(title, licence, classes)
    for name, title, licence, classes in (
        ("SENTINEL2_2CLASS_FTW", "Farm fields, 2 dates", "CC-BY-4.0", _FIELDS2),
        ("SENTINEL2_3CLASS_FTW", "Fields, boundaries", "CC-BY-4.0", _FIELDS3),
        ("SENTINEL2_2CLASS_NC_FTW", "Farm fields, all countries", _NC, _FIELDS2),
        ("SENTINEL2_3CLASS_NC_FTW", "Fields, boundaries, all countries", _NC, _FIELDS3),
        ("SENTINEL2_FTW_PRUE_EFNETB3", "Fields, boundaries, PRUE B3", _NC, _FIELDS3),
        ("SENTINEL2_FTW_PRUE_EFNETB5", "Fields, boundaries, PRUE B5", _NC, _FIELDS3),
        ("SENTINEL2_FTW_PRUE_EFNETB7", "Fields, boundaries, PRUE B7", _NC, _FIELDS3),
        ("OAM_RGB_RESNET50_TCD", "Tree canopy, aerial RGB", "CC-BY-NC-4.0", _TREES),
        ("OAM_RGB_RESNET34_TCD", "Tree canopy, aerial RGB", "CC-BY-NC-4.0", _TREES),
    )
}
"""Every torchgeo weight that ends in a segmentation head, by its name there."""

_COLORS = ("263238", "FDD835", "E53935")
_LETTERS = {"R": "red", "G": "green", "B": "blue"}
_S2_SCALE = 10000.0
# encoders with squeeze-excite look at the whole patch; ResNet sees beyond 256 px
_MULTIPLE = 32
# torch.hub's rule: the file's name carries the start of its sha256
_HASH = re.compile(r"-([a-f0-9]{8,64})\.[a-z]+$")


def torchgeo_card(name: str) -> ModelCard:
    """Make a card of a torchgeo weight.

    Parameters
    ----------
    name : str
        ``torchgeo:Unet_Weights.NAME``; of others the card is that of a backbone.

    Returns
    -------
    ModelCard
        Fields from torchgeo's metadata.

    Raises
    ------
    CardError
        If the weight is unknown, or takes no imagery.
    """
    short, _, query = name.removeprefix("torchgeo:").partition("?")
    weights = _find_weights(short)
    meta = weights.meta
    if not short.startswith("Unet_Weights."):
        from geoscale.models.torchgeo_backbones import backbone_card

        return backbone_card(short, query)
    bands, frames = split_frames([_LETTERS.get(b, b) for b in meta["bands"]])
    optical = all(b.startswith("B") for b in bands)
    row = TORCHGEO.get(name.removeprefix("torchgeo:"))
    labels = row.classes if row else tuple(f"class_{i}" for i in range(_count(meta)))
    if len(labels) != _count(meta):
        raise CardError(
            f"`{name}` has {_count(meta)} classes in this torchgeo, {len(labels)} "
            "names are known; write a card with the names"
        )
    return ModelCard.from_dict(
        {
            "name": name,
            "title": row.title if row else f"{meta['dataset']} {meta['model']}",
            "architecture": "segmentation_models_pytorch:Unet",
            "architecture_args": {
                "encoder_name": meta["encoder"],
                "encoder_weights": None,
                "in_channels": meta["in_chans"],
                "classes": _count(meta),
            },
            "weights": {"href": name, "format": "torchgeo"},
            "input": {
                "bands": bands,
                "sensor": "sentinel-2" if optical else None,
                "frames": frames,
                # FTW trained on torch.cat((window_b, window_a)): harvest, planting
                "frame_order": "newest-first" if frames > 1 else "oldest-first",
                "units": "reflectance" if optical else "raw",
                "multiply": _S2_SCALE if optical else 1.0,
                "normalization": read_normalization(
                    weights.transforms, meta["in_chans"]
                ),
                "patch": {
                    "size": meta.get("input_shape", (0, 256, 256))[-1],
                    "multiple_of": _MULTIPLE,
                },
                "gsd_m": _gsd(meta, optical),
            },
            "output": {
                "classes": [
                    {"value": i, "name": label, "color": _COLORS[i % len(_COLORS)]}
                    for i, label in enumerate(labels)
                ]
            },
            "license": meta.get("license"),
            "citation": meta.get("publication"),
            "notes": _notes(meta, frames),
        },
        where=name,
    )


def read_normalization(transforms: Any, channels: int) -> dict[str, Any]:
    """Take the numbers of the Normalize steps; never run a transform.

    Parameters
    ----------
    transforms : torch.nn.Module
        Of a torchgeo weight.
    channels : int
        Channels of the input; one number stands for all.

    Returns
    -------
    dict
        Fields of `geoscale.card.Normalization`.

    Raises
    ------
    CardError
        If the steps scale in a way that numbers cannot say.
    """
    steps = [s for s in transforms.modules() if "Normalize" in type(s).__name__]
    if not steps:
        return {"type": "none"}
    mean, std = (_spread(getattr(steps[0], k), channels) for k in ("mean", "std"))
    # (((x - a) / b) - c) / d is (x - (a + b c)) / (b d)
    for step in steps[1:]:
        then, by = (_spread(getattr(step, k), channels) for k in ("mean", "std"))
        mean = [a + b * c for a, b, c in zip(mean, std, then, strict=True)]
        std = [b * d for b, d in zip(std, by, strict=True)]
    return {"type": "mean-std", "mean": mean, "std": std}


def fetch_torchgeo(href: str) -> Path:
    """Give the local file of a torchgeo weight, fetching it into torch's cache.

    The cache is torch.hub's (``$TORCH_HOME/hub/checkpoints``), so files that
    torchgeo fetched are used. Unlike torch.hub, which checks a hash only while
    downloading, the name's hash is checked every time; and the file is read
    with geoscale's safe reader, not with `get_state_dict`, which unpickles.

    Parameters
    ----------
    href : str
        ``torchgeo:Unet_Weights.NAME``.

    Returns
    -------
    Path
        Local file.

    Raises
    ------
    WeightsError
        If it cannot be fetched, or its hash is not the one in its name.
    """
    import torch

    url = str(_find_weights(href).url)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rpartition("/")[2]
    match = _HASH.search(path.name)
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{uuid4().hex}.part")
        try:
            fetch_file(url, part)
            check_first_bytes(part)
            _check_prefix(part, sha256_file(part), match)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    check_first_bytes(path)
    _check_prefix(path, sha256_file(path), match)
    return path


def _check_prefix(path: Path, found: str, match: re.Match[str] | None) -> None:
    if match is not None and not found.startswith(match[1]):
        raise WeightsError(
            f"{path} has sha256 {found[:16]}…, but its name promises {match[1]}…; "
            "delete it and fetch it again"
        )


def _find_weights(short: str) -> Any:
    """Look a weight up in torchgeo; name the nearest where there is none."""
    from torchgeo.models import get_weight

    try:
        return get_weight(short.removeprefix("torchgeo:"))
    except (ValueError, KeyError, AttributeError, TypeError):
        from geoscale.models.torchgeo_backbones import list_backbones

        known = [f"torchgeo:{n}" for n in (*TORCHGEO, *list_backbones())]
        hint = suggest(f"torchgeo:{short}", known)
        raise CardError(
            f"torchgeo has no weights `{short}`"
            f"{hint or '; those that give a map are ' + ', '.join(TORCHGEO)}"
        ) from None


def split_frames(bands: list[str]) -> tuple[list[str], int]:
    """Find repeated dates: B4 B3 B2 B8 B4 B3 B2 B8 is two frames of four.

    Parameters
    ----------
    bands : list of str
        Of all dates.

    Returns
    -------
    bands : list of str
        Of one date.
    frames : int
        Dates.
    """
    for frames in range(len(bands), 1, -1):
        step = len(bands) // frames
        if bands == bands[:step] * frames:
            return bands[:step], frames
    return bands, 1


def _spread(values: Any, channels: int) -> list[float]:
    numbers = [float(v) for v in (values if hasattr(values, "__len__") else [values])]
    return numbers * channels if len(numbers) == 1 else numbers


def _count(meta: dict[str, Any]) -> int:
    return int(meta["num_classes"])


def _gsd(meta: dict[str, Any], optical: bool) -> tuple[float, float] | None:
    fine = meta.get("resolution", 10.0 if optical else None)
    return None if fine is None else (fine, fine)


def _notes(meta: dict[str, Any], frames: int) -> str:
    text = f"Weights of torchgeo, dataset {meta['dataset']}, {meta.get('repo')}."
    if frames > 1:
        text += (
            " Trained on two dates of one season, planting and harvest; the later "
            "one comes first in the network's input."
        )
    return text
