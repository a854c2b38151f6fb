"""Texts and figures of a result, written side by side into a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geoscale.errors import OutputError

LETTER = 8
"""Width of a letter of a class's name, in px of a figure."""


def write_texts(to: str | Path, texts: Mapping[str, str]) -> list[Path]:
    """Write files into a folder, which is made where it is not there.

    Parameters
    ----------
    to : str or Path
        Local folder.
    texts : mapping
        Name of a file → what it holds.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    OutputError
        If `to` is a file.
    """
    folder = Path(to).expanduser()
    if folder.is_file():
        raise OutputError(f"{folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def size_matrix(names: Sequence[str], cell: int, title_width: int) -> dict[str, Any]:
    """Lay out a square matrix of classes: what its template asks for beside cells.

    Parameters
    ----------
    names : sequence of str
        Of the classes.
    cell : int
        Width and height of a cell, in px.
    title_width : int
        Width of the words above, in px.

    Returns
    -------
    dict
        ``names``, ``cell``, ``size``, ``left`` and ``width``, in px.
    """
    left = 24 + LETTER * max((len(name) for name in names), default=0)
    width = left + max(cell * len(names) + 12, title_width)
    sizes = {"cell": cell, "size": cell * len(names), "left": left, "width": width}
    return {"names": list(names), **sizes}
