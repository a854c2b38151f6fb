"""Models in Hugging Face repositories that hold a card: ``hf:owner/name@revision``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from geoscale.errors import CardError, GeoscaleError, WeightsError, require

CARD_NAMES = ("geoscale.yaml", "card.yaml", "geoscale.json", "mlm.json")
"""Files of a repository that may be the card, tried in this order."""

_HREF = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w.-]+))?(/(?P<file>[^@]+))?"
)


def parse_href(href: str) -> tuple[str, str | None, str | None]:
    """Take an address of a repository apart.

    Parameters
    ----------
    href : str
        ``hf:owner/name``, with ``@revision`` and ``/file`` where given.

    Returns
    -------
    repo : str
        ``owner/name``.
    revision : str or None
        Branch, tag or commit.
    file : str or None
        Path in the repository.

    Raises
    ------
    CardError
        If it is none.

    Examples
    --------
    >>> parse_href("hf:me/fields@v1/weights/net.safetensors")
    ('me/fields', 'v1', 'weights/net.safetensors')
    """
    match = _HREF.fullmatch(href)
    if match is None or ".." in href:
        raise CardError(
            f"`{href}` names no Hugging Face repository; write hf:owner/name, "
            "hf:owner/name@revision or hf:owner/name@revision/file"
        )
    return match["repo"], match["revision"], match["file"]


def fetch_card_file(href: str) -> tuple[Path, str]:
    """Fetch the card of a repository.

    Parameters
    ----------
    href : str
        As in the module.

    Returns
    -------
    path : Path
        Local copy, in Hugging Face's cache.
    beside : str
        ``hf:owner/name@commit``, where the weights lie; the commit is pinned.

    Raises
    ------
    CardError
        If there is no such repository, or no card in it.
    """
    repo, revision, file = parse_href(href)
    names = (file,) if file else CARD_NAMES
    for name in names:
        path = _fetch(repo, revision, name, CardError, missing_ok=True)
        if path is not None:
            return path, f"hf:{repo}@{_commit(path, name) or revision or 'main'}"
    raise CardError(
        f"repository `{repo}` on Hugging Face holds no card ({', '.join(names)}); "
        "write one, and give its path with `weights.href: "
        f"hf:{repo}/FILE`"
    )


def fetch_weights(href: str) -> Path:
    """Fetch a file of a repository into Hugging Face's cache.

    Parameters
    ----------
    href : str
        ``hf:owner/name@revision/file``.

    Returns
    -------
    Path
        Local file.

    Raises
    ------
    WeightsError
        If it cannot be fetched.
    """
    repo, revision, file = parse_href(href)
    if file is None:
        raise CardError(f"`{href}` names no file; write hf:owner/name/file")
    path = _fetch(repo, revision, file, WeightsError)
    assert path is not None
    return path


def read_license(href: str) -> str | None:
    """Give the licence that the README of a repository states.

    Parameters
    ----------
    href : str
        As in the module.

    Returns
    -------
    str or None
        Its identifier there; None where it states none.
    """
    repo, revision, _ = parse_href(href)
    path = _fetch(repo, revision, "README.md", CardError, missing_ok=True)
    if path is None:
        return None
    hub = require("huggingface_hub", extra="hub")
    try:
        data = hub.ModelCard(path.read_text(encoding="utf-8")).data
    except (ValueError, TypeError, OSError):
        return None
    found = getattr(data, "license", None)
    return str(found) if found else None


def _fetch(
    repo: str,
    revision: str | None,
    file: str,
    error: type[GeoscaleError],
    missing_ok: bool = False,
) -> Path | None:
    hub: Any = require("huggingface_hub", extra="hub")
    errors: Any = require("huggingface_hub.errors", extra="hub")
    try:
        found = hub.hf_hub_download(
            repo,
            file,
            revision=revision,
            # the library reads it once, when it is imported
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    except errors.RepositoryNotFoundError:
        why = (
            "there is no such repository, or it is private or gated: ask for access, "
            "then set HF_TOKEN"
        )
    except errors.RevisionNotFoundError:
        why = f"it has no revision `{revision}`"
    except errors.LocalEntryNotFoundError:
        why = (
            "the server cannot be reached, and the file is not in the cache; on nodes "
            "without internet fetch it first on one that has it (same HF_HOME)"
        )
    except errors.EntryNotFoundError:
        if missing_ok:
            return None
        why = "there is no such file in it"
    except (
        errors.HfHubHTTPError,
        errors.HFValidationError,
        OSError,
        ValueError,
    ) as err:
        why = " ".join(str(err).split())[:200]
    else:
        return Path(found)
    raise error(f"`{file}` of `{repo}` on Hugging Face: {why}")


def _commit(path: Path, file: str) -> str | None:
    """Commit that a file of the cache is of: …/snapshots/COMMIT/file."""
    folder = path
    for _ in Path(file).parts:
        folder = folder.parent
    return folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else None
