"""Cells of a notebook: one box of HTML, in which whatever was given is text."""

from __future__ import annotations

from html import escape

from geoscale.redaction import redact

_BOX = (
    "border:1px solid rgba(128,128,128,.4);border-radius:6px;padding:.7em 1em;"
    "display:inline-block;max-width:100%;box-sizing:border-box"
)
_TEXT = "margin:.5em 0 0;overflow-x:auto;font-size:.85em;line-height:1.4"
_PICTURE = (
    "display:block;margin-top:.6em;max-width:100%;image-rendering:pixelated;"
    "border:1px solid rgba(128,128,128,.4)"
)


def draw_cell(
    title: str,
    text: str,
    *,
    progress: tuple[int, int] | None = None,
    picture: str = "",
    link: str = "",
) -> str:
    """Draw what a notebook shows of an object.

    Parameters
    ----------
    title : str
        First line.
    text : str
        The rest; its line breaks and spaces are kept.
    progress : tuple of int, optional
        How many blocks are done, and how many there are.
    picture : str
        PNG as a data URL; anything else is left out.
    link : str
        Address of a dashboard; left out unless it is one of HTTP.

    Returns
    -------
    str
        HTML. Secrets are taken out of all texts, and none of them can be markup.
    """
    parts = [f"<strong>{_clean(title)}</strong>"]
    if progress is not None:
        done, total = progress
        share = 100 * done // total if total else 0
        parts.append(
            f'<div style="margin-top:.5em"><progress value="{done}" max="{total or 1}" '
            f'style="width:16em"></progress> {done:,} of {total:,} blocks, {share} %'
            "</div>"
        )
    if text:
        parts.append(f'<pre style="{_TEXT}">{_clean(text)}</pre>')
    if picture.startswith("data:image/png;base64,"):
        parts.append(f'<img alt="map" style="{_PICTURE}" src="{escape(picture)}">')
    if link.startswith(("http://", "https://")):
        address = _clean(link)
        parts.append(
            f'<div style="margin-top:.5em">dashboard: <a href="{address}" '
            f'target="_blank" rel="noopener">{address}</a></div>'
        )
    return f'<div style="{_BOX}">{"".join(parts)}</div>'


def _clean(text: str) -> str:
    return escape(redact(text), quote=True)
