"""A plan of a continent, made and driven in a process of its own; for test_million.

`python -m tests.support.million plan URL ITEMS BLOCKS` plans scenes over so many blocks
and stores the plan; `... resume URL` loads it and asks for the first block's items;
`... drive BLOCKS` passes blocks without work through driver, scheduler and ledger.
All print what it took as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.common import peak_mb

BLOCK_PX, SCENE_PX, STEP_PX = 1024, 10_980, 10_000
BANDS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08"}


def raw_items(count: int, side: int) -> Iterator[dict[str, Any]]:
    """Yield Sentinel-2 scenes on a lattice over a square of so many pixels; UTM 36."""
    across = -(-side // STEP_PX)
    for number in range(count):
        row, column = divmod(number % (across * across), across)
        left, top = 300_000 + 10.0 * STEP_PX * column, -10.0 * STEP_PX * row
        name = f"S2A_36NTF_{number:07d}_0_L2A"
        assets = {
            band: {
                "href": f"https://archive.invalid/36/N/TF/{name}/{key}.tif",
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "roles": ["data"],
                "eo:bands": [{"name": key, "common_name": band}],
                "raster:bands": [
                    {"nodata": 0, "data_type": "uint16", "scale": 1e-4, "offset": -0.1}
                ],
                "proj:shape": [SCENE_PX, SCENE_PX],
                "proj:transform": [10, 0, left, 0, -10, top],
            }
            for band, key in BANDS.items()
        }
        yield {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": name,
            "collection": "sentinel-2-l2a",
            "bbox": [30, 1, 31, 2],
            "properties": {
                "datetime": f"2024-01-{number % 28 + 1:02d}T08:00:00Z",
                "platform": "sentinel-2a",
                "proj:epsg": 32636,
                "s2:processing_baseline": "05.10",
            },
            "assets": assets,
        }


def plan(url: str, items: int, blocks: int) -> dict[str, Any]:
    """Plan and store."""
    from geoscale.api import load_model
    from geoscale.engine.journal import Journal
    from geoscale.launch import plan_source
    from geoscale.options import Inference, Output
    from geoscale.sources.opening import open_source

    side = BLOCK_PX * round(blocks**0.5)
    card = load_model("s2-landcover-unet")
    source = open_source(
        {"items": raw_items(items, side), "groupby": "all"},
        bands=card.input.bands,
        sensor=card.input.sensor,
        grid={
            "crs": "EPSG:32636",
            "resolution": 10,
            "bounds": (300_000, -10.0 * side, 300_000 + 10.0 * side, 0),
        },
    ).calibrated(card.input.units, card.input.multiply)
    made = plan_source(source, card, None, Inference(block=BLOCK_PX), Output())
    import dataclasses

    made = dataclasses.replace(made, live=source)
    Journal(url).begin(made)
    return {"blocks": len(made.numbers()), "items": len(source.item_ids)}


def resume(url: str) -> dict[str, Any]:
    """Load the plan, and find the files of its first block."""
    from geoscale.engine.journal import Journal
    from geoscale.sources.opening import source_of

    journal = Journal(url)
    made = journal.load_plan()
    assert made is not None
    ledger = journal.begin(made)
    source: Any = source_of(made)
    first = made.task(int(made.numbers()[0]))
    found = [source.items[int(i)].id for i in source._touching(first.read, 0)]
    return {"done": len(ledger.done), "blocks": len(made.numbers()), "first": found}


def drive(blocks: int) -> dict[str, Any]:
    """Pass blocks without work through two processes of workers."""
    from benchmarks.simulated import measure

    found: dict[str, Any] = measure(8, blocks, 0.0)
    return found


if __name__ == "__main__":
    VERB, *GIVEN = sys.argv[1:]
    DONE = {"plan": plan, "resume": resume, "drive": drive}[VERB](
        *[int(g) if g.isdigit() else g for g in GIVEN]  # type: ignore[operator]
    )
    DONE["cpu_s"] = round(time.process_time(), 1)
    DONE["peak_mb"] = round(peak_mb())
    print(json.dumps(DONE))
