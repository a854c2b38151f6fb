"""One contender, once, in a process of its own; `peers_bench` starts it.

``python -m benchmarks.contender WORKLOAD CONTENDER SIZE OUT`` prints one JSON line.
Imports, model loading and planning are timed apart from the work.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.common import peak_mb, timed

OURS: dict[str, dict[str, Any]] = {
    "geoscale": {"runtime": "native"},
    "geoscale auto": {"runtime": "auto"},
    "geoscale auto precision": {"runtime": "auto", "precision": "auto"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload")
    parser.add_argument("contender")
    parser.add_argument("size", type=int)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    run = run_ours if args.contender in OURS else run_peer
    print(json.dumps(run(args.workload, args.contender, args.size, args.out)))


def run_peer(workload: str, name: str, size: int, out: Path) -> dict[str, Any]:
    """Run a peer's recipe."""
    start = time.perf_counter()
    from benchmarks.peer_recipes import PEERS, Network, Scene
    from benchmarks.workloads import get_peer_workload
    from geoscale.memory import allowed_cpus

    chosen = get_peer_workload(workload)
    items = chosen.items(size)
    net = Network(chosen.card, allowed_cpus())
    net.warm()
    import_peer(name)
    loaded = time.perf_counter() - start
    scene = Scene(items, size, net, out)
    spent = timed(lambda: PEERS[name](scene))
    made = spent.value
    return {
        "wall_s": round(spent.wall, 3),
        "cpu_s": round(spent.cpu, 3),
        "load_s": round(loaded, 3),
        "peak_mb": peak_mb(),
        "recompute": round(net.seen_px / size**2, 3),
        "borders": [made.borders, made.borders],
        "map": str(made.path),
        "how": f"{made.how}; {net.kind}",
    }


def import_peer(name: str) -> None:
    """Import what the recipe imports, so that its time is not the work's."""
    modules = {
        "monai": ["monai.inferers"],
        "torchgeo": ["torchgeo.datasets", "torchgeo.samplers"],
        "ukis-csmask": ["ukis_csmask.mask"],
        "terratorch": ["terratorch.tasks.tiled_inference"],
        "stackstac+dask": ["stackstac", "pystac", "dask.array", "zarr"],
        "xbatcher": ["xbatcher", "rioxarray", "xarray"],
    }
    for module in ["rasterio", *modules[name]]:
        importlib.import_module(module)


def run_ours(workload: str, name: str, size: int, out: Path) -> dict[str, Any]:
    """Run geoscale through its public verbs; a refusal is a result."""
    start = time.perf_counter()
    import geoscale as gs
    from benchmarks.kernels import local_kernel, make_plan
    from benchmarks.workloads import get_peer_workload
    from geoscale.errors import GeoscaleError

    for module in ("rasterio", "zarr", "pyarrow.parquet", "geoscale.api"):
        importlib.import_module(module)  # as for the peers
    chosen = get_peer_workload(workload)
    items = chosen.items(size)
    options = resolve(OURS[name], chosen.card)
    imported = time.perf_counter() - start
    try:
        planned = timed(
            lambda: make_plan(chosen, items, output={"layers": ["classes"]}, **options)
        )
        plan = planned.value
        loaded = timed(lambda: local_kernel(plan))
        spent = timed(lambda: gs.run(plan, out.with_suffix(".zarr")))
    except GeoscaleError as err:
        return {"refused": f"{type(err).__name__}: {err}"}
    assert spent.value.complete, str(spent.value)
    inference = plan.inference.model_dump(mode="json")
    return {
        "wall_s": round(spent.wall, 3),
        "cpu_s": round(spent.cpu, 3),
        "load_s": round(imported + loaded.wall, 3),
        "plan_s": round(planned.wall, 3),
        "peak_mb": peak_mb(),
        "recompute": round(plan.recompute(shared=True), 3),
        "borders": lattice_borders(plan.lattice),
        "map": str(out.with_suffix(".zarr")),
        "how": "open_stack, plan, run: verified Zarr with overviews; "
        + ", ".join(f"{k} {inference.get(k)}" for k in ("runtime", "precision", "patch",
                                                      "stride", "merge", "block")),
        "inference": inference,
        "predictor": loaded.value.predictor.describe(),
        "notes": list(plan.notes),
    }  # fmt: skip


def resolve(options: dict[str, Any], card: Any) -> dict[str, Any]:
    """``native`` by its name: the peers' own runtime for this file."""
    if options.get("runtime") != "native":
        return options
    onnx = str(card.weights.href).endswith(".onnx")
    return options | {"runtime": "onnx" if onnx else "torch"}


def lattice_borders(lattice: Any) -> list[list[int]]:
    """First pixels after every place where patches meet, along both axes."""
    found = []
    for axis in (lattice.y, lattice.x):
        starts = {axis.start(k) for k in range(axis.count)}
        lines = starts | {s + axis.patch for s in starts}
        if lattice.merge == "crop":
            lines = {axis.core(k)[0] for k in range(axis.count)}
        found.append(sorted(b for b in lines if 0 < b < axis.length))
    return found


if __name__ == "__main__":
    main()
