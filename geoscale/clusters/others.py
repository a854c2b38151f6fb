"""Profiles of clusters that are neither this machine's processes nor batch jobs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from geoscale.clusters.batch import Memory

Host = Annotated[str, Field(pattern=r"^[\w.@:-]+$", max_length=253)]


class LocalGpuProfile(BaseModel):
    """One worker process for each GPU of this machine that is visible."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["local-gpu"]
    """``local-gpu``."""
    devices: tuple[str, ...] | None = None
    """Numbers or UUIDs; default: what ``CUDA_VISIBLE_DEVICES`` or the driver lists."""
    threads_per_worker: Annotated[int, Field(ge=1, le=64)] | None = None
    """Blocks a worker may hold at once; default: the job's ``in_flight``."""
    memory: Memory | Literal["auto"] = "auto"
    """Limit of one worker; auto: an equal share of what is allowed."""
    local_directory: str | None = None
    """Scratch folder of the workers; default: a temporary one."""


class SSHProfile(BaseModel):
    """Worker processes on machines that SSH reaches without a password."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["ssh"]
    """``ssh``."""
    hosts: Annotated[tuple[Host, ...], Field(min_length=1)]
    """Machines with the same environment and paths."""
    workers_per_host: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes; each holds the model once."""
    threads_per_worker: Annotated[int, Field(ge=1, le=64)] | None = None
    """Blocks a worker may hold at once; default: the job's ``in_flight``."""
    memory: Memory | Literal["auto"] = "auto"
    """Limit of one worker."""
    username: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    """Default: what SSH is set to."""
    python: str | None = None
    """Interpreter there; default: the path of this one."""
    interface: Annotated[str, Field(pattern=r"^[\w.:-]+$")] | None = None
    """Network that they speak by."""
    scratch: str | None = None
    """Local folder of the workers."""
    insecure: Literal[True]
    """``true``: Dask starts such clusters without TLS, so whoever reaches their ports
    can run code as you; say that you know."""


class GatewayProfile(BaseModel):
    """A Dask Gateway; who you are is read from the environment only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["gateway"]
    """``gateway``."""
    address: Annotated[str, Field(pattern=r"^https?://\S+$")]
    """Of the gateway."""
    proxy_address: Annotated[str, Field(pattern=r"^(gateway|tls)://\S+$")] | None = None
    """Of its schedulers' proxy, where it is another."""
    auth: Literal["basic", "jupyterhub", "kerberos"] = "basic"
    """How the gateway asks who you are."""
    options: dict[str, Any] = {}
    """Options of the gateway's clusters, such as ``image`` and ``worker_cores``."""
    workers: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Workers."""


class KubernetesProfile(BaseModel):
    """A cluster of Dask's operator on Kubernetes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["kubernetes"]
    """``kubernetes``."""
    image: Annotated[str, Field(pattern=r"^[\w./:@-]+$")]
    """Container image with geoscale, the same for driver and workers."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] = "default"
    """Namespace."""
    workers: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Pods of workers."""
    cores: Annotated[int, Field(ge=1, le=1024)] = 1
    """Of a pod."""
    memory: Memory = "4GB"
    """Of a pod."""
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    """Of a pod."""
