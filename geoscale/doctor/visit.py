"""The visit: all checks in order, and what becomes of one that breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from geoscale.doctor.cluster import check_cluster
from geoscale.doctor.environment import check_environment, check_proj
from geoscale.doctor.finding import Finding
from geoscale.doctor.machine import (
    check_cpus,
    check_disk,
    check_gdal,
    check_memory,
    check_torch,
    check_versions,
)
from geoscale.doctor.store import check_store
from geoscale.errors import GeoscaleError
from geoscale.words import redact


def examine(
    *, cluster: str | None = None, output: str | None = None
) -> Iterator[Finding]:
    """Look at everything; a check that breaks is a finding, too.

    Parameters
    ----------
    cluster : str, optional
        Profile, address or number of workers; every worker is asked.
    output : str, optional
        Where results are to go; tried by writing beside it.

    Yields
    ------
    Finding
        In the order in which they were looked at.
    """
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", check_versions),
        ("gdal", check_gdal),
        ("proj", check_proj),
        ("environment", check_environment),
        ("torch", check_torch),
        ("cpus", check_cpus),
        ("memory", check_memory),
        ("disk", lambda: check_disk(output)),
        ("store", lambda: check_store(output)),
    ]
    if cluster is not None:
        checks.append(("cluster", lambda: check_cluster(cluster, output)))
    for name, check in checks:
        try:
            yield from check()
        except GeoscaleError as err:
            yield Finding("wrong", name, redact(str(err)))
        except Exception as err:
            text = redact(f"{type(err).__name__}: {err}")
            yield Finding("wrong", name, text, "mend it, then ask the doctor again")
