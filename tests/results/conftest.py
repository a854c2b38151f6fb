from __future__ import annotations

from tests.evaluation.conftest import output, utm

__all__ = ["output", "utm"]
