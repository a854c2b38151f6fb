"""When this worker's own job ends: it begins no block that would not be finished.

Batch systems kill at the wall time. A block that is killed is made again, but a worker
that begins none it cannot end loses nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from geoscale.engine.stopping import Stop

ENDS = "GEOSCALE_ENDS"
"""Variable with the time at which a worker's job ends, in s since 1970 (UTC)."""


def find_end(
    environ: Mapping[str, str] = os.environ, now: Callable[[], float] = time.time
) -> Stop:
    """Find out until when this process may begin blocks.

    Parameters
    ----------
    environ : mapping
        Of the process.
    now : callable
        Time of day in s since 1970, by which the job's script has told its end.

    Returns
    -------
    Stop
        Says when to begin none any more: once a block as long as those that this
        process made would end too late.

    Examples
    --------
    >>> find_end({}).go_on(), find_end({"GEOSCALE_ENDS": "60"}, lambda: 59.0).go_on()
    (True, False)
    """
    try:
        left = float(environ.get(ENDS, "")) - now()
    except ValueError:
        left = None
    return Stop(left)
