"""The verb: open both sides, count block by block, conclude."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from geoscale.api import as_url
from geoscale.chunks import BlockGrid
from geoscale.errors import JobError, SourceError
from geoscale.evaluation.conclude import conclude
from geoscale.evaluation.counting import (
    Opened,
    Total,
    count_block,
    open_comparison,
)
from geoscale.evaluation.maps import RASTER_ENDS
from geoscale.evaluation.references import say_place
from geoscale.evaluation.result import Evaluation
from geoscale.evaluation.settings import Comparison, EvaluateOptions, make_comparison
from geoscale.results.waves import each_block
from geoscale.windows import Window
from geoscale.words import redact

if TYPE_CHECKING:
    from distributed import Client


def evaluate(
    output: str | Path,
    reference: str | Path,
    *,
    client: Client | None = None,
    block_px: int | None = None,
    **options: Unpack[EvaluateOptions],
) -> Evaluation:
    """Hold a finished map against labels, pixel by pixel.

    Both are read block by block on the map's grid and counted in whole numbers:
    blocks, threads and workers change nothing.

    Parameters
    ----------
    output : str or path
        A finished output, or a raster of classes (GeoTIFF).
    reference : str or path
        A raster of labels (path, glob or URL), or polygons or points with a column
        of labels (GeoPackage, GeoJSON, GeoParquet, FlatGeobuf, shapefile).
    client : distributed.Client, optional
        Cluster to count on; its workers must see both.
    block_px : int, optional
        Height and width of what is counted at once; default the output's blocks.
    **options
        ``layer``, ``scores``, ``time`` of the output; ``attribute``, ``band``,
        ``nodata``, ``resampling`` of the reference; ``map_labels`` (label → class),
        ``ignore`` (labels), ``merge`` (class → class it counts as), ``sample``
        (whether the reference is a probability sample).

    Returns
    -------
    Evaluation
        Print it, or write it with `Evaluation.write`.

    Raises
    ------
    JobError
        If an option is wrong.
    OutputError
        If the output is not there or not finished.
    SourceError
        If the reference cannot be read, does not meet the map, or has labels that
        the map does not know.
    ReadError
        If a block of either cannot be read.
    """
    asked = make_comparison(_place(output), _local(reference), options)
    if block_px is not None and block_px < 1:
        raise JobError(f"block_px {block_px}: must be 1 or more")
    opened = open_comparison(asked)
    _check_overlap(opened, asked)
    grid = BlockGrid(1, opened.shape, block_px or opened.map.block_px)
    total = Total(opened)
    blocks = (grid.core(number) for number in grid)
    counted = each_block(
        count_block, open_comparison, asked, blocks, client=client, opened=opened
    )
    for found in counted:
        total.add(found)
    return conclude(opened, asked, total)


def _check_overlap(opened: Opened, asked: Comparison) -> None:
    if not opened.reference.touches(Window(0, 0, *opened.shape)):
        raise SourceError(
            f"{redact(asked.reference)} does not meet the map: it lies at "
            f"{opened.reference.place}, the map at {say_place(opened.map.geobox)}; "
            "check its CRS and the path"
        )


def _place(output: str | Path) -> str:
    text = str(output)
    is_raster = text.lower().endswith(RASTER_ENDS) or os.path.isfile(text)
    return _local(text) if is_raster else as_url(output)


def _local(path: str | Path) -> str:
    text = str(path)
    return text if "://" in text else os.path.abspath(os.path.expanduser(text))
