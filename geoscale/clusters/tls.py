"""TLS of clusters: keys that are made for one of ours, files for one that runs.

Whoever reaches a Dask scheduler can run code as its owner. Beyond this machine we
therefore speak TLS only, with one key for client, scheduler and workers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from geoscale.clusters.profiles import LocalProfile, SchedulerProfile
from geoscale.errors import JobError
from geoscale.words import redact

if TYPE_CHECKING:
    from distributed.security import Security


def make_security() -> Security:
    """Make a key and a certificate that live in this process's memory.

    Returns
    -------
    distributed.Security
        The same for client, scheduler and workers; encryption is required.

    Raises
    ------
    JobError
        If `cryptography` is not installed.
    """
    from distributed.security import Security

    try:
        return Security.temporary()
    except ImportError:
        raise JobError(
            "a cluster that other machines reach needs TLS, and `cryptography` is not "
            "installed: run pip install 'geoscale[tls]', or say `host: 127.0.0.1`; "
            "`insecure: true` does without, and lets whoever reaches it run code as you"
        ) from None


def make_security_in(folder: Path) -> Security:
    """Make a key and a certificate, and keep them in a private folder.

    Parameters
    ----------
    folder : Path
        Readable by this user only, and seen by all who are to join.

    Returns
    -------
    distributed.Security
        Names the files ``cert.pem`` and ``key.pem`` there; encryption is required.
    """
    from distributed.security import Security

    made, cert, key = make_security(), folder / "cert.pem", folder / "key.pem"
    write_private(cert, made.tls_client_cert)
    write_private(key, made.tls_client_key)
    roles = ("client", "scheduler", "worker")
    return Security(
        tls_ca_file=str(cert),
        **{f"tls_{role}_cert": str(cert) for role in roles},
        **{f"tls_{role}_key": str(key) for role in roles},
        require_encryption=True,
    )


def read_security(profile: SchedulerProfile) -> Security | None:
    """Security of a profile that names TLS files; None leaves it to Dask's settings.

    Parameters
    ----------
    profile : SchedulerProfile
        With all three files, or none.

    Returns
    -------
    distributed.Security or None
        Encryption is required.

    Raises
    ------
    JobError
        If a file cannot be read, or an address needs files and there are none.
    """
    from distributed.security import Security

    ca, cert, key = profile.tls_ca_file, profile.tls_cert, profile.tls_key
    if ca is None or cert is None or key is None:
        return _from_settings(profile.address)
    for name, path in (("tls_ca_file", ca), ("tls_cert", cert), ("tls_key", key)):
        if not os.access(path, os.R_OK):
            raise JobError(
                f"cluster profile: `{name}` {path} cannot be read; give the PEM file "
                "that goes with the scheduler"
            )
    return Security(
        tls_ca_file=ca,
        tls_client_cert=cert,
        tls_client_key=key,
        require_encryption=True,
    )


def _from_settings(address: str) -> Security | None:
    """Dask's own settings, where an address needs them."""
    from distributed.security import Security

    if not address.startswith(("tls://", "wss://")):
        return None
    found = Security()
    if found.get_connection_args("client").get("ssl_context") is None:
        raise JobError(
            f"scheduler {redact(address)} speaks TLS: give `tls_ca_file`, `tls_cert` "
            "and `tls_key` in a cluster profile, PEM files that go with it"
        )
    return found


@contextmanager
def hand_out(profile: LocalProfile, cluster: Any) -> Iterator[None]:
    """Keep certificate, key and a profile in a private folder, for others to join.

    Parameters
    ----------
    profile : LocalProfile
        Nothing is done where it names no folder.
    cluster : distributed.LocalCluster
        Started.

    Yields
    ------
    None
        While the files are there.
    """
    if profile.tls_folder is None:
        yield
        return
    folder, security = Path(profile.tls_folder), cluster.security
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    cert, key, joins = (folder / n for n in ("cert.pem", "key.pem", "scheduler.yaml"))
    fields = {
        "type": "scheduler",
        "address": cluster.scheduler_address,
        "tls_ca_file": cert.name,
        "tls_cert": cert.name,
        "tls_key": key.name,
    }
    try:
        write_private(cert, security.tls_client_cert)
        write_private(key, security.tls_client_key)
        write_private(joins, yaml.safe_dump(fields, sort_keys=False))
        yield
    finally:
        for path in (joins, cert, key):
            path.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else may read, not even for a moment."""
    path.unlink(missing_ok=True)  # a file of another mode would keep it
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(number, "w", encoding="ascii") as file:
        file.write(text)
