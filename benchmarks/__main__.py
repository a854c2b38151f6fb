"""Run benchmarks by name, all by default, and make the page anew."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import time
import traceback
import warnings
from pathlib import Path

from benchmarks.common import RESULTS, Options, save, say

NAMES = (
    "efficiency",
    "profile",
    "peers",
    "dataplane",
    "readers",
    "scaling",
    "curve",
    "strides",
    "heap",
    "shards",
)
ASKED = ("gpu",)
"""Run only where it is named: it needs a CUDA device."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=", ".join(NAMES + ASKED)
    )
    parser.add_argument("--size", type=int, help="height and width of scenes, in px")
    parser.add_argument("--repeat", type=int, help="runs of which the median counts")
    parser.add_argument("--workloads", default="", help="some of ukis,unet,landcover")
    parser.add_argument(
        "--device", help="cuda, cpu (efficiency); default what is there"
    )
    parser.add_argument("--quick", action="store_true", help="small, once: does it run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where JSON goes")
    args = parser.parse_args()
    unknown = set(args.names) - {*NAMES, *ASKED, "page"}
    if unknown:
        parser.error(
            f"no benchmark `{min(unknown)}`; known: page, {', '.join(NAMES + ASKED)}"
        )
    warnings.simplefilter("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"
    if args.quick and args.results == RESULTS:
        parser.error("--quick says little: give it a --results folder of its own")
    options = Options(
        args.size,
        args.repeat,
        args.quick,
        args.results,
        tuple(name for name in args.workloads.split(",") if name),
        args.device,
    )
    failed = [name for name in args.names or NAMES if not run_one(name, options)]
    from benchmarks.page import write_page

    say(f"page: {write_page(options.results)}")
    if failed:
        sys.exit(f"failed, older results kept: {', '.join(failed)}")


def run_one(name: str, options: Options) -> bool:
    """Run one benchmark; a failure costs its own result, not the hours of others."""
    if name == "page":
        return True
    if importlib.util.find_spec(f"benchmarks.{name}_bench") is None:
        say(f"{name}: there is no benchmarks/{name}_bench.py, skipped")
        return True
    say(f"{name} …")
    start = time.perf_counter()
    try:
        result = importlib.import_module(f"benchmarks.{name}_bench").run(options)
    except Exception:
        traceback.print_exc()
        return False
    result["took_s"] = round(time.perf_counter() - start, 1)
    say(f"{name}: {save(name, options, result)}")
    return True


if __name__ == "__main__":
    main()
