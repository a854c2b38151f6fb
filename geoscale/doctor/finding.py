"""One thing that the doctor looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    """``ok``; ``note``: may matter; ``wrong``: a run would fail."""
    name: str
    """What was looked at."""
    found: str
    """What is there."""
    fix: str = ""
    """What to do about it."""
