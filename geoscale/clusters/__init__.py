"""Clusters: profiles to a Dask client; with the engine's, the only door to Dask."""

from geoscale.clusters.asking import ask_scheduler, ask_workers
from geoscale.clusters.connecting import DASK_SETTINGS, connect
from geoscale.clusters.local import count_local_workers
from geoscale.clusters.profiles import (
    LATER,
    LocalProfile,
    Profile,
    SchedulerProfile,
    load_profile,
)

__all__ = [
    "DASK_SETTINGS",
    "LATER",
    "LocalProfile",
    "Profile",
    "SchedulerProfile",
    "ask_scheduler",
    "ask_workers",
    "connect",
    "count_local_workers",
    "load_profile",
]
