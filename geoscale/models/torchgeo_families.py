"""What torchgeo's table of weights does not say: units, scaling, licences, traps.

Its transforms resize, crop and normalise in place, and say nothing about the units
of what they divide. So each family of weights has its row here; of the transforms
only numbers are taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_DECIBELS = "Backscatter in dB."
_EIGHT_BITS = "Pixels of 0 to 255, as such images have them."


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Weights that were trained on the same data in the same units."""

    license: str | None
    """As in docs/api/weights of torchgeo's repository, and of the data's authors."""
    units: str = "reflectance"
    """As in a card."""
    multiply: float = 1.0
    """As in a card."""
    gsd_m: tuple[float, float] | None = None
    """As in a card."""
    patch: int = 224
    """Height and width the network was trained on, in px."""
    clamp: tuple[float, float] | None = None
    """Least and largest input: data stored in 8 bits had no more."""
    scale: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and std where those of the transforms are in other units, or wrong."""
    note: str = ""
    """What users must know."""
    bands: tuple[str, ...] = ()
    """Where torchgeo names none."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further arguments of torchgeo's builder."""


_S2: dict[str, Any] = {"multiply": 10000.0, "gsd_m": (10.0, 10.0)}
_S1: dict[str, Any] = {"units": "raw", "gsd_m": (10.0, 10.0), "note": _DECIBELS}
_RGB = ("red", "green", "blue")
_ANY = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
# CROMA was trained without the cirrus band
_CROMA = ("B1", *_ANY[:8], "B9", "B11", "B12")
_FREE = (
    " Any other bands: torchgeo:NAME?sensor=landsat-8&bands=B2,B3,B4 ; their "
    "wavelengths are known."
)


def find_family(  # noqa: PLR0911  (a line for each family)
    short: str, meta: dict[str, Any], bands: tuple[str, ...]
) -> Family:
    """Find the family of a weight.

    Parameters
    ----------
    short : str
        ``ResNet50_Weights.SENTINEL2_ALL_MOCO``.
    meta : dict
        Of torchgeo.
    bands : tuple of str
        Of the input, where torchgeo names them.

    Returns
    -------
    Family
        Its row.
    """
    kind, _, entry = short.partition(".")
    dataset = str(meta.get("dataset", ""))
    radar = entry.startswith("SENTINEL1")
    if dataset == "SSL4EO-L":
        return _ssl4eo_l(entry, bands)
    if dataset == "SatlasPretrain":
        return _satlas(entry, bands)
    known = _BY_CLASS.get(kind)
    if known is not None:
        return known
    licence = _BY_DATASET.get(dataset)
    if "DECUR" in entry:
        licence = "Apache-2.0"
    if dataset == "SeCo Dataset":
        return _SECO
    if dataset.startswith("fMoW") or "FMOW" in entry:
        return Family(
            license=licence, units="raw", gsd_m=(0.3, 1.0), note=_EIGHT_BITS, bands=_RGB
        )
    if radar:
        return Family(license=licence, **_S1)
    return Family(license=licence, **_S2)


def _ssl4eo_l(entry: str, bands: tuple[str, ...]) -> Family:
    """Rows of SSL4EO-L: stretched to 8 bits, over ranges that only its scripts name.

    experiments/ssl4eo/landsat/compress_*.sh of torchgeo's repository: surface
    reflectance 0 to 0.3, at the top of the atmosphere 0 to 0.4, -25 to 45 °C.
    """
    top = 0.3 if "_SR_" in entry else 0.4
    thermal = ("B10", "B11") if "OLI" in entry else ("B6", "B6_VCID_1", "B6_VCID_2")
    surface = "_SR_" in entry
    hot = [not surface and band in thermal for band in bands]
    low = tuple(248.15 if t else 0.0 for t in hot)
    wide = tuple(70.0 if t else top for t in hot)
    note = "Trained on 8 bits over this range; what lies outside is cut off."
    if any(hot):
        note += " Thermal bands in kelvin."
    return Family(
        license="CC0-1.0",
        gsd_m=(30.0, 30.0),
        clamp=(0.0, 1.0),
        scale=(low, wide),
        note=note,
    )


def _satlas(entry: str, bands: tuple[str, ...]) -> Family:
    """Rows of Satlas; Normalization.md of its repository."""
    base: dict[str, Any] = {"license": "ODC-BY", "patch": 256, "clamp": (0.0, 1.0)}
    if entry.startswith("NAIP"):
        return Family(**base, units="raw", gsd_m=(0.6, 1.0), note=_EIGHT_BITS)
    if entry.startswith("LANDSAT"):
        note = "Digital numbers of Level 1, as stored; 0 to 1 after scaling."
        return Family(**base, units="raw", gsd_m=(30.0, 30.0), note=note)
    if entry.startswith("SENTINEL1"):
        note = "Pixels of 0 to 255 as Satlas stored them; it does not say of which dB."
        return Family(**base, units="raw", gsd_m=(10.0, 10.0), note=note)
    # its RGB is ESA's true-colour image: 255 stands for reflectance 0.3558 in L1C
    # (Sentinel-2 Products Specification Document), others are divided by 8160
    wide = tuple(3558.0 if b in ("B4", "B3", "B2") else 8160.0 for b in bands)
    note = (
        "Of Level 1C. RGB as in the true-colour image, which ends at reflectance "
        "0.3558; torchgeo divides its 8 bits by 255."
    )
    return Family(**base, **_S2, scale=((0.0,) * len(bands), wide), note=note)


# torchgeo has the least and largest values in the order blue, green, red, beside
# bands in the order red, green, blue; QUANTILES of the authors' seco_dataset.py
# say which is whose. ImageNet's mean and std follow.
_SECO = Family(
    license="Apache-2.0",
    multiply=255.0,
    gsd_m=(10.0, 10.0),
    scale=(
        tuple(
            low + mean * (high - low)
            for low, high, mean in ((0, 129, 0.485), (2, 103, 0.456), (3, 88, 0.406))
        ),
        tuple(
            (high - low) * std
            for low, high, std in ((0, 129, 0.229), (2, 103, 0.224), (3, 88, 0.225))
        ),
    ),
    note="Reflectance as 8 bits (x 255), which its authors do not state. torchgeo's "
    "own numbers are in another order than its bands; these are the authors'.",
)

_BY_DATASET: dict[str, str | None] = {
    "SSL4EO-S12": "CC-BY-4.0",
    "CrisisLandMark": "OpenRAIL",
    "SSL4Eco Dataset": "MIT",
    "fMoW": "CC-BY-NC-4.0",
}

_BY_CLASS: dict[str, Family] = {
    "CROMABase_Weights": Family(
        license="CC-BY-4.0", gsd_m=(10.0, 10.0), patch=120, bands=_CROMA,
        more={"modalities": ["optical"]},
        note="The optical half. Its authors scale each image by its own mean and "
        "deviation, which would show between tiles: give a mean and std of your data.",
    ),
    "DOFABase16_Weights": Family(
        license="CC-BY-4.0", bands=_ANY,
        note="torchgeo states no scaling; its authors standardise every band: give "
        "mean and std of your data in a card." + _FREE,
    ),
    "CopernicusFM_Base_Weights": Family(
        license="CC-BY-4.0", bands=_ANY,
        note="torchgeo states no scaling: give mean and std of your data in a card."
        + _FREE,
    ),
    "Panopticon_Weights": Family(
        license="Apache-2.0", bands=_ANY,
        note="torchgeo states no scaling: give mean and std of your data in a card."
        + _FREE,
    ),
    "EarthLoc_Weights": Family(
        license="MIT", units="raw", bands=_RGB, patch=320, more={"desc_dim": 4096},
        note="One vector for a patch. " + _EIGHT_BITS,
    ),
    **{
        f"Swin_{size}_Weights": Family(
            license=None, units="raw", multiply=1 / 255, bands=_RGB, patch=256,
            note="Trained on photographs of streets, not on imagery. " + _EIGHT_BITS,
        )
        for size in "TSB"
    },
}  # fmt: skip
_BY_CLASS["CROMALarge_Weights"] = _BY_CLASS["CROMABase_Weights"]
_BY_CLASS["DOFALarge16_Weights"] = _BY_CLASS["DOFABase16_Weights"]
