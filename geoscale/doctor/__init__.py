"""The doctor: what this machine, a store and a cluster have, and what is wrong.

Every finding that is not fine says how to mend it. Nothing is changed, and no
value that may hold a secret is shown.
"""

from geoscale.doctor.cluster import check_cluster, compare_versions
from geoscale.doctor.environment import check_environment, check_proj
from geoscale.doctor.finding import Finding, Level
from geoscale.doctor.machine import (
    check_cpus,
    check_disk,
    check_gdal,
    check_memory,
    check_torch,
    check_versions,
)
from geoscale.doctor.store import check_store
from geoscale.doctor.visit import examine

__all__ = [
    "Finding",
    "Level",
    "check_cluster",
    "check_cpus",
    "check_disk",
    "check_environment",
    "check_gdal",
    "check_memory",
    "check_proj",
    "check_store",
    "check_torch",
    "check_versions",
    "compare_versions",
    "examine",
]
