"""Cluster profiles: a small YAML file, an address or a number, checked.

Nothing is started here, and Dask is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from geoscale.card import explain_validation
from geoscale.clusters.batch import (
    BatchProfile,
    HTCondorProfile,
    LsfProfile,
    PbsProfile,
    SgeProfile,
    SlurmProfile,
)
from geoscale.clusters.hosts import HERE as HERE
from geoscale.clusters.hosts import is_here as is_here
from geoscale.clusters.others import (
    GatewayProfile,
    KubernetesProfile,
    LocalGpuProfile,
    SSHProfile,
)
from geoscale.errors import JobError
from geoscale.plain import read_yaml
from geoscale.words import shorten, suggest

ENCRYPTED = ("tls", "wss", "inproc")
"""Schemes of addresses that nobody on the way can read or change."""
_TLS_FILES = ("tls_ca_file", "tls_cert", "tls_key")


class LocalProfile(BaseModel):
    """Worker processes on this machine; others reach them only by TLS."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["local"]
    """``local``."""
    workers: Annotated[int, Field(ge=1, le=512)] = 1
    """Processes; each holds the model once."""
    threads_per_worker: Annotated[int, Field(ge=1, le=64)] | None = None
    """Blocks a worker may hold at once; default: the job's ``in_flight``."""
    memory: Annotated[str, Field(pattern=r"^(auto|\d+(\.\d+)? ?([kMGT]i?)?B)$")] = (
        "auto"
    )
    """Limit of one worker, ``4GB``; auto: an equal share of what is allowed."""
    dashboard: bool = False
    """Whether Dask's dashboard is served, on a free port of 127.0.0.1."""
    local_directory: str | None = None
    """Scratch folder of the workers; default: a temporary one."""
    host: Annotated[str, Field(pattern=r"^[\w.:-]+$")] = HERE
    """Address to listen on; any that other machines reach brings TLS."""
    tls_folder: str | None = None
    """Gets the certificate and the key, readable by you alone, and a profile with which
    others of yours join; they go when the cluster ends."""
    insecure: bool = False
    """Listen beyond this machine without TLS."""

    @property
    def has_tls(self) -> bool:
        """Whether what is sent is encrypted, and strangers are turned away."""
        return not (is_here(self.host) or self.insecure)

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if self.tls_folder is not None and not self.has_tls:
            why = "`insecure: true`" if self.insecure else f"`host: {self.host}`"
            raise ValueError(f"`tls_folder` goes with TLS; {why} has none")
        return self


class SchedulerProfile(BaseModel):
    """A scheduler that runs already."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["scheduler"]
    """``scheduler``."""
    address: Annotated[str, Field(pattern=r"^(tcp|tls|ucx|ws|wss|inproc)://\S+$")]
    """``tcp://host:8786``, or ``tls://``."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """How long to try, in s."""
    tls_ca_file: str | None = None
    """Certificate of the authority that signed the scheduler's, PEM."""
    tls_cert: str | None = None
    """Certificate of this client, PEM."""
    tls_key: str | None = None
    """Key of this client, PEM."""

    @property
    def is_open(self) -> bool:
        """Whether others in the network can read and change what is sent."""
        parts = urlsplit(self.address)
        return parts.scheme not in ENCRYPTED and not is_here(parts.hostname or "")

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        lacking = [name for name in _TLS_FILES if getattr(self, name) is None]
        if len(lacking) == len(_TLS_FILES):
            return self
        if lacking:
            raise ValueError(f"`{lacking[0]}` is missing; TLS needs all three files")
        if not self.address.startswith(("tls://", "wss://")):
            raise ValueError("TLS files go with an address of tls:// or wss://")
        return self


Profile = (
    LocalProfile
    | SchedulerProfile
    | BatchProfile
    | LocalGpuProfile
    | SSHProfile
    | GatewayProfile
    | KubernetesProfile
)
_TYPES: dict[str, type[Profile]] = {
    "local": LocalProfile,
    "local-gpu": LocalGpuProfile,
    "slurm": SlurmProfile,
    "pbs": PbsProfile,
    "lsf": LsfProfile,
    "sge": SgeProfile,
    "htcondor": HTCondorProfile,
    "ssh": SSHProfile,
    "gateway": GatewayProfile,
    "kubernetes": KubernetesProfile,
    "scheduler": SchedulerProfile,
}
_PATHS = (*_TLS_FILES, "tls_folder", "shared", "logs")
"""Keys whose paths are relative to the file."""


def load_profile(profile: str | Path | int | Mapping[str, Any]) -> Profile:
    """Read and check a profile; nothing is started.

    Parameters
    ----------
    profile : str, Path, int or mapping
        YAML file, address of a scheduler, number of local workers, or the
        fields themselves.

    Returns
    -------
    Profile
        Checked; of the type that it names.

    Raises
    ------
    JobError
        If there is no such file, or a key is unknown or of the wrong kind.

    Examples
    --------
    >>> load_profile("2").workers
    2
    >>> load_profile("tcp://10.0.0.1:8786").address
    'tcp://10.0.0.1:8786'
    """
    if isinstance(profile, Mapping):
        return _check(dict(profile), "cluster profile")
    text = str(profile)
    if text.lstrip("-").isdigit():
        return _check({"type": "local", "workers": int(text)}, f"{text} local workers")
    if "://" in text:
        return _check({"type": "scheduler", "address": text}, "scheduler")
    path = Path(text)
    found = _check(_read(path), text)
    # paths in a file are relative to it
    names = [n for n in _PATHS if getattr(found, n, None)]
    base = path.resolve().parent
    places = {n: str(base / Path(getattr(found, n)).expanduser()) for n in names}
    return found.model_copy(update=places)


def find_shipped(name: str) -> Path | None:
    """Find a profile that comes with geoscale; None where there is none of the name.

    Examples
    --------
    >>> find_shipped("slurm").name
    'slurm.yaml'
    """
    here = Path(__file__).resolve().parent
    # in a wheel, and in a checkout
    for folder in (here / "shipped", here.parents[1] / "clusters"):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    return None


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise JobError(
            f"cluster profile {path} does not exist; give a YAML file, the address of "
            "a scheduler (tcp://host:8786) or a number of local workers"
        )
    data = read_yaml(path, "cluster profile", JobError)
    if not isinstance(data, dict):
        kind = "empty" if data is None else f"a {type(data).__name__}"
        raise JobError(f"cluster profile {path} is {kind}; it needs `type: local`")
    return data


def _check(data: dict[str, Any], where: str) -> Profile:
    kind = str(data.get("type"))
    if kind not in _TYPES:
        hint = suggest(kind, _TYPES) or f"; known are {', '.join(_TYPES)}"
        said = (
            f"type `{shorten(kind)}` is unknown"
            if "type" in data
            else "`type` is missing"
        )
        raise JobError(f"{where}: {said}{hint}")
    model = _TYPES[kind]
    try:
        return model.model_validate(data)
    except ValidationError as err:
        raise JobError(f"{where}: {explain_validation(err, model)}") from None
