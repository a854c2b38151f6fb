"""What fitting gave: paths, figures, and a few lines for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geoscale.fitting.page import say_summary
from geoscale.types import Json


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted head and its report."""

    folder: Path
    """Where its files are."""
    report: Json
    """What stands in ``report.json``."""

    @property
    def card(self) -> Path:
        """Path of the card, which `geoscale.run` takes as a model."""
        return self.folder / "card.yaml"

    def __str__(self) -> str:
        """Say the main figures."""
        return say_summary(self.report)
