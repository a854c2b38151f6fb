"""The loop: blocks in this process, with reading and writing overlapped."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from geoscale.engine.block import Kernel, run_block
from geoscale.engine.stall import STALL_S, find_patience, format_stacks
from geoscale.errors import HungError
from geoscale.types import MayStop, Outcome

LOOK_S = 1.0
"""How often is looked whether anything moves, in s."""


class LoopExecutor:
    """Run blocks here.

    Parameters
    ----------
    kernel : Kernel
        With a sink.
    in_flight : int
        Blocks worked on at a time; 1 is the plain loop that defines the
        result. Inference itself is one block at a time in any case.
    stall_s : float
        Least time without any block before the run is held to hang, in s.

    Notes
    -----
    Blocks run in threads of their own, never in the caller's: that one stays free to
    be interrupted, and to see that nothing moves.
    """

    def __init__(
        self, kernel: Kernel, in_flight: int = 1, *, stall_s: float = STALL_S
    ) -> None:
        self._kernel = kernel
        self._in_flight = in_flight
        self._stall_s = stall_s
        self._seconds: deque[float] = deque(maxlen=101)

    def execute(
        self,
        blocks: Sequence[int],
        attempts: Sequence[int] | None = None,
        stop: MayStop | None = None,
    ) -> Iterator[Outcome]:
        """Run the blocks; yield each outcome as it comes.

        Parameters
        ----------
        blocks : sequence of int
            Numbers in the plan.
        attempts : sequence of int, optional
            Which try each is; default 1.
        stop : MayStop, optional
            Asked before each block whether to begin it.

        Yields
        ------
        Outcome
            In order with one block in flight, else as they end.

        Raises
        ------
        HungError
            If no block ends for too long; says what every thread was doing.
        """
        tries = attempts or [1] * len(blocks)
        if stop is not None:
            stop.queue(self._in_flight)
        pool = ThreadPoolExecutor(self._in_flight, thread_name_prefix="geoscale")
        running: dict[Future[Outcome], float] = {}
        hangs = False
        try:
            for number, attempt in zip(blocks, tries, strict=True):
                while len(running) >= self._in_flight:
                    yield from self._take(running)
                if stop is not None and not stop.go_on():
                    break
                future = pool.submit(run_block, self._kernel, number, attempt)
                running[future] = time.monotonic()
            while running:
                yield from self._take(running)
        except HungError:
            hangs = True
            raise
        finally:
            # a thread that hangs would be waited for without end
            pool.shutdown(wait=not hangs, cancel_futures=True)

    def _take(self, running: dict[Future[Outcome], float]) -> list[Outcome]:
        """Outcomes of the next blocks to end."""
        patience = find_patience(self._seconds, self._stall_s)
        began = time.monotonic()
        while True:
            done, _ = wait(running, timeout=LOOK_S, return_when=FIRST_COMPLETED)
            now = time.monotonic()
            if done:
                self._seconds.extend(now - running.pop(future) for future in done)
                return [future.result() for future in done]
            if now - began > patience:
                raise HungError(
                    f"no block ended for {patience:.0f} s; finished blocks are kept. "
                    f"What this process was doing:\n{format_stacks()}\n"
                    "Mend what it waits for, then run the same command again"
                )
