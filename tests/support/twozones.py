"""A small job over the border of two UTM zones, and a third without imagery."""

from __future__ import annotations

from tests.support.globe import blur_card, north_up, write_scene

BBOX = (35.85, 49.9, 36.15, 50.05)
"""Across 36° E, where zones 36 and 37 meet."""
STEP = 200.0


def make_job(folder, bbox=BBOX, **more):
    """Write imagery and model; give the job's fields.

    The files of each zone end a little beyond its border, as those of Sentinel-2 do.
    """
    folder.mkdir(exist_ok=True)
    write_scene(
        folder / "a36_20240601.tif", "EPSG:32636", north_up(700_000, 5_553_000, STEP),
        (110, 140),
    )  # fmt: skip
    write_scene(
        folder / "b37_20240601.tif", "EPSG:32637", north_up(282_000, 5_553_000, STEP),
        (110, 100),
    )  # fmt: skip
    return {
        "imagery": {"files": str(folder / "*.tif"), "groupby": "all"},
        "grid": {"crs": "utm", "bbox": bbox},
        "model": blur_card(folder),
        "inference": {"block": 22},
        "output": {"to": str(folder / "out")},
        **more,
    }
