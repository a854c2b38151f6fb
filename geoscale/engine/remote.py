"""What workers do: hold the kernel of a plan, run blocks, or say why they cannot.

A worker that cannot make the kernel (no model file, another hash, no memory, a
broken library) is no fault of any block. It says so once for a run and gives its
blocks back; what becomes of it is the driver's to decide.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from geoscale.engine.block import Kernel, run_block
from geoscale.engine.failures import TRANSIENT, classify, describe
from geoscale.engine.leaving import find_end
from geoscale.engine.runs import LATEST_S
from geoscale.types import Outcome

Build = Callable[..., Kernel]
Call = tuple[Build, str, str, int, tuple[Any, ...], str]
"""How a kernel is made: function, output, hash of the plan, blocks in flight, further
arguments, and the run's own name, under which a failure is remembered."""

PAUSES_S = (0.5, 2.0)
"""Pauses before a kernel that could not be made for a passing cause is tried again."""


class Ended(NamedTuple):
    """How a block ended, and how long its worker took for it."""

    outcome: Outcome
    """Sent back to the driver."""
    seconds: float
    """On the worker, without waiting for its turn, in s."""


class Reply(NamedTuple):
    """What a task sends back."""

    worker: str
    """Address of the worker; empty outside of one."""
    host: str
    """Its machine's name."""
    found: list[Ended]
    """Of the first blocks; those that are missing were not begun."""
    unfit: str = ""
    """Why this worker cannot run any block; empty if it can."""
    leaves: bool = False
    """Whether it begins no more blocks, since its job ends soon."""


class _Held:
    """What a worker process keeps of one plan."""

    def __init__(self, kernel: Kernel, in_flight: int) -> None:
        self.kernel = kernel
        # A worker may have more threads than blocks fit into its memory.
        self.gate = threading.BoundedSemaphore(in_flight)


_held: dict[tuple[str, str], _Held] = {}
_refused: dict[tuple[str, str], str] = {}
_lock = threading.Lock()
_end = find_end()


def run_remote(blocks: Sequence[int], attempt: int, call: Call) -> Reply:
    """Run blocks one after the other in this worker process.

    Parameters
    ----------
    blocks : sequence of int
        Numbers in the plan.
    attempt : int
        Which try this is.
    call : tuple
        How the kernel is made, once for a process, and how many blocks may be
        in flight.

    Returns
    -------
    Reply
        Blocks are missing from it if the task had grown old, the kernel could not be
        made, or the worker's job ends before they would. Never raises for a failure of
        a block or of the kernel's making.
    """
    worker, host = _find_address(), socket.gethostname()
    if not _end.go_on():
        return Reply(worker, host, [], leaves=True)
    held, why = _hold(call, worker)
    if held is None:
        return Reply(worker, host, [], why)
    found: list[Ended] = []
    began = time.monotonic()
    for number in blocks:
        if found and time.monotonic() - began > LATEST_S:
            break
        # One block at a time, so that tasks take turns.
        with held.gate:
            # asked again: what was made meanwhile told how long blocks take
            if not _end.go_on():
                break
            start = time.perf_counter()
            outcome = _run_block(held.kernel, number, attempt)
            found.append(Ended(outcome, time.perf_counter() - start))
            _end.note(found[-1].seconds)
    return Reply(worker, host, found, leaves=not _end.go_on())


def make_failure(number: int, attempt: int, error: str, kind: str) -> Outcome:
    """Give the outcome of a block that was not made."""
    return Outcome(
        block=number,
        ok=False,
        digests={},
        stats={},
        error=error,
        kind=kind,
        attempt=attempt,
    )


def _hold(call: Call, worker: str) -> tuple[_Held | None, str]:
    """Kernel of a plan, made at the first call; or why there is none."""
    _, url, plan_hash, in_flight, _, run = call
    with _lock:
        held = _held.get((url, plan_hash))
        if held is not None:
            return held, ""
        # A run asks a worker once: tasks that wait here would each try for minutes.
        # The next run asks again, since somebody may have mended it.
        if (run, worker) in _refused:
            return None, _refused[run, worker]
        # One plan at a time: a second model would double the memory.
        _held.clear()
        kernel, why = _build(call)
        if kernel is None:
            _refused[run, worker] = why
            return None, why
        held = _held[url, plan_hash] = _Held(kernel, in_flight)
        return held, ""


def _build(call: Call) -> tuple[Kernel | None, str]:
    build, url, plan_hash, _, extra, _ = call
    for pause in (*PAUSES_S, None):
        try:
            return build(url, plan_hash, *extra), ""
        except Exception as error:  # whatever it is, no block can be run here
            if pause is None or classify(error) != TRANSIENT:
                return None, describe(error)
        time.sleep(pause)
    raise AssertionError("unreachable: the last try returns")


def _run_block(kernel: Kernel, number: int, attempt: int) -> Outcome:
    try:
        return run_block(kernel, number, attempt)
    except Exception as error:  # the other blocks of the run must not suffer
        return make_failure(number, attempt, describe(error), classify(error))


def _find_address() -> str:
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:
        return ""
