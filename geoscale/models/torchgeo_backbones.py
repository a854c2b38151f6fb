"""Cards of torchgeo's weights that end in features: all but the nine maps."""

from __future__ import annotations

from functools import cache
from typing import Any
from urllib.parse import parse_qs

from geoscale.bands import SENSORS, guess_sensor, normalise_sensor_name
from geoscale.card import ModelCard
from geoscale.errors import CardError
from geoscale.models.torchgeo_families import Family, find_family
from geoscale.wavelengths import find_wavelengths

REFUSED = {
    "Aurora_Weights": "forecasts the weather from variables of the atmosphere, not "
    "from imagery; use microsoft-aurora itself",
}
"""Classes of weights that no imagery can be given to, and why."""

_LETTERS = {"R": "red", "G": "green", "B": "blue"}
_TOLD = ("dofa", "copernicusfm", "panopticon")
# builder → features, input pixels per place, patch fixed, MB of the weights
_NETWORKS: dict[str, tuple[int, int, bool, int]] = {
    "resnet18": (512, 32, False, 45),
    "resnet50": (2048, 32, False, 94),
    "resnet152": (2048, 32, False, 233),
    "vit_small_patch16_224": (384, 16, True, 88),
    "vit_base_patch16_224": (768, 16, True, 351),
    "vit_large_patch16_224": (1024, 16, True, 1224),
    "vit_huge_patch14_224": (1280, 14, True, 2533),
    "vit_small_patch14_dinov2": (384, 14, True, 90),
    "vit_base_patch14_dinov2": (768, 14, True, 349),
    "swin_t": (768, 32, False, 110),
    "swin_s": (768, 32, False, 196),
    "swin_b": (1024, 32, False, 347),
    "swin_v2_t": (768, 32, False, 111),
    "swin_v2_b": (1024, 32, False, 348),
    "dofa_base_patch16_224": (768, 16, True, 445),
    "dofa_large_patch16_224": (1024, 16, True, 1348),
    "copernicusfm_base": (768, 16, True, 558),
    "croma_base": (768, 8, True, 365),
    "croma_large": (1024, 8, True, 1249),
    "panopticon_vitb14": (768, 14, True, 392),
    "scalemae_large_patch16": (1024, 16, True, 1213),
    "earthloc": (4096, 320, True, 111),
}
# U-Nets by their encoder, MB
_UNETS = {
    "efficientnet-b3": 53, "efficientnet-b5": 126, "efficientnet-b7": 270,
    "resnet34": 98, "resnet50": 130,
}  # fmt: skip


@cache
def list_backbones() -> dict[str, Any]:
    """Every weight of the installed torchgeo that ends in features.

    Returns
    -------
    dict
        ``ResNet50_Weights.SENTINEL2_ALL_MOCO`` → torchgeo's entry.
    """
    found: dict[str, Any] = {}
    for builder in _builders():
        found |= {str(w): w for w in _builders()[builder] if builder != "unet"}
    return found


@cache
def _builders() -> dict[str, Any]:
    """Builder → its enum of weights; builders without weights are left out."""
    from torchgeo.models import get_model_weights, list_models

    found = {}
    for name in list_models():
        try:
            found[name] = get_model_weights(name)
        except KeyError:
            continue
    return found


def find_builder(short: str) -> str:
    """Name the function of torchgeo that a weight is for.

    Not the `model` of its metadata, which names another for some.
    """
    kind = short.partition(".")[0]
    return next(b for b, enum in _builders().items() if enum.__name__ == kind)


def size_mb(short: str) -> int:
    """Size of the file of a weight, in MB, about; 0 where it is not known."""
    builder = find_builder(short)
    if builder == "unet":
        entry = short.partition(".")[2]
        encoder = _builders()["unet"][entry].meta.get("encoder", "")
        return _UNETS.get(encoder, 0)
    return _NETWORKS.get(builder, (0, 0, False, 0))[3]


def backbone_card(short: str, query: str = "") -> ModelCard:
    """Make a card of a torchgeo weight that ends in features.

    Parameters
    ----------
    short : str
        ``ResNet50_Weights.SENTINEL2_ALL_MOCO``.
    query : str
        ``sensor=landsat-8&bands=B2,B3,B4`` for networks that are told wavelengths.

    Returns
    -------
    ModelCard
        Of task backbone.

    Raises
    ------
    CardError
        If it takes no imagery, or the query asks for what it cannot do.
    """
    weights = list_backbones()[short]
    kind, meta = short.partition(".")[0], dict(weights.meta)
    if kind in REFUSED:
        raise CardError(f"`{short}` {REFUSED[kind]}")
    builder = find_builder(short)
    if builder not in _NETWORKS:
        raise CardError(
            f"`{short}` is for `{builder}`, which is not known here; write a card that "
            "names its architecture"
        )
    told = builder.partition("_")[0] in _TOLD
    bands, sensor = _bands(short, meta)
    family = find_family(short, meta, bands)
    bands = bands or family.bands
    if not sensor and bands[0].startswith("B"):
        sensor = "sentinel-2"
    if query:
        bands, sensor = _asked(short, query, told, bands, sensor)
    features, reduction, fixed, _ = _NETWORKS[builder]
    args = _arguments(builder, family, bands, sensor if told else None)
    name = f"torchgeo:{short}{'?' if query else ''}{query}"
    return ModelCard.from_dict(
        {
            "name": "torchgeo:" + short + ("+" + "+".join(bands) if query else ""),
            "title": f"{meta.get('dataset') or meta['model']}, {builder}",
            "task": "backbone",
            "architecture": "geoscale.models.backbones:Backbone",
            "architecture_args": args,
            "weights": {"href": f"torchgeo:{short}", "format": "torchgeo"},
            "input": {
                "bands": bands,
                "sensor": sensor,
                "units": family.units,
                "multiply": family.multiply,
                "normalization": _scaling(weights.transforms, family, len(bands)),
                "patch": {
                    "size": family.patch,
                    "fixed": fixed,
                    "multiple_of": 1 if fixed else reduction,
                    "alignment": reduction if family.patch % reduction == 0 else 1,
                },
                "gsd_m": family.gsd_m,
            },
            "output": {
                "activation": "none",
                "features": features,
                "reduction": reduction,
            },
            "license": meta.get("license", family.license),
            "citation": meta.get("publication"),
            "notes": f"Weights of torchgeo, {meta.get('repo')}. {family.note}".strip(),
        },
        where=name,
    )


def _arguments(
    builder: str, family: Family, bands: tuple[str, ...], told: str | None
) -> dict[str, Any]:
    args: dict[str, Any] = {
        "name": builder,
        "channels": len(bands),
        "size": family.patch,
    }
    if family.clamp is not None:
        args["clamp"] = list(family.clamp)
    if family.more:
        args["more"] = dict(family.more)
    if told is not None:
        middle, width = find_wavelengths(bands, told)
        args["wavelengths"] = list(middle)
        if builder.startswith("copernicusfm"):
            args["bandwidths"] = list(width)
    return args


def _scaling(transforms: Any, family: Family, channels: int) -> dict[str, Any]:
    from geoscale.models.torchgeo_cards import read_normalization

    if family.scale is None:
        return read_normalization(transforms, channels)
    mean, std = family.scale
    return {"type": "mean-std", "mean": list(mean), "std": list(std)}


def _bands(short: str, meta: dict[str, Any]) -> tuple[tuple[str, ...], str | None]:
    """Band names as here: ``SR_B1``, ``B04``, ``B8a`` are B1, B4, B8A."""
    given = [str(b).removeprefix("SR_") for b in meta.get("bands", ())]
    if given == ["R", "G", "B"]:
        return tuple(_LETTERS[b] for b in given), None
    bands = tuple(normalise_sensor_name(b) if "_" not in b else b for b in given)
    entry = short.partition(".")[2]
    hint = entry.replace("LANDSAT_MI", "OLI").replace("LANDSAT_SI", "OLI")
    for words, sensor in (("_TM_", "landsat-tm"), ("_ETM_", "landsat-tm")):
        if words in entry:
            return bands, sensor
    return bands, guess_sensor(hint.replace("SENTINEL", "sentinel-")) if bands else None


def _asked(
    short: str,
    query: str,
    told: bool,
    bands: tuple[str, ...],
    sensor: str | None,
) -> tuple[tuple[str, ...], str | None]:
    asked = parse_qs(query, keep_blank_values=True)
    unknown = set(asked) - {"bands", "sensor"}
    if unknown or not told:
        raise CardError(
            f"`{short}` takes bands {', '.join(bands)}, and no others; only "
            f"{', '.join(_TOLD)} take `?sensor=…&bands=…`"
        )
    sensor = asked.get("sensor", [sensor])[-1]
    if sensor not in SENSORS:
        raise CardError(
            f"sensor `{sensor}` is not known; known are {', '.join(SENSORS)}"
        )
    if "bands" in asked:
        bands = tuple(b for b in asked["bands"][-1].split(",") if b)
    return bands, sensor
