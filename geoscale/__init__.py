"""geoscale: pretrained models over more imagery than fits in one machine."""

from __future__ import annotations

__version__ = "0.1.0"
