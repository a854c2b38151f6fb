"""Two images as the sample of a first pass."""

from __future__ import annotations

import numpy as np

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
