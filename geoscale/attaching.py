"""Attaching: the cluster on which an output was begun, found again.

Beside the output lies how it is found, `launch.CLUSTER`; nothing secret is in it. The
journal says what is done, so whoever comes back needs nothing else of the first driver.
"""

from __future__ import annotations

import json
from pathlib import Path

from geoscale.api import as_url
from geoscale.clusters import Profile, load_profile
from geoscale.errors import JobError, OutputError
from geoscale.launch import CLUSTER
from geoscale.storage import Folder
from geoscale.words import redact


def find_cluster(output: str | Path) -> Profile:
    """Find the cluster on which an output was begun.

    Parameters
    ----------
    output : str or path
        The output.

    Returns
    -------
    Profile
        For `connect`; credentials are not in it.

    Raises
    ------
    OutputError
        If none is noted there.

    Examples
    --------
    ::

        from geoscale.attaching import find_cluster

        with gs.connect(find_cluster(out).model_dump()) as client:
            gs.run(plan, out, client=client)
    """
    url = as_url(output)
    data = (Folder(url) / ".geoscale").get(CLUSTER)
    if data is None:
        raise OutputError(
            f"{redact(url)} names no cluster that outlives its driver (one of a Dask "
            "Gateway does); go on with the command that began it, or name one with "
            "--cluster"
        )
    try:
        told = dict(json.loads(data))
        if told.get("type") != "gateway":
            raise JobError("it names no gateway")
        return load_profile(told)
    except (ValueError, TypeError, JobError) as err:
        raise OutputError(
            f"{redact(url)}/.geoscale/{CLUSTER} cannot be read ({redact(str(err))}); "
            "name the cluster with --cluster"
        ) from None
