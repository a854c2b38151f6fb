"""Assets that are not there, where the user said that the map may have holes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from geoscale.errors import ReadError
from geoscale.types import Bool, Missing

OnMissing = Literal["error", "nodata"]
"""``error``: a block whose asset cannot be had fails. ``nodata``: the item gives no
pixels there, and that is counted and listed."""

MOST_MISSING = 100
"""Assets that may be missing, where the job does not say."""

Task = Callable[[], Bool | None]


def tolerate(
    task: Task, item: str, bands: tuple[str, ...], found: list[Missing]
) -> Task:
    """Let a read of an asset that is not there, or is broken, give no pixels.

    What may pass, and what refuses credentials, stays an error: that a server is down
    is no property of the map.

    Parameters
    ----------
    task : callable
        The read; None where it reaches no pixel.
    item : str
        Id of the asset's item.
    bands : tuple of str
        Bands that it gives.
    found : list of Missing
        Gets what was missing.

    Returns
    -------
    callable
        To be called instead.
    """

    def read() -> Bool | None:
        """Read, or note what is missing."""
        try:
            return task()
        except ReadError as err:
            if err.kind != "permanent":
                raise
            found.append(Missing(item, bands, str(err)))
            return None

    return read
