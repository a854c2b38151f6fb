"""Where weights are: found, fetched once, looked at, hashed.

Nothing is loaded here. A file is opened only after its first bytes say that it
is no placeholder, and its sha256 equals what the card or the plan says.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from uuid import uuid4

from geoscale.card import ModelCard
from geoscale.errors import CardError, MissingDependencyError, WeightsError
from geoscale.models.fetch import check_first_bytes, fetch_file
from geoscale.models.hub import fetch_weights
from geoscale.models.torchgeo_cards import fetch_torchgeo
from geoscale.parcels import cache_dir, sha256_file
from geoscale.words import redact

_EXTRAS = {"ukis_csmask": "onnx"}
_SUFFIXES = {".safetensors", ".pt", ".pth", ".ckpt", ".onnx", ".bin"}


def resolve_weights(
    card: ModelCard, *, expected_sha256: str | None = None
) -> tuple[Path, str]:
    """Find the weights of a card as a local file and verify them.

    Parameters
    ----------
    card : ModelCard
        Its `weights.href` is a path (relative to the card), an http(s) URL,
        ``package:NAME/file``, ``torchgeo:NAME`` or ``hf:owner/name@revision/file``.
    expected_sha256 : str, optional
        What a plan recorded; checked beside the card's own.

    Returns
    -------
    path : Path
        Local file.
    sha256 : str
        Of its content.

    Raises
    ------
    WeightsError
        If the file is missing, is a placeholder, cannot be fetched, or has
        another sha256 than asked for.
    MissingDependencyError
        If the package that carries it is not installed.
    """
    href, known = card.weights.href, card.weights.sha256 or expected_sha256
    if href.startswith("package:"):
        path = _in_package(href)
    elif href.startswith("torchgeo:"):
        path = fetch_torchgeo(href)
    elif href.startswith("hf:"):
        path = fetch_weights(href)
    elif "://" in href and not href.startswith("file://"):
        path = _download_once(href, known)
    else:
        path = Path(card.base or ".") / href.removeprefix("file://")
    check_first_bytes(path)
    found = sha256_file(path)
    for wanted, by in (
        (card.weights.sha256, f"card `{card.name}`"),
        (expected_sha256, "the plan"),
    ):
        if wanted is not None and wanted != found:
            raise WeightsError(
                f"weights {path} have sha256 {found}, but {by} asks for {wanted}; "
                "they changed or another file lies there: fetch the right file, or "
                "change the card and plan again"
            )
    return path, found


def _in_package(href: str) -> Path:
    name, _, inside = href.removeprefix("package:").partition("/")
    parts = PurePosixPath(inside).parts
    if not name.isidentifier() or not parts or ".." in parts or inside[0] == "/":
        raise CardError(
            f"`{href}` names no file in a package; write package:NAME/path/to/file"
        )
    # find_spec of a top-level name imports nothing
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        extra = _EXTRAS.get(name)
        target = f"'geoscale[{extra}]'" if extra else name.replace("_", "-")
        raise MissingDependencyError(
            f"`{name}`, which carries these weights, is not installed; "
            f"run: pip install {target}"
        )
    return Path(spec.origin).parent.joinpath(*parts)


def _download_once(url: str, sha256: str | None) -> Path:
    """Give the cached file of a URL, fetching it if it is not there.

    Files are named by their content. A URL whose content nobody pinned is
    remembered in a small file beside, so that it is fetched only once.
    """
    scheme, path = urlsplit(url).scheme, urlsplit(url).path
    if scheme not in ("http", "https"):
        raise WeightsError(
            f"weights at `{redact(url)}`: scheme {scheme} is not read here; download "
            "the file and name its path, or use https"
        )
    folder = cache_dir() / "weights"
    suffix = PurePosixPath(path).suffix.lower()
    suffix = suffix if suffix in _SUFFIXES else ""
    note = folder / f"{hashlib.sha256(url.encode()).hexdigest()}.url"
    if sha256 is None and note.is_file():
        sha256 = note.read_text(encoding="ascii").strip()
    if sha256 is not None:
        cached = folder / f"{sha256}{suffix}"
        if cached.is_file() and sha256_file(cached) == sha256:
            return cached
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{uuid4().hex}.part"
    try:
        found = fetch_file(url, part)
        check_first_bytes(part)
        if sha256 is not None and found != sha256:
            raise WeightsError(
                f"{redact(url)} gave a file of sha256 {found}, but {sha256} was asked "
                "for; the file at that address changed: do not use it unread"
            )
        target = folder / f"{found}{suffix}"
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    _write_atomic(note, found)
    return target


def _write_atomic(path: Path, text: str) -> None:
    part = path.with_name(f".{uuid4().hex}.part")
    part.write_text(text, encoding="ascii")
    os.replace(part, path)
