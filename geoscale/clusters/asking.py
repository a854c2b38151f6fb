"""Asking workers and scheduler something, without waiting for those that hang."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

ANSWER_S = 30.0
"""How long a worker has to answer, in s: libraries may have to be loaded."""


def ask_workers(
    client: Client,
    function: Callable[..., Any],
    *args: Any,
    timeout_s: float = ANSWER_S,
) -> dict[str, Any]:
    """Call a function on every worker, through the scheduler as blocks are.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    function : callable
        Importable on the workers.
    *args
        Its arguments.
    timeout_s : float
        After this time those that did not answer are left, in s.

    Returns
    -------
    dict
        Address → what the function gave, the exception that it raised, or
        `TimeoutError`.
    """
    from distributed import wait

    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    tasks = {
        worker: client.submit(
            function,
            *args,
            key=f"geoscale-ask-{uuid.uuid4().hex[:12]}",
            workers=[worker],
            pure=False,
            retries=0,
        )
        for worker in workers
    }
    with suppress(TimeoutError):  # told for each of them below
        wait(list(tasks.values()), timeout=timeout_s)
    done = {w: task for w, task in tasks.items() if task.status == "finished"}
    found: dict[str, Any] = dict(client.gather(done, errors="skip"))
    for worker in tasks.keys() - found.keys():
        task = tasks[worker]
        failed = task.exception() if task.status == "error" else None
        found[worker] = failed or TimeoutError(f"no answer within {timeout_s:g} s")
    client.cancel([tasks[worker] for worker in tasks.keys() - done.keys()])
    return {worker: found[worker] for worker in workers}


def ask_scheduler(client: Client, names: Sequence[str]) -> dict[str, Any] | None:
    """Read settings of Dask as the scheduler's process has them.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    names : sequence of str
        In Dask's words, ``distributed.scheduler.work-stealing``.

    Returns
    -------
    dict or None
        Name → value; None where the scheduler cannot run our code, since geoscale is
        not installed there.
    """
    try:
        return dict(client.run_on_scheduler(read_settings, list(names)))
    except Exception:  # whatever it lacks, it was only to tell
        return None


def read_settings(names: Sequence[str]) -> dict[str, Any]:
    """Read settings of Dask in this process; runs on the scheduler."""
    import dask

    return {name: dask.config.get(name, None) for name in names}
