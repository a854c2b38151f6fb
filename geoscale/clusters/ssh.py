"""Workers on machines that SSH reaches, and the scheduler in this process.

OpenSSH's own client is used, so ``~/.ssh/config``, agents and known hosts count as they
do by hand. Scheduler and workers speak TLS: the key goes through SSH, and lies on each
machine in a private folder that ends with its workers.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from geoscale.clusters.jobqueue import DEATH_S, WORKER_SETTINGS
from geoscale.clusters.others import SSHProfile
from geoscale.clusters.profiles import HERE
from geoscale.clusters.tls import make_security_in
from geoscale.errors import JobError, StoppedError
from geoscale.words import redact, shorten

if TYPE_CHECKING:
    from distributed import Client

CONNECT_S = 15
"""How long a machine has to answer, in s."""
ENDS_S = 20.0
"""How long workers have to end by themselves, in s."""
LOOK_S = 0.5
"""Pause between two looks for workers, in s."""
MEMORY_SHARE = 0.9
"""Part of a machine's memory that its workers share, where none is named."""
REFUSED = 255
"""Exit code of ``ssh`` where it did not get so far as to run the command (ssh(1))."""


@contextmanager
def start_ssh(profile: SSHProfile, threads: int) -> Iterator[Client]:
    """Start a scheduler here and workers on other machines; they end with the block.

    Parameters
    ----------
    profile : SSHProfile
        Which machines, and what of them.
    threads : int
        Of a worker, where the profile leaves that open.

    Yields
    ------
    distributed.Client
        Connected; every machine has its workers.

    Raises
    ------
    JobError
        If SSH does not reach a machine, in its words.
    StoppedError
        If workers do not start there.
    """
    from distributed import Client, LocalCluster

    with (
        tempfile.TemporaryDirectory(prefix="geoscale-tls-") as folder,
        LocalCluster(
            n_workers=0,
            host=None,
            interface=profile.interface,
            protocol="tcp://" if profile.insecure else "tls://",
            security=None if profile.insecure else make_security_in(Path(folder)),
            dashboard_address=f"{HERE}:0",
            scheduler_kwargs={"dashboard": False},
            worker_dashboard_address=f"{HERE}:0",
        ) as cluster,
        Client(cluster) as client,
        tempfile.TemporaryDirectory(prefix="geoscale-ssh-") as logs,
    ):
        pem = "".join(
            (Path(folder) / name).read_text(encoding="ascii")
            for name in ("cert.pem", "key.pem")
            if not profile.insecure
        )
        script = write_script(profile, threads, cluster.scheduler_address)
        started: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for number, host in enumerate(profile.hosts):
                log = Path(logs) / f"{number}.log"
                started[host] = _start(profile, host, script, pem, log)
            _wait(client, profile, started, Path(logs))
            yield client
        finally:
            _end(client, started)


def write_script(profile: SSHProfile, threads: int, address: str) -> str:
    """Write what a machine's shell is to run; certificate and key come on stdin.

    Parameters
    ----------
    profile : SSHProfile
        Of the cluster.
    threads : int
        Of a worker, where the profile leaves that open.
    address : str
        Of the scheduler.

    Returns
    -------
    str
        For a POSIX shell.
    """
    count = profile.workers_per_host
    memory = str(profile.memory)
    if memory == "auto":
        memory = f"{MEMORY_SHARE / count:.4f}"  # a share of the machine's, to Dask
    words = [profile.python or sys.executable, "-m", "distributed.cli.dask_worker"]
    words += [address, "--nanny", "--nworkers", str(count), "--memory-limit", memory]
    words += ["--nthreads", str(profile.threads_per_worker or threads)]
    words += ["--death-timeout", str(DEATH_S)]
    words += ["--no-dashboard", "--dashboard-address", f"{HERE}:0"]
    if profile.interface:
        words += ["--interface", profile.interface]
    if profile.scratch:
        words += ["--local-directory", profile.scratch]
    command = shlex.join(words)
    if not profile.insecure:
        command += "".join(
            f' --tls-{one} "$d/pem"' for one in ("ca-file", "cert", "key")
        )
    settings = " ".join(f"{name}={value}" for name, value in WORKER_SETTINGS.items())
    return "\n".join(
        (
            "umask 077",
            "d=$(mktemp -d) || exit 1",
            "trap 'rm -rf \"$d\"' EXIT",
            'cat > "$d/pem"',
            "trap 'kill $p 2>/dev/null' HUP INT TERM",
            f"env {settings} {command} </dev/null &",
            "p=$!",
            "wait $p",
        )
    )


def _start(
    profile: SSHProfile, host: str, script: str, pem: str, log: Path
) -> subprocess.Popen[bytes]:
    """Start a machine's workers; what is said goes into a log."""
    command = ["ssh", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}"]
    command += ["-o", "ServerAliveInterval=15"]
    if profile.ssh_config:
        command += ["-F", profile.ssh_config]
    if profile.username:
        command += ["-l", profile.username]
    command += ["--", host, f"sh -c {shlex.quote(script)}"]
    try:
        with log.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603  (words of a checked profile)
                command,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the driver's
            )
    except FileNotFoundError:
        raise JobError(
            "`ssh` is not on this machine: install OpenSSH's client, or use another "
            "cluster profile"
        ) from None
    with suppress(OSError):  # it has ended, and says why
        stdin = cast("IO[bytes]", process.stdin)
        stdin.write(pem.encode("ascii"))
        stdin.close()
    return process


def _wait(
    client: Any,
    profile: SSHProfile,
    started: dict[str, subprocess.Popen[bytes]],
    logs: Path,
) -> None:
    """Return once the workers of all machines are there."""
    wanted = len(started) * profile.workers_per_host
    until = time.monotonic() + 4 * DEATH_S
    while (there := len(client.nthreads())) < wanted:
        for number, (host, process) in enumerate(started.items()):
            code = process.poll()
            if code is None:
                continue
            said = (logs / f"{number}.log").read_text(errors="replace").split("\n")
            last = redact(shorten(" ".join(line for line in said[-4:] if line), 300))
            if code == REFUSED:
                raise JobError(
                    f"ssh does not reach {host}: {last or 'it says nothing'}; try "
                    f"`ssh -o BatchMode=yes {host} true` by hand: it must ask for "
                    "nothing (a key without a passphrase or an agent, a known host)"
                )
            raise StoppedError(
                f"no worker started on {host} (exit {code}): "
                f"{last or 'it says nothing'}; check `python` in the profile, and that "
                "geoscale is installed there"
            )
        if time.monotonic() > until:
            raise StoppedError(
                f"{there} of {wanted} workers joined within {4 * DEATH_S:g} s; the "
                f"machines must reach {client.scheduler.address}: name the network "
                "that they share (`interface` in the profile)"
            )
        time.sleep(LOOK_S)


def _end(client: Any, started: dict[str, subprocess.Popen[bytes]]) -> None:
    """Let workers end, and with them their folders; then close what is still open."""
    with suppress(Exception):  # they end with their scheduler in any case
        client.retire_workers(list(client.nthreads()))
    until = time.monotonic() + ENDS_S
    for process in started.values():
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
