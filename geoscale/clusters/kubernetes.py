"""Kubernetes: a cluster of Dask's operator, described here and run by its client."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from geoscale.clusters.jobqueue import WORKER_SETTINGS
from geoscale.clusters.others import KubernetesProfile
from geoscale.errors import StoppedError, require
from geoscale.types import Json
from geoscale.words import redact, shorten

if TYPE_CHECKING:
    from distributed import Client

SCHEDULER = {"cpu": "1", "memory": "4G"}
"""What the scheduler's pod gets: the engine keeps it small."""
READY_S = 600.0
"""How long pods have to start, in s: images with torch are large."""
SETTINGS = {
    "DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING": "False",
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "10 minutes",
}
"""Settings of Dask for the scheduler, as `connecting.DASK_SETTINGS`."""


@contextmanager
def start_kubernetes(profile: KubernetesProfile, threads: int) -> Iterator[Client]:
    """Create a cluster of Dask's operator, and delete it at the end.

    Parameters
    ----------
    profile : KubernetesProfile
        What to ask for.
    threads : int
        Of a worker, where the profile leaves that open.

    Yields
    ------
    distributed.Client
        Connected through the API server, or as Dask's settings say; one worker at
        least is there.

    Raises
    ------
    MissingDependencyError
        If `dask-kubernetes` is not installed.
    StoppedError
        If the API server or the operator refuses, in its words, or no pod starts.
    """
    operator = require("dask_kubernetes.operator", extra="kubernetes")
    from distributed import Client

    spec = make_spec(profile, f"geoscale-{uuid.uuid4().hex[:8]}", threads)
    try:
        made = operator.KubeCluster(
            custom_cluster_spec=spec,
            namespace=profile.namespace,
            shutdown_on_close=True,
            resource_timeout=int(READY_S),
            quiet=True,
        )
    except Exception as err:  # of several libraries, none with a class for all
        raise StoppedError(
            f"Kubernetes did not start a cluster in namespace {profile.namespace}: "
            f"{redact(shorten(str(err) or type(err).__name__, 300))}; check `kubectl "
            f"get daskclusters -n {profile.namespace}`, and that Dask's operator runs"
        ) from None
    with made as cluster, Client(cluster) as client:
        try:
            client.wait_for_workers(1, timeout=READY_S)
        except TimeoutError:
            raise StoppedError(
                f"no worker joined within {READY_S:g} s; `kubectl describe pods -n "
                f"{profile.namespace}` says why: no room for {profile.cores} cores and "
                f"{profile.memory}, or an image that cannot be had"
            ) from None
        yield client


def make_spec(profile: KubernetesProfile, name: str, threads: int) -> Json:
    """Describe a cluster as the operator's resource ``DaskCluster``.

    Parameters
    ----------
    profile : KubernetesProfile
        What to ask for.
    name : str
        Of the resource.
    threads : int
        Of a worker, where the profile leaves that open.

    Returns
    -------
    dict
        For ``kubectl apply``, or `dask_kubernetes.operator.KubeCluster`.

    References
    ----------
    .. [1] https://kubernetes.dask.org/en/latest/operator_resources.html
    """
    from dask.utils import parse_bytes

    memory = str(int(parse_bytes(profile.memory)))
    needs = {"cpu": str(profile.cores), "memory": memory}
    if profile.gpus:
        needs["nvidia.com/gpu"] = str(profile.gpus)
    worker = ["dask", "worker", "--name", "$(DASK_WORKER_NAME)", "--no-dashboard"]
    worker += ["--nthreads", str(threads), "--memory-limit", memory]
    comm = {"name": "tcp-comm", "containerPort": 8786, "protocol": "TCP"}
    http = {"name": "http-dashboard", "containerPort": 8787, "protocol": "TCP"}
    health = {"httpGet": {"port": "http-dashboard", "path": "/health"}}
    scheduler: Json = _container("scheduler", profile.image, SCHEDULER, SETTINGS)
    scheduler |= {
        # the pod's own network, which services and probes reach
        "args": ["dask", "scheduler", "--host", "0.0.0.0"],  # noqa: S104
        "ports": [comm, http],
        "readinessProbe": {**health, "periodSeconds": 2, "timeoutSeconds": 30},
        "livenessProbe": {**health, "initialDelaySeconds": 30, "periodSeconds": 20,
                          "timeoutSeconds": 30},
    }  # fmt: skip
    node: Json = _container("worker", profile.image, needs, WORKER_SETTINGS)
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": name},
        "spec": {
            "worker": {
                "replicas": profile.workers,
                "spec": {"containers": [node | {"args": worker}]},
            },
            "scheduler": {
                "spec": {"containers": [scheduler]},
                "service": {
                    "type": "ClusterIP",
                    "selector": {
                        "dask.org/cluster-name": name,
                        "dask.org/component": "scheduler",
                    },
                    "ports": [
                        {"name": one["name"], "protocol": "TCP",
                         "port": one["containerPort"], "targetPort": one["name"]}
                        for one in (comm, http)
                    ],
                },
            },
        },
    }  # fmt: skip


def _container(
    name: str, image: str, needs: dict[str, str], settings: dict[str, str]
) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "env": [{"name": key, "value": value} for key, value in settings.items()],
        # asked for and allowed are one: pods that may take more are killed first
        "resources": {"requests": dict(needs), "limits": dict(needs)},
    }
