"""What a head is to be like, and how it is to be judged."""

from __future__ import annotations

import re
from dataclasses import dataclass

from geoscale.errors import JobError
from geoscale.fitting.calibrating import WAYS, CalibrationName
from geoscale.fitting.heads import HEADS, HeadName
from geoscale.words import suggest

SQUARES = "squares"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a head is to be like."""

    head: HeadName = "logistic"
    """Kind of head."""
    with_bands: bool = False
    """Whether the network's input follows its features."""
    per_class: int = 1000
    """Most pixels of a class."""
    folds: int = 5
    """Parts of the cross-validation."""
    block_m: float | None = None
    """Side of square blocks, in m."""
    blocks: str = SQUARES
    """``squares``, or ``kmeans:K``: K groups of labels that lie together."""
    seed: int = 0
    """Of the draw, of a forest, and of a conv head."""
    ignore: tuple[str, ...] = ()
    """Labels that are left out."""
    floor: bool = True
    """Whether bands and indices are judged too."""
    calibrate: CalibrationName = "temperature"
    """What makes probabilities of scores."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        _check_word("head", self.head, HEADS)
        _check_word("calibrate", self.calibrate, WAYS)
        if self.folds < 2 or self.per_class < 1 or self.seed < 0:
            raise JobError(
                f"folds {self.folds}, per_class {self.per_class}, seed {self.seed}: "
                "folds must be 2 or more, per_class 1 or more, seed 0 or more"
            )
        if self.head == "conv" and self.folds < 3:
            raise JobError(
                f"folds {self.folds}: a conv head needs 3 or more, one to judge it, "
                "one to tell when to stop, the others to learn from"
            )
        if self.block_m is not None and not self.block_m > 0:
            raise JobError(f"block_m {self.block_m}: must be above 0, in m")
        groups = self.groups
        if groups is not None and self.block_m is not None:
            raise JobError(
                f"blocks `{self.blocks}` have no side: leave block_m out, or take "
                "square blocks"
            )
        if groups is not None and groups < self.folds:
            raise JobError(
                f"blocks `{self.blocks}`: {groups} groups are too few for "
                f"{self.folds} folds; take {self.folds} or more, better ten times as "
                "many"
            )

    @property
    def groups(self) -> int | None:
        """K of ``kmeans:K``; None for square blocks."""
        if self.blocks == SQUARES:
            return None
        found = re.fullmatch(r"kmeans:(\d{1,5})", self.blocks)
        if found is None:
            raise JobError(
                f"blocks `{self.blocks}`: choose squares, or kmeans:K such as kmeans:50"
            )
        return int(found[1])

    @property
    def reach(self) -> int:
        """Pixels around a pixel that the head sees, on each side."""
        return 2 if self.head == "conv" else 0


def _check_word(name: str, got: str, known: tuple[str, ...]) -> None:
    if got not in known:
        raise JobError(
            f"{name} `{got}` is not known{suggest(got, known)}; choose "
            f"{', '.join(known[:-1])} or {known[-1]}"
        )
