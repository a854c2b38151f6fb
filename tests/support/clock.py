"""A clock for tests: it moves when it is told to, or when somebody sleeps by it."""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """Seconds that pass by hand; something may happen whenever somebody sleeps."""

    def __init__(
        self, now: float = 0.0, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        self.now, self.meanwhile = now, meanwhile

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()
