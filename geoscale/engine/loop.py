"""The loop: blocks in this process, with reading and writing overlapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from geoscale.engine.block import Kernel, run_block
from geoscale.types import Outcome


class LoopExecutor:
    """Run blocks here.

    Parameters
    ----------
    kernel : Kernel
        With a sink.
    in_flight : int
        Blocks worked on at a time; 1 is the plain loop that defines the
        result. Inference itself is one block at a time in any case.
    """

    def __init__(self, kernel: Kernel, in_flight: int = 1) -> None:
        self._kernel = kernel
        self._in_flight = in_flight

    def execute(
        self, blocks: Sequence[int], attempts: Sequence[int] | None = None
    ) -> Iterator[Outcome]:
        """Run the blocks; yield each outcome as it comes.

        Parameters
        ----------
        blocks : sequence of int
            Numbers in the plan.
        attempts : sequence of int, optional
            Which try each is; default 1.

        Yields
        ------
        Outcome
            In order with one block in flight, else as they end.
        """
        tries = list(attempts or [1] * len(blocks))
        if self._in_flight == 1:
            for number, attempt in zip(blocks, tries, strict=True):
                yield run_block(self._kernel, number, attempt)
            return
        pool = ThreadPoolExecutor(self._in_flight, thread_name_prefix="geoscale")
        running: set[Future[Outcome]] = set()
        try:
            for number, attempt in zip(blocks, tries, strict=True):
                if len(running) >= self._in_flight:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (f.result() for f in done)
                running.add(pool.submit(run_block, self._kernel, number, attempt))
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (f.result() for f in done)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
