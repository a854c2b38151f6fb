"""SimpleCNN that takes its time, if the environment says so; the answer is the same."""

from __future__ import annotations

import os
import time

from tests.support.simplecnn import SimpleCNN


class SlowSimpleCNN(SimpleCNN):
    """Sleeps before every batch for ``GEOSCALE_TEST_DELAY`` seconds."""

    def forward(self, x):
        time.sleep(float(os.environ.get("GEOSCALE_TEST_DELAY", "0")))
        return super().forward(x)
