"""Dask Gateway: a cluster of ours there, begun, scaled, found again and ended.

The cluster outlives the process that began it, so a client that is killed or loses its
network comes back to it. Who you are is read from the environment, and kept nowhere.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from geoscale.clusters.identity import HUB_TOKEN, PASSWORD, TOKEN, USER, make_auth
from geoscale.clusters.others import GatewayProfile
from geoscale.errors import JobError, StoppedError, require
from geoscale.redaction import is_secret
from geoscale.words import redact, suggest

if TYPE_CHECKING:
    from distributed import Client

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

ASK_S = 60.0
"""How long the gateway has for one answer, in s."""
LOOK_S = 1.0
"""Pause between two looks at what is awaited, in s."""


@contextmanager
def start_gateway(profile: GatewayProfile) -> Iterator[Client]:
    """Begin a cluster, or find one again, and wait for its first worker.

    Parameters
    ----------
    profile : GatewayProfile
        Where, and what to ask of it.

    Yields
    ------
    distributed.Client
        Connected, with one worker at least. What was begun is ended with the block,
        unless the profile keeps it; a process that is killed leaves it.

    Raises
    ------
    JobError
        If the gateway does not know who asks, or refuses an option; in its words.
    StoppedError
        If it cannot be reached, the cluster is gone, or no worker comes in time.
    """
    _refuse_secrets(profile)
    module, where = _find(profile)
    until = time.monotonic() + profile.wait_s
    with _explained(profile):
        name = _in_thread(lambda: _begin(module, where, profile, until))
    is_kept = profile.name is not None if profile.keep is None else profile.keep
    cluster: Any = None
    try:
        with _explained(profile), module.Gateway(**where) as gateway:
            cluster = gateway.connect(name, shutdown_on_close=False)
            cluster.wait_s = profile.wait_s  # read by the engine: no worker is left
            cluster.is_kept = is_kept  # noted beside the output
            client = cluster.get_client()
            if profile.name is None:
                _scale(cluster, profile)
        with client:
            _wait_for_worker(client, profile, name, until)
            yield client
    finally:
        if not is_kept and not getattr(cluster, "is_left", False):
            _end(module, where, name)


def leave_cluster(client: Client) -> None:
    """Let a cluster run on when its client goes: it has a driver of its own.

    Parameters
    ----------
    client : distributed.Client
        From `start_gateway`.
    """
    client.cluster.is_left = True


def ask_gateway(profile: GatewayProfile) -> str | None:
    """Ask how the cluster of a profile is.

    Parameters
    ----------
    profile : GatewayProfile
        With the cluster's ``name``.

    Returns
    -------
    str or None
        ``pending``, ``running``, ``stopping``, ``stopped``, ``failed``; None where
        there is none of that name.

    Raises
    ------
    JobError, StoppedError
        As of `start_gateway`.
    """
    module, where = _find(profile)

    async def ask() -> str | None:
        """Ask it, in a loop of its own."""
        async with module.Gateway(**where, asynchronous=True) as gateway:
            asked = gateway.get_cluster(profile.name)
            try:
                found = await asyncio.wait_for(asked, ASK_S)
            except ValueError:  # its client's word for 404
                return None
            return str(found.status.name.lower())

    with _explained(profile):
        return _in_thread(ask)


def stop_gateway(profile: GatewayProfile) -> None:
    """End the cluster of a profile.

    Parameters
    ----------
    profile : GatewayProfile
        With the cluster's ``name``.

    Raises
    ------
    JobError, StoppedError
        As of `start_gateway`.
    """
    module, where = _find(profile)

    async def stop() -> None:
        """End it, in a loop of its own."""
        async with module.Gateway(**where, asynchronous=True) as gateway:
            await asyncio.wait_for(gateway.stop_cluster(profile.name), ASK_S)

    with _explained(profile):
        _in_thread(stop)


def _find(profile: GatewayProfile) -> tuple[Any, dict[str, Any]]:
    """Give the client's library, and where the gateway is with who is asking."""
    module = require("dask_gateway", extra="gateway")
    return module, {
        "address": profile.address,
        "proxy_address": profile.proxy_address,
        "auth": make_auth(profile),
    }


def describe_cluster(client: Client) -> dict[str, Any] | None:
    """Tell how a cluster is found again; without any secret.

    Parameters
    ----------
    client : distributed.Client
        Connected.

    Returns
    -------
    dict or None
        Fields of a profile, with the cluster's ``name``; None for clusters that end
        with their driver.
    """
    cluster = client.cluster
    if type(cluster).__name__ != "GatewayCluster":
        return None
    kinds = {"BasicAuth": "basic", "JupyterHubAuth": "jupyterhub",
             "KerberosAuth": "kerberos"}  # fmt: skip
    return {
        "type": "gateway",
        "address": cluster.gateway.address,
        "proxy_address": cluster.gateway.proxy_address,
        "auth": kinds.get(type(cluster.gateway.auth).__name__, "token"),
        "name": cluster.name,
        "keep": getattr(cluster, "is_kept", True),
    }


async def _begin(
    module: Any, where: dict[str, Any], profile: GatewayProfile, until: float
) -> str:
    """Submit a cluster, or look for one, and wait until its scheduler runs."""
    status = module.client.ClusterStatus
    async with module.Gateway(**where, asynchronous=True) as gateway:
        name = profile.name
        if name is None:
            known = await asyncio.wait_for(gateway.cluster_options(), ASK_S)
            asked = _choose_options(profile, dict(known))
            name = await asyncio.wait_for(gateway.submit(**asked), ASK_S)
            _LOG.info("cluster %s begun", name)
        try:
            while True:
                found = await asyncio.wait_for(gateway.get_cluster(name), ASK_S)
                if found.status == status.RUNNING:
                    return str(name)
                if found.status != status.PENDING:
                    todo = "its scheduler's log says why: ask who runs the gateway"
                    if profile.name:
                        todo = "begin another: give the profile with --cluster"
                    state = found.status.name.lower()
                    raise StoppedError(
                        f"cluster {name} at {profile.address} is {state}; {todo}"
                    )
                if time.monotonic() > until:
                    raise StoppedError(
                        f"the scheduler of cluster {name} did not start within "
                        f"{profile.wait}; ask for less, or wait longer (`wait`)"
                    )
                await asyncio.sleep(LOOK_S)
        except BaseException:
            if profile.name is None:
                with suppress(Exception):
                    await asyncio.wait_for(gateway.stop_cluster(name), ASK_S)
            raise


def _choose_options(profile: GatewayProfile, known: dict[str, Any]) -> dict[str, Any]:
    """Options for the gateway, each of a name that it knows."""
    lacking = [name for name in profile.forward if name not in os.environ]
    if lacking:
        raise JobError(f"`forward` names {lacking[0]}, which is not set here; set it")
    environment = profile.environment | {n: os.environ[n] for n in profile.forward}
    asked = dict(profile.options)
    if profile.image is not None:
        asked["image"] = profile.image
    if environment:
        asked["environment"] = {**asked.get("environment", {}), **environment}
    for name in asked:
        if name not in known:
            offered = ", ".join(known) or "none"
            raise JobError(
                f"{profile.address} has no cluster option `{name}`"
                f"{suggest(name, known)}; it has {offered}"
            )
    return asked


def _refuse_secrets(profile: GatewayProfile) -> None:
    # not while the profile is checked, where messages repeat what was given
    for name in profile.environment:
        if is_secret(name):
            raise JobError(
                f"`environment` of the profile holds {name}, and secrets do not belong "
                "into files: set it here and name it in `forward`, or give the workers "
                "a role of their own"
            )


def _scale(cluster: Any, profile: GatewayProfile) -> None:
    """Ask for workers; what the gateway says about their number is passed on."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if profile.maximum is None:
            cluster.scale(profile.workers)
        else:
            cluster.adapt(minimum=profile.workers, maximum=profile.maximum)
    for one in told:
        _LOG.warning("%s: %s", profile.address, redact(str(one.message)))


def _wait_for_worker(
    client: Client, profile: GatewayProfile, name: str, until: float
) -> None:
    while not client.nthreads():
        if time.monotonic() > until:
            raise StoppedError(
                f"no worker joined cluster {name} within {profile.wait}; its image may "
                "lack what is needed, or there may be no room for what was asked for: "
                "ask for less, wait longer (`wait` in the profile), or ask who runs "
                "the gateway for the workers' logs; then run the same command again"
            )
        time.sleep(LOOK_S)


def _end(module: Any, where: dict[str, Any], name: str) -> None:
    """End a cluster; where that fails the gateway's idle timeout does it."""

    async def stop() -> None:
        async with module.Gateway(**where, asynchronous=True) as gateway:
            await asyncio.wait_for(gateway.stop_cluster(name), ASK_S)

    try:
        _in_thread(stop)
    except Exception as error:  # the run has ended, whatever becomes of it
        _LOG.warning("cluster %s may run on: %s", name, redact(str(error)))


def _in_thread(make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine in a thread of its own: notebooks have a loop in theirs."""
    running: list[tuple[asyncio.AbstractEventLoop, Any]] = []

    async def run() -> _T:
        running.append((asyncio.get_running_loop(), asyncio.current_task()))
        return await make()

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: asyncio.run(run()))
        try:
            return asked.result()
        except BaseException:  # Ctrl-C comes to this thread alone
            for loop, task in running:
                with suppress(RuntimeError):  # it is over already
                    loop.call_soon_threadsafe(task.cancel)
            raise


@contextmanager
def _explained(profile: GatewayProfile) -> Iterator[None]:
    """Turn what a gateway's client raises into what to do."""
    aiohttp = require("aiohttp", extra="gateway")
    module = require("dask_gateway", extra="gateway")
    where = profile.address
    try:
        yield
    except aiohttp.ClientResponseError as err:
        if err.status not in (401, 403):
            raise StoppedError(f"{where} answers {err.status} {err.message}") from None
        user = f" as {os.environ.get(USER) or getpass.getuser()}"
        told = {
            "basic": f"check {USER} and {PASSWORD}",
            "token": f"check {TOKEN}: it may have expired",
            "jupyterhub": f"check {HUB_TOKEN}: it may have expired",
            "kerberos": "run kinit",
        }[profile.auth]
        who = user if profile.auth == "basic" else ""
        raise JobError(
            f"{where} does not let you in{who} ({err.status}, `auth: {profile.auth}`); "
            f"{told}, or use another `auth`: basic, token, jupyterhub, kerberos"
        ) from None
    except (aiohttp.ClientError, OSError, TimeoutError) as err:
        raise StoppedError(
            f"no Dask Gateway answers at {where} "
            f"({redact(str(err) or type(err).__name__)}); check the address, and that "
            "this machine may reach it (VPN, proxy)"
            + (f"; also {profile.proxy_address}" if profile.proxy_address else "")
        ) from None
    except module.GatewayClusterError as err:
        raise StoppedError(f"{where}: {redact(str(err))}") from None
    except ValueError as err:  # its client's word for 404 and 422
        if isinstance(err, JobError):
            raise
        text = redact(str(err))
        if profile.name is not None:
            raise StoppedError(
                f"{where} has no cluster {profile.name} of yours any more ({text}); "
                "begin another: give the profile with --cluster"
            ) from None
        raise JobError(f"{where} refuses the cluster: {text}") from None
