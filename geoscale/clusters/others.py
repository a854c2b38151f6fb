"""Profiles of clusters that are neither this machine's processes nor batch jobs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from geoscale.clusters.batch import Memory
from geoscale.clusters.devices import check_names
from geoscale.clusters.hosts import is_here
from geoscale.durations import parse_duration
from geoscale.errors import JobError

Host = Annotated[str, Field(pattern=r"^[\w][\w.@:-]*$", max_length=253)]


class LocalGpuProfile(BaseModel):
    """One worker process for each GPU of this machine that is visible."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

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

    @field_validator("devices")
    @classmethod
    def _check_devices(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None:
            if not names:
                raise ValueError("no device is named; leave it out to use all")
            check_names(names)
        return names


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
    ssh_config: str | None = None
    """Configuration of ``ssh``; default: ``~/.ssh/config``."""
    insecure: bool = False
    """Do without TLS: whoever reaches the scheduler's port can run code as you."""


class GatewayProfile(BaseModel):
    """A Dask Gateway; who you are is read from the environment only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["gateway"]
    """``gateway``."""
    address: Annotated[str, Field(pattern=r"^https?://[^\s@?#]+$")]
    """Of the gateway; user and password do not belong into it."""
    proxy_address: (
        Annotated[str, Field(pattern=r"^(gateway|tls)://[^\s@?#]+$")] | None
    ) = None
    """Of its schedulers' proxy, where it is another."""
    auth: Literal["basic", "token", "jupyterhub", "kerberos"] = "basic"
    """How the gateway asks who you are; secrets come from the environment."""
    image: str | None = None
    """Container image with geoscale; goes into the gateway's option ``image``."""
    environment: dict[str, str] = {}
    """Variables of the workers, no secrets; go into the option ``environment``."""
    forward: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], ...] = ()
    """Names of variables of this process that workers get as well, such as credentials
    of the store; the gateway's administrators can read them."""
    options: dict[str, Any] = {}
    """Other options of the gateway's clusters, such as ``worker_cores``."""
    workers: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Workers; of an adaptive cluster the fewest."""
    maximum: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Most workers, where the gateway is to add and remove them as needed."""
    wait: str = "15m"
    """How long to wait for the scheduler, and for the first worker."""
    keep: bool | None = None
    """Leave the cluster when the command ends; the gateway's idle timeout ends it.
    Default: only one that is found by its name."""
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    """A cluster of yours that runs already; it is used as it is."""

    @property
    def wait_s(self) -> float:
        """How long to wait, in s."""
        return parse_duration(self.wait, "wait")

    @property
    def is_open(self) -> bool:
        """Whether a password or token would cross a network unencrypted."""
        return self.address.startswith("http://") and not is_here(
            urlsplit(self.address).hostname or ""
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.maximum is not None and self.maximum < self.workers:
            raise ValueError(
                f"`maximum: {self.maximum}` is less than `workers: {self.workers}`"
            )
        for key in ("image", "environment"):
            if key in self.options and getattr(self, key):
                raise ValueError(f"`{key}` is given twice; take it out of `options`")
        try:
            parse_duration(self.wait, "wait")
        except JobError as err:
            raise ValueError(str(err)) from None
        return self


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
