"""Clusters: profiles to a Dask client; with the engine's, the only door to Dask."""

from geoscale.clusters.asking import ask_scheduler, ask_workers
from geoscale.clusters.batch import BatchProfile, HTCondorProfile, Shape
from geoscale.clusters.connecting import DASK_SETTINGS, connect
from geoscale.clusters.courier import Courier
from geoscale.clusters.gateway import describe_cluster, leave_cluster, stop_gateway
from geoscale.clusters.jobqueue import check_jobs, find_own_job, write_worker_script
from geoscale.clusters.local import count_local_workers
from geoscale.clusters.others import GatewayProfile
from geoscale.clusters.profiles import (
    LocalProfile,
    Profile,
    SchedulerProfile,
    find_shipped,
    load_profile,
)
from geoscale.clusters.queues import GONE, QUEUES, UNKNOWN, JobState
from geoscale.clusters.residence import (
    ask_cluster,
    call_scheduler,
    connect_inside,
    end_cluster,
    send_to_scheduler,
)
from geoscale.clusters.scripts import (
    Kind,
    Script,
    find_asked,
    write_script,
    write_submit,
)

__all__ = [
    "DASK_SETTINGS",
    "GONE",
    "QUEUES",
    "UNKNOWN",
    "BatchProfile",
    "Courier",
    "GatewayProfile",
    "HTCondorProfile",
    "JobState",
    "Kind",
    "LocalProfile",
    "Profile",
    "SchedulerProfile",
    "Script",
    "Shape",
    "ask_cluster",
    "ask_scheduler",
    "ask_workers",
    "call_scheduler",
    "check_jobs",
    "connect",
    "connect_inside",
    "count_local_workers",
    "describe_cluster",
    "end_cluster",
    "find_asked",
    "find_own_job",
    "find_shipped",
    "leave_cluster",
    "load_profile",
    "send_to_scheduler",
    "stop_gateway",
    "write_script",
    "write_submit",
    "write_worker_script",
]
