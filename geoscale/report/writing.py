"""Writing the report of an output: one page, or one for each UTM zone and one above."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geoscale.api import as_url
from geoscale.errors import OutputError
from geoscale.report.objects import write_objects
from geoscale.report.page import write_page
from geoscale.report.zones import write_zones
from geoscale.sinks.vector import has_objects
from geoscale.storage import Folder
from geoscale.zone_list import read_zones


def write_report(
    output: str | Path,
    to: str | Path | None = None,
    *,
    notes: Sequence[str] = (),
    beside: str | Path | None = None,
    beside_notes: Sequence[str] = (),
    later: str = "After",
) -> Path:
    """Write one self-contained HTML page that shows an output.

    Parameters
    ----------
    output : str or path
        An output, finished or not; of several UTM zones, each gets a page of its own
        beside the page.
    to : str or path, optional
        The page; default ``<output>.html`` beside a local output, else in the
        working folder.
    notes : sequence of str
        What a reader must know; shown below the pictures.
    beside : str or path, optional
        A change map of the same area, shown beside a map on one grid.
    beside_notes : sequence of str
        What a reader must know of it.
    later : str
        What the later date of a change map is called.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    OutputError
        If there is no output, or the page is a folder.
    """
    url = as_url(output)
    page, told = _choose_page(url, to), read_zones(url)
    if told is None and has_objects(url):
        write_objects(url, page, notes=notes)
    elif told is None:
        other = None if beside is None else (as_url(beside), beside_notes)
        write_page(url, page, notes=notes, beside=other, later=later)
    else:
        write_zones(url, told, page, notes=notes)
    return page


def _choose_page(url: str, to: str | Path | None) -> Path:
    if to is None:
        name = url.rpartition("/")[2].removesuffix(".zarr") + ".html"
        folder = Folder(url)
        parent = Path(folder.path).parent if folder.is_local else Path.cwd()
        return parent / name
    page = Path(to).expanduser()
    if page.is_dir():
        raise OutputError(f"{page} is a folder; name the page, such as {page}/map.html")
    return page.resolve()
