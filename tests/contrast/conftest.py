from __future__ import annotations

import warnings

import numpy as np
import pytest

from geoscale.contrast.pairs import Pair
from geoscale.contrast.places import pick_places
from geoscale.windows import Window


class Held:
    """Two whole images as a sample."""

    def __init__(self, before, after, valid=None, places=None):
        shape = before.shape[1:]
        valid = np.ones(shape, bool) if valid is None else valid
        places = places or pick_places(shape, everywhere, bands=len(before))
        self.pairs = [
            Pair(w, *(x[(..., *_slices(w))] for x in (before, after, valid)))
            for w in places
        ]

    def map(self, work):
        return [work(pair) for pair in self.pairs]


def _slices(window):
    return window.within(Window(0, 0, window.y1, window.x1))


def everywhere(ys, xs):
    return np.ones((len(ys) - 1, len(xs) - 1), bool)


@pytest.fixture(scope="session")
def taizhou(data_dir):
    """Both dates, (band, y, x) float32, and labels: 1 changed, 0 not, -1 unknown."""
    rasterio = pytest.importorskip("rasterio")
    found = []
    for name in ("2000TM", "2003TM", "change.bmp", "unchanged.bmp"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(data_dir / "taizhou" / name) as file:
                found.append(file.read())
    labels = np.where(found[2][0] > 0, 1, np.where(found[3][0] > 0, 0, -1))
    return found[0].astype(np.float32), found[1].astype(np.float32), labels
