"""A scheduler and workers in processes of their own, by Dask's own commands."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
STARTING_S = 60.0


class OutsideCluster:
    """One thread a worker, each under a nanny; what has died is started again.

    Without nannies the workers stand in their place.
    ``env`` are variables of all; ``envs`` of one worker each, whose number they say.
    ``prefixes`` go before the commands: of the scheduler, of the workers.
    """

    def __init__(
        self,
        folder: Path,
        workers: int = 2,
        *,
        env: Mapping[str, str] | None = None,
        envs: Sequence[Mapping[str, str]] | None = None,
        prefixes: tuple[Sequence[str], Sequence[str]] = ((), ()),
        host: str = "127.0.0.1",
        nannies: bool = True,
    ) -> None:
        self._file = folder / "scheduler.json"
        self._log = folder / "cluster.log"
        self._env = os.environ | {"PYTHONPATH": str(ROOT)} | dict(env or {})
        self._envs = list(envs or [{}] * workers)
        self._prefixes, self._host = prefixes, host
        self._kind = ["--nworkers", "1"] if nannies else ["--no-nanny"]
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.nannies: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> OutsideCluster:
        self.ensure()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ensure(self) -> str:
        """Start what is not there; give the scheduler's address."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.stop()
            self._file.unlink(missing_ok=True)
            more = ["--host", self._host, "--port", "0"]
            self.scheduler = self._start("scheduler", more, {}, self._prefixes[0])
        found = json.loads(self._wait_for_file())
        for number, env in enumerate(self._envs):
            nanny = self.nannies.get(number)
            if nanny is None or nanny.poll() is not None:
                more = ["--nthreads", "1", *self._kind, "--death-timeout", "60"]
                command = self._start("worker", more, env, self._prefixes[1])
                self.nannies[number] = command
        return str(found["address"])

    def wait_for_workers(self) -> None:
        """Wait until every nanny has its worker."""
        end = time.monotonic() + STARTING_S
        while len(self.workers()) < len(self._envs):
            assert time.monotonic() < end, self._log.read_text()[-2000:]
            time.sleep(0.05)

    def workers(self) -> list[int]:
        """Process ids of the workers themselves."""
        if "--no-nanny" in self._kind:
            return [worker.pid for worker in self.nannies.values()]
        found = []
        for nanny in self.nannies.values():
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(nanny.pid).children(recursive=True):
                    if any("spawn_main" in word for word in child.cmdline()):
                        found.append(child.pid)
        return found

    def every(self) -> list[int]:
        """Process ids of the scheduler, the nannies and the workers."""
        nannies = [nanny.pid for nanny in self.nannies.values()]
        scheduler = [] if self.scheduler is None else [self.scheduler.pid]
        return [*scheduler, *nannies, *self.workers()]

    def stop(self) -> None:
        """End everything at once."""
        for pid in self.every():
            hit(pid)
        processes = [*self.nannies.values()]
        processes += [] if self.scheduler is None else [self.scheduler]
        for process in processes:
            process.wait(timeout=STARTING_S)
        self.nannies.clear()
        self.scheduler = None

    def _start(
        self,
        kind: str,
        more: Sequence[str],
        env: Mapping[str, str],
        prefix: Sequence[str],
    ) -> subprocess.Popen[bytes]:
        options = ["--scheduler-file", str(self._file), "--no-dashboard"]
        module = ["-W", "ignore", "-m", f"distributed.cli.dask_{kind}"]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*prefix, sys.executable, *module, *options, *more],
                cwd=ROOT,
                env=self._env | dict(env),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_for_file(self) -> str:
        end = time.monotonic() + STARTING_S
        while True:
            with contextlib.suppress(FileNotFoundError):
                text = self._file.read_text()
                if text.rstrip().endswith("}"):
                    return text
            assert time.monotonic() < end, self._log.read_text()[-2000:]
            time.sleep(0.05)


def hit(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal, to one that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)


def start_toy(
    url: str,
    address: str,
    *words: object,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """Start `tests.support.toy` as a driver, in a session of its own."""
    return subprocess.Popen(
        [
            *prefix, sys.executable, "-W", "ignore", "-m", "tests.support.toy", url,
            address, *map(str, words),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | dict(env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )  # fmt: skip
