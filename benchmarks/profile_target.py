"""What is profiled: one job, its network loaded before; `profile_bench` starts it."""

from __future__ import annotations

import sys
import warnings


def main() -> None:
    warnings.simplefilter("ignore")
    from benchmarks.kernels import local_kernel, make_plan, run_job
    from benchmarks.workloads import get_workload

    workload, size = get_workload(sys.argv[1]), int(sys.argv[2])
    plan = make_plan(workload, workload.items(size))
    local_kernel(plan)
    profiled_job(run_job, plan)


def profiled_job(run_job, plan) -> None:
    """The frame below which samples count."""
    run_job(plan)


if __name__ == "__main__":
    main()
