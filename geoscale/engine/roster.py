"""Which workers are given blocks: not those that cannot run any, nor those that hang.

A worker whose kernel cannot be made is set aside for the run, and nobody's blocks
suffer; so is a host on which processes die before any of them has answered. One that
lets blocks wait for long is passed over until it answers again.
Nothing here knows Dask.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

from geoscale.errors import StoppedError

_LOG = logging.getLogger(__name__)

CRASHES = 3
"""Processes of a host that may die before it has answered once."""
GRACE_S = 60.0
"""How long to wait for workers that are still to come, if no other can run, in s."""


class Roster:
    """Workers by what is known of them.

    Parameters
    ----------
    say : callable, optional
        Told of every host whose workers are set aside, once; default: the log.

    Examples
    --------
    >>> roster = Roster(say=print)
    >>> roster.set_aside("tcp://a:1", "nid001", "no such file")
    a worker on nid001 (tcp://a:1) gets no block: no such file
    >>> roster.pick({"tcp://a:1": 2, "tcp://b:1": 2})
    {'tcp://b:1': 2}
    """

    def __init__(self, say: Callable[[str], None] = _LOG.warning) -> None:
        self._say = say
        self._unfit: dict[str, tuple[str, str]] = {}
        self._late: set[str] = set()
        self._leaving: set[str] = set()
        self._dead: dict[str, set[str]] = {}
        self._answered: set[str] = set()
        self._crashing: set[str] = set()

    def set_aside(self, worker: str, host: str, why: str) -> None:
        """Give a worker no more blocks in this run; say so once for a host."""
        known = (host, why) in self._unfit.values()
        self._unfit[worker] = host, why
        if not known:
            self._say(f"a worker on {host} ({worker}) gets no block: {why}")

    def note_leaving(self, worker: str) -> None:
        """Give a worker no more blocks, since its job ends soon."""
        if worker not in self._leaving:
            _LOG.info("%s gets no more blocks: its job ends soon", worker)
        self._leaving.add(worker)

    def note_late(self, workers: Iterable[str]) -> None:
        """Pass over workers on which blocks take too long, until they answer."""
        self._late.update(workers)

    def note_answer(self, worker: str) -> None:
        """Take back a worker that was late."""
        self._late.discard(worker)
        self._answered.add(_find_host(worker))
        self._look_at_crashes()

    def note_death(self, worker: str) -> None:
        """Count a process that died under a task.

        Processes that crash while they load the model are started again without
        end, and take tasks with them each time.
        """
        self._dead.setdefault(_find_host(worker), set()).add(worker)
        self._look_at_crashes()

    def _look_at_crashes(self) -> None:
        """Leave out hosts that only lose tasks, while another one works."""
        for host, dead in self._dead.items():
            fails = len(dead) >= CRASHES and host not in self._answered
            if fails and self._answered and host not in self._crashing:
                self._crashing.add(host)
                self._say(
                    f"workers on {host} get no block: {len(dead)} of them died there, "
                    "and none has answered; look at their logs"
                )

    @property
    def is_picky(self) -> bool:
        """Whether some are left out: their hosts may bring another any moment."""
        return bool(self._unfit or self._crashing or self._late or self._leaving)

    def pick(self, workers: Mapping[str, int]) -> dict[str, int]:
        """Choose those that may be given blocks.

        Parameters
        ----------
        workers : mapping
            Address → threads of every worker that is there.

        Returns
        -------
        dict
            Those that can run blocks; of these the ones that stay alive and answer, if
            any does.
        """
        gone = self._unfit.keys() | self._leaving
        able = {name: n for name, n in workers.items() if name not in gone}
        steady = {
            name: n
            for name, n in able.items()
            if _find_host(name) not in self._crashing
        }
        quick = {name: n for name, n in steady.items() if name not in self._late}
        return quick or steady or able

    def is_waiting(
        self, workers: Mapping[str, int], coming: int, waited: float
    ) -> bool:
        """Tell whether to wait for workers, since all that are there are set aside.

        Parameters
        ----------
        workers : mapping
            All that are there.
        coming : int
            Workers that the cluster is to have in the end.
        waited : float
            Since when nothing has moved, in s.

        Raises
        ------
        StoppedError
            If there is nothing to wait for.
        """
        if not workers or not self._unfit.keys() | self._leaving >= workers.keys():
            return False
        if self._leaving & workers.keys():
            return True  # others come when their jobs have ended
        if coming > len(workers) and waited < GRACE_S:
            return True
        raise self.explain(workers)

    def explain(self, workers: Iterable[str]) -> StoppedError:
        """Say why no worker can run a block, and what to do."""
        by_reason: dict[str, set[str]] = {}
        for worker in workers:
            host, why = self._unfit[worker]
            by_reason.setdefault(why, set()).add(host)
        told = "; ".join(
            f"{why} (on {_name(hosts)})" for why, hosts in by_reason.items()
        )
        return StoppedError(
            f"no worker can get ready for blocks: {told}\nmend it there: every worker "
            "needs the same environment, the model's files and the output under the "
            "same paths (`geoscale doctor --cluster` compares them); then run the same "
            "command again: finished blocks are kept"
        )


def _find_host(worker: str) -> str:
    return urlsplit(worker).hostname or worker


def _name(hosts: set[str]) -> str:
    some = sorted(hosts)
    more = f" and {len(some) - 3} more" if len(some) > 3 else ""
    return ", ".join(some[:3]) + more
