"""One job of the cost curve, in a process of its own: SIZE in px, prints JSON."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path


def main() -> None:
    warnings.simplefilter("ignore")
    from benchmarks.common import peak_mb, timed
    from benchmarks.curve_bench import curve_workload
    from benchmarks.kernels import local_kernel, make_plan, run_job

    items = Path(sys.argv[1])
    plan = make_plan(curve_workload(), items)
    local_kernel(plan)
    idle = peak_mb()
    spent = timed(lambda: run_job(plan))
    found = {
        "wall_s": round(spent.wall, 3),
        "cpu_s": round(spent.cpu, 3),
        "peak_mb": peak_mb(),
        "idle_mb": idle,
        "blocks": len(plan.numbers()),
        "stored_bytes": spent.value.stored_bytes,
        "inference": plan.inference.model_dump(mode="json"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
