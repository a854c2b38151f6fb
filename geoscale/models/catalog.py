"""The catalogue: names to cards.

A name is one of this project's own cards, ``ukis-csmask-…``,
``torchgeo:Unet_Weights.NAME``, or the path or URL of a card.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from dataclasses import dataclass
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from geoscale.card import ModelCard
from geoscale.errors import CardError, MissingDependencyError
from geoscale.models.fetch import fetch_bytes
from geoscale.models.torchgeo_cards import TORCHGEO, torchgeo_card
from geoscale.plain import LARGEST_BYTES, parse_yaml
from geoscale.words import redact, suggest

_UKIS = {
    f"ukis-csmask-{n}b-{level}": f"Clouds and shadows, {n} bands, {level.upper()}"
    for n in (4, 6)
    for level in ("l1c", "l2a")
}
_UKIS_CLASSES = ("background", "clouds", "cloud_shadows")
_UKIS_COLORS = ("2E7D32", "ECEFF1", "455A64")

_CARD_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One row of the catalogue; made without loading any weights."""

    name: str
    """What `find_card` takes."""
    title: str
    """One line for people."""
    origin: str
    """``geoscale``, ``ukis-csmask`` or ``torchgeo``."""
    license: str | None
    """Of the weights."""
    needs: str
    """What must be there first: an extra, a download, or nothing."""


def list_models() -> list[CatalogEntry]:
    """List every model that can be asked for by name.

    Returns
    -------
    list of CatalogEntry
        This project's first; neither torch nor torchgeo is imported.
    """
    own = [ModelCard.from_file(path) for path in _own_cards().values()]
    rows = [
        CatalogEntry(
            name=card.name,
            title=card.title or card.name,
            origin="geoscale",
            license=card.license,
            needs="",
        )
        for card in own
    ]
    here = importlib.util.find_spec("ukis_csmask") is not None
    needs = "" if here else "pip install 'geoscale[onnx]'"
    rows += [
        CatalogEntry(
            name=name,
            title=title,
            origin="ukis-csmask",
            license="Apache-2.0",
            needs=needs,
        )
        for name, title in _UKIS.items()
    ]
    rows += [
        CatalogEntry(
            name=f"torchgeo:{name}",
            title=row.title,
            origin="torchgeo",
            license=row.license,
            needs="download",
        )
        for name, row in TORCHGEO.items()
    ]
    return rows


def find_card(name: str | Path) -> ModelCard:
    """Find a card by catalogue name, path or URL.

    Parameters
    ----------
    name : str or Path
        See the module.

    Returns
    -------
    ModelCard
        The card; no weights are fetched.

    Raises
    ------
    CardError
        If there is no such card; the message names the nearest.
    MissingDependencyError
        If the package that carries the model is not installed.

    Examples
    --------
    >>> find_card("torchgeo:Unet_Weights.SENTINEL2_2CLASS_FTW").input.frames
    2
    """
    text = str(name)
    if text.startswith(("http://", "https://")):
        return _fetch_card(text)
    own = _own_cards()
    if text in own:
        return ModelCard.from_file(own[text])
    if text in _UKIS:
        return _ukis_card(text)
    if text.startswith("torchgeo:"):
        return torchgeo_card(text)
    if text.endswith(_CARD_SUFFIXES) or isinstance(name, Path):
        return ModelCard.from_file(text)
    known = [*own, *_UKIS, *(f"torchgeo:{n}" for n in TORCHGEO)]
    hint = suggest(text, known) or f"; known are {', '.join(known)}"
    raise CardError(
        f"model `{text}` is neither in the catalogue nor a .yaml or .json card{hint}"
    )


def _own_cards() -> dict[str, Path]:
    """Name → YAML file of each card that geoscale carries."""
    folder = Path(str(files("geoscale"))) / "data"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _ukis_card(name: str) -> ModelCard:
    """Make a card of the JSON that lies beside the package's ONNX file."""
    spec = importlib.util.find_spec("ukis_csmask")
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            f"`ukis_csmask`, which carries `{name}`, is not installed; "
            "run: pip install 'geoscale[onnx]'"
        )
    _, _, bands, level = name.split("-")
    stem = f"model_{bands}_{level}"
    path = Path(spec.origin).with_name(f"{stem}.json")
    meta = json.loads(path.read_text(encoding="utf-8"))
    data, stats = meta["data"], meta["data"]["dataset_statistics"]
    version = importlib.metadata.version("ukis-csmask")
    return ModelCard.from_dict(
        {
            "name": name,
            "title": _UKIS[name],
            "weights": {"href": f"package:ukis_csmask/{stem}.onnx", "format": "onnx"},
            "input": {
                "bands": stats["band_names"],
                "units": "reflectance",
                "normalization": {
                    "type": "mean-std",
                    "mean": stats["img"][0],
                    "std": stats["img"][1],
                },
                "patch": {"size": data["target_size"][0], "fixed": True},
                "gsd_m": (10.0, 30.0),
            },
            "output": {
                "classes": [
                    {"value": i, "name": label, "color": color}
                    for i, (label, color) in enumerate(
                        zip(_UKIS_CLASSES, _UKIS_COLORS, strict=True)
                    )
                ],
                "activation": "softmax",
            },
            "license": _spdx(importlib.metadata.metadata("ukis-csmask")["License"]),
            "citation": "Wieland, Fichtner, Martinis 2022, "
            "doi:10.5194/isprs-archives-XLIII-B3-2022-217-2022",
            "notes": f"ukis-csmask {version}, network {meta['model']['version']}; "
            f"expects {level.upper()} reflectance near 30 m. Its squeeze-excite "
            "looks at the whole patch: no halo makes tiles equal, blend them.",
        },
        where=name,
    )


def _spdx(text: str | None) -> str | None:
    """``Apache 2.0`` → ``Apache-2.0``."""
    return text.replace(" ", "-") if text else None


def _fetch_card(url: str) -> ModelCard:
    """Read a card from the web; its relative weights lie beside it there."""
    where = redact(url)
    try:
        body = fetch_bytes(url, LARGEST_BYTES + 1)
    except (OSError, HTTPException) as err:
        raise CardError(
            f"model card {where} cannot be fetched: {redact(str(err))}"
        ) from err
    if len(body) > LARGEST_BYTES:
        raise CardError(
            f"model card {where} is larger than {LARGEST_BYTES >> 10} kB; a card holds "
            "fields, not weights"
        )
    data = parse_yaml(body, f"model card {where}", CardError)
    if not isinstance(data, dict):
        raise CardError(f"model card {where} holds {type(data).__name__}, not fields")
    _refuse_files(data, where)
    card = ModelCard.from_dict(data, where=where)
    href = card.weights.href
    if urlsplit(href).scheme:
        return card
    weights = card.weights.model_copy(update={"href": urljoin(url, href)})
    return card.model_copy(update={"weights": weights})


def _refuse_files(data: dict[str, Any], where: str) -> None:
    """Stop a card from the web that would reach into this machine's files."""
    dumped = json.dumps(data, default=str)
    hrefs = data.get("weights") or {}
    href = str(hrefs.get("href", "")) if isinstance(hrefs, dict) else ""
    if ".py:" in dumped or href.startswith(("/", "file:")):
        raise CardError(
            f"model card {where} names a local file; download the card with its files "
            "and name its path"
        )
