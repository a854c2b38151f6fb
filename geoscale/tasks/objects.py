"""Detection: no layer of pixels at all; what is found goes to a table."""

from __future__ import annotations

from geoscale.types import Array, Bool, Float, Layer


class Objects:
    """Task of a detector, whose blocks `geoscale.engine.objects` makes."""

    layers: tuple[Layer, ...] = ()
    on_device = None

    def finish(self, scores: Float, valid: Bool) -> dict[str, Array]:
        """Give no layer; a detector has no scores of pixels."""
        return {}
