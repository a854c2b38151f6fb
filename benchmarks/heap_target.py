"""One network on batches of random pixels; prints one JSON line.

``python -m benchmarks.heap_target WORKLOAD COUNT``
"""

from __future__ import annotations

import argparse
import json
import warnings

import numpy as np

from benchmarks.common import peak_mb, timed
from benchmarks.workloads import SEED, get_workload
from geoscale.models.heap import keep_freed_memory
from geoscale.models.runtimes import ModelSettings, load_predictor

BATCH = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload")
    parser.add_argument("count", type=int)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    workload = get_workload(args.workload)
    size = int(workload.options["patch_px"])
    predictor = load_predictor(
        workload.card, ModelSettings(runtime="torch", device="cpu", batch=BATCH)
    )
    rng = np.random.default_rng(SEED)
    shape = (BATCH, workload.card.input.channels, size, size)
    patches = rng.random(shape, np.float32)
    predictor.predict(patches)
    spent = [timed(lambda: predictor.predict(patches)) for _ in range(args.count)]
    walls = sorted(s.wall for s in spent)
    told = {
        "kept": keep_freed_memory() is not None,
        "patch": size,
        "batch": BATCH,
        "wall_s": round(walls[len(walls) // 2], 4),
        "cpu_s": round(sorted(s.cpu for s in spent)[len(walls) // 2], 4),
        "mpx_s": round(BATCH * size**2 / 1e6 / walls[len(walls) // 2], 3),
        "peak_mb": peak_mb(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
