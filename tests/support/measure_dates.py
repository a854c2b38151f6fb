"""Read composites of many dates in a process of its own and print what they took.

`python -m tests.support.measure_dates METHOD DATES FOLDER`; the folder holds
``items.json`` of a few dates, which are repeated.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import peak_mb
from geoscale.testing import FakePredictor, toy_card
from geoscale.windows import Window


def repeat(items: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Give as many dates as are asked for, one a day."""
    days = np.datetime64("2024-01-01") + np.arange(count)
    return [
        {
            **items[k % len(items)],
            "id": f"scene-{k:03d}",
            "properties": items[k % len(items)]["properties"]
            | {"datetime": f"{day}T10:00:00Z"},
        }
        for k, day in enumerate(days)
    ]


def main() -> None:
    method, count, folder = sys.argv[1:4]
    from geoscale.assemble import make_task
    from geoscale.engine.block import Kernel, infer_block
    from geoscale.planner import make_plan
    from geoscale.preprocess import Preprocessor
    from geoscale.sources import open_source

    found = json.loads(Path(folder, "items.json").read_text())
    imagery = {
        "items": repeat(found, int(count)),
        "composite": method,
        "mask": {"asset": "scl", "keep": [4, 5], "dilate": 2},
        "allow_private": True,
    }
    source = open_source(imagery, bands=["red", "nir"])
    assert len(source.base.times) == int(count)
    card = toy_card(bands=2)
    plan = make_plan(source, card, weights_sha256="0")
    kernel = Kernel(
        plan=plan,
        source=source,
        prepare=Preprocessor.from_card(card),
        predictor=FakePredictor(classes=3),
        task=make_task(plan),
        device_lock=threading.Lock(),
    )
    source.read(Window(0, 0, 32, 32), [0])  # whatever is loaded only once
    start = peak_mb()
    infer_block(kernel, plan.task(0))
    need = plan.memory()
    print(
        json.dumps(
            {
                "start": start,
                "peak": peak_mb(),
                "projected": (need.total - need.reserved) / 1e6,
            }
        )
    )


if __name__ == "__main__":
    main()
