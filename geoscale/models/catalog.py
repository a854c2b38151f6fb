"""The catalogue: names to cards.

A name is one of this project's own cards, ``ukis-csmask-…``, any weight of torchgeo
(``torchgeo:Unet_Weights.NAME``), one that the user added, a Hugging Face repository
(``hf:owner/name``), or the path or URL of a card or of a STAC Item with the MLM
extension, or the path of an ONNX file that carries its card.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from geoscale.card import ModelCard
from geoscale.errors import CardError
from geoscale.models.fetch import fetch_bytes
from geoscale.models.mlm import is_item, read_item
from geoscale.models.onnx_card import SUFFIX as ONNX
from geoscale.models.onnx_card import read_onnx_card
from geoscale.models.shelf import SUFFIXES, list_shelf
from geoscale.models.torchgeo_cards import TORCHGEO, torchgeo_card
from geoscale.models.ukis import UKIS, ukis_card
from geoscale.plain import LARGEST_BYTES, parse_yaml, read_yaml
from geoscale.words import redact, suggest


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
    task: str = "segmentation"
    """What the network is for."""
    sensor: str | None = None
    """Whose band names these are."""
    bands: tuple[str, ...] = ()
    """In the network's order; empty where it was not looked up."""
    gsd_m: tuple[float, float] | None = None
    """Finest and coarsest ground sampling distance, in m."""
    scaling: str = ""
    """What is done to pixels, in words."""
    size_mb: int | None = None
    """Of the weights, about."""
    citation: str | None = None
    """How to cite it."""
    refused: str = ""
    """Why it cannot be run here; nothing where it can."""


def list_models(*, backbones: bool = False) -> list[CatalogEntry]:
    """List every model that can be asked for by name.

    Parameters
    ----------
    backbones : bool
        Also torchgeo's weights that end in features, and all that torchgeo says of
        the others; imports it.

    Returns
    -------
    list of CatalogEntry
        This project's first. Without `backbones` neither torch nor torchgeo is
        imported.
    """
    rows = [
        _entry(ModelCard.from_file(path), "geoscale") for path in _own_cards().values()
    ]
    rows += [
        _entry(ModelCard.from_file(path), "yours") for path in list_shelf().values()
    ]
    here = importlib.util.find_spec("ukis_csmask") is not None
    rows += [
        _entry(ukis_card(name), "ukis-csmask")
        if here
        else CatalogEntry(
            name=name,
            title=title,
            origin="ukis-csmask",
            license="Apache-2.0",
            needs="pip install 'geoscale[onnx]'",
        )
        for name, title in UKIS.items()
    ]
    if backbones:
        return rows + [_torchgeo_entry(name) for name in (*TORCHGEO, *_backbones())]
    return rows + [
        CatalogEntry(
            name=f"torchgeo:{name}",
            title=row.title,
            origin="torchgeo",
            license=row.license,
            needs="download",
        )
        for name, row in TORCHGEO.items()
    ]


def _backbones() -> list[str]:
    from geoscale.models.torchgeo_backbones import list_backbones

    return list(list_backbones())


def _torchgeo_entry(short: str) -> CatalogEntry:
    from geoscale.models.torchgeo_backbones import list_backbones, size_mb

    try:
        card = torchgeo_card(f"torchgeo:{short}")
    except CardError as err:
        meta = list_backbones()[short].meta
        return CatalogEntry(
            name=f"torchgeo:{short}",
            title=str(meta.get("model", short)),
            origin="torchgeo",
            license=meta.get("license"),
            needs="",
            task="none",
            citation=meta.get("publication"),
            refused=str(err).removeprefix(f"`{short}` "),
        )
    return _entry(card, "torchgeo", "download", size_mb(short))


def _entry(
    card: ModelCard, origin: str, needs: str = "", size_mb: int | None = None
) -> CatalogEntry:
    wants = card.input
    path = Path(card.base or "") / card.weights.href
    if size_mb is None and card.base and path.is_file():
        size_mb = max(1, round(path.stat().st_size / 1e6))
    return CatalogEntry(
        name=card.name,
        title=card.title or card.name,
        origin=origin,
        license=card.license,
        needs=needs,
        task=card.task,
        sensor=wants.sensor,
        bands=wants.bands,
        gsd_m=wants.gsd_m,
        scaling=describe_scaling(card),
        size_mb=size_mb or None,
        citation=card.citation,
    )


def describe_scaling(card: ModelCard) -> str:
    """Say in words what is done to pixels before the network sees them.

    Parameters
    ----------
    card : ModelCard
        The model.

    Returns
    -------
    str
        One line.
    """
    spec, norm = card.input, card.input.normalization
    text = spec.units + (f" x {spec.multiply:g}" if spec.multiply != 1 else "")
    if norm.type == "callable":
        return f"{text}, then {norm.callable}"
    if norm.type == "none":
        return text
    means, stds = set(norm.mean), set(norm.std)
    if len(means) == len(stds) == 1:
        mean, std = means.pop(), stds.pop()
        return f"({text} - {mean:g}) / {std:g}" if mean else f"{text} / {std:g}"
    return f"({text} - mean) / std, for each band"


def find_card(  # noqa: PLR0911  (a line for each kind of name)
    name: str | Path,
) -> ModelCard:
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
    if text.startswith("hf:"):
        return _hub_card(text)
    own = _own_cards()
    if text in own:
        return ModelCard.from_file(own[text])
    if text in UKIS:
        return ukis_card(text)
    if text.startswith("torchgeo:"):
        return torchgeo_card(text)
    shelf = list_shelf()
    if text in shelf:
        return ModelCard.from_file(shelf[text])
    if text.endswith((*SUFFIXES, ONNX)) or isinstance(name, Path):
        return read_card(Path(text))
    known = [*own, *shelf, *UKIS, *(f"torchgeo:{n}" for n in TORCHGEO)]
    hint = suggest(text, known) or f"; known are {', '.join(known)}"
    raise CardError(
        f"model `{text}` is neither in the catalogue nor a .yaml or .json card{hint}"
    )


def read_card(path: Path) -> ModelCard:
    """Read a card, or a STAC Item with the MLM extension, from a local file.

    Parameters
    ----------
    path : Path
        YAML or JSON, or an ONNX file that carries a card.

    Returns
    -------
    ModelCard
        Its relative paths start from the file's folder.

    Raises
    ------
    CardError
        If it is missing or neither of them.
    """
    if path.suffix.lower() == ONNX:
        return read_onnx_card(path)
    if path.suffix.lower() == ".json":
        data = read_yaml(path, "model card", CardError)
        if is_item(data):
            card = read_item(data, str(path))
            return card.model_copy(update={"base": str(path.resolve().parent)})
    return ModelCard.from_file(path)


def find_cards(folder: Path) -> tuple[list[ModelCard], list[str]]:
    """Read every card of a folder.

    Parameters
    ----------
    folder : Path
        Its files; folders inside are not looked into.

    Returns
    -------
    cards : list of ModelCard
        Those that could be read.
    broken : list of str
        What is wrong with the others.
    """
    cards, broken = [], []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        try:
            cards.append(read_card(path))
        except CardError as err:
            broken.append(str(err))
    return cards, broken


def _hub_card(href: str) -> ModelCard:
    from geoscale.models.hub import fetch_card_file, read_license

    path, beside = fetch_card_file(href)
    data = read_yaml(path, f"model card of {href}", CardError)
    card = _from_elsewhere(data, href, lambda file: f"{beside}/{file}")
    if card.license is None:
        card = card.model_copy(update={"license": read_license(beside)})
    return card


def _own_cards() -> dict[str, Path]:
    """Name → YAML file of each card that geoscale carries."""
    folder = Path(str(files("geoscale"))) / "data"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _fetch_card(url: str) -> ModelCard:
    """Read a card from the web; its relative weights lie beside it there."""
    where = redact(url)
    if urlsplit(url).path.lower().endswith(ONNX):
        raise CardError(f"{where} is a network: download it, and name the file")
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
    return _from_elsewhere(data, where, lambda file: urljoin(url, file))


def _from_elsewhere(data: Any, where: str, locate: Callable[[str], str]) -> ModelCard:
    """Make a card of what others wrote; its files lie where `locate` says."""
    if not isinstance(data, dict):
        raise CardError(f"model card {where} holds {type(data).__name__}, not fields")
    if is_item(data):
        card = read_item(data, where)
    else:
        card = ModelCard.from_dict(data, where=where)
    _refuse_files(card.to_dict(), where)
    href = card.weights.href
    update: dict[str, Any] = {"base": None}
    if not urlsplit(href).scheme:
        update["weights"] = card.weights.model_copy(update={"href": locate(href)})
    return card.model_copy(update=update)


def _refuse_files(data: dict[str, Any], where: str) -> None:
    """Stop a card from the web that would reach into this machine's files."""
    dumped, href = json.dumps(data, default=str), data["weights"]["href"]
    if ".py:" in dumped or href.startswith(("/", "file:")):
        raise CardError(
            f"model card {where} names a local file; download the card with its files "
            "and name its path"
        )
