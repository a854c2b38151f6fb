"""One small output with a ragged edge in both axes, and its pixels."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from geoscale.card import OutputClass
from geoscale.sinks.zarr import ZarrSink
from geoscale.template import OutputTemplate
from geoscale.types import Layer
from geoscale.windows import Window

SHAPE = (150, 210)
BLOCK = 64


class Kit:
    """What the tests of this room share."""

    block = BLOCK
    shape = SHAPE

    @staticmethod
    def template(**changes) -> OutputTemplate:
        fields = {
            "geobox": GeoBox(
                SHAPE, Affine(10, 0, 300_000.5, 0, -10, 5_000_000.25), "EPSG:32636"
            ),
            "times": ("2024-05-01T00:00:00", "2024-06-01T10:20:30"),
            "block_px": BLOCK,
            "chunk_px": 32,
            "layers": (
                Layer(name="classes", dtype="uint8", fill_value=255),
                Layer(
                    name="confidence",
                    dtype="uint8",
                    fill_value=255,
                    attrs=(("scale_factor", 1 / 254),),
                ),
                Layer(
                    name="scores", dtype="float16", fill_value=float("nan"), classes=3
                ),
            ),
            "classes": (
                OutputClass(value=0, name="bare land", color="AABBCC"),
                OutputClass(value=1, name="water", color="0000FF"),
                OutputClass(value=7, name="cloud"),
            ),
            "attrs": {"title": "a map"},
        }
        return OutputTemplate(**{**fields, **changes})

    @staticmethod
    def cores() -> list[Window]:
        full = Window(0, 0, *SHAPE)
        return [
            Window(y, x, y + BLOCK, x + BLOCK) & full
            for y in range(0, SHAPE[0], BLOCK)
            for x in range(0, SHAPE[1], BLOCK)
        ]

    @staticmethod
    def pixels(time: int, core: Window) -> dict[str, np.ndarray]:
        y, x = np.mgrid[core.y0 : core.y1, core.x0 : core.x1]
        step = (y * 7 + x * 3 + time) % 11
        classes = np.array([0, 1, 7, 7, 255, 0, 1, 0, 0, 1, 7], np.uint8)[step]
        confidence = np.where(classes == 255, 255, (y * 31 + x) % 255).astype(np.uint8)
        scores = np.stack([y, x, y * 0 + time]).astype(np.float16)
        return {"classes": classes, "confidence": confidence, "scores": scores}

    def full(self, time: int) -> dict[str, np.ndarray]:
        return self.pixels(time, Window(0, 0, *SHAPE))

    def write_all(self, sink: ZarrSink) -> dict[str, str | None]:
        digests: dict[str, str | None] = {}
        for time in range(len(sink.template.times)):
            for core in self.cores():
                digests |= sink.write(time, core, self.pixels(time, core))
        return digests


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()


@pytest.fixture
def sink(kit, tmp_path) -> ZarrSink:
    made = ZarrSink(str(tmp_path / "out.zarr"), kit.template())
    made.create()
    return made


@pytest.fixture(scope="session")
def finished(kit, tmp_path_factory) -> str:
    """A finished output; read only."""
    url = str(tmp_path_factory.mktemp("finished") / "out.zarr")
    made = ZarrSink(url, kit.template())
    made.create()
    kit.write_all(made)
    made.finalize({"plan_hash": "abc"})
    return url
