"""Cross-validation in space: what lies side by side is never on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geoscale.errors import JobError, require
from geoscale.types import Floats, Ints


def deal_blocks(
    middles: Floats,
    codes: Ints,
    shapes: Ints,
    *,
    block_m: float,
    folds: int,
    names: Sequence[str],
) -> tuple[Ints, int]:
    """Give every pixel a fold; all pixels of a block of ground share theirs.

    Parameters
    ----------
    middles : ndarray of float64, (shape, 2)
        x and y of the middle of every point or polygon, in m; it says in which block
        the whole of it lies.
    codes, shapes : ndarray of int, (pixel,)
        Label and shape of every pixel.
    block_m : float
        Side of a block, in m.
    folds : int
        2 or more.
    names : sequence of str
        Labels, for messages.

    Returns
    -------
    folds : ndarray of int, (pixel,)
        Number of the fold.
    blocks : int
        Blocks with labels.

    Raises
    ------
    JobError
        If a class lies in fewer blocks than there are folds.
    """
    cell = np.floor(middles / block_m).astype(np.int64)
    _, block = np.unique(cell, axis=0, return_inverse=True)
    groups = block.reshape(-1)[shapes]
    for code in np.unique(codes):
        mine = codes == code
        some = len(np.unique(groups[mine]))
        if some < folds:
            raise JobError(
                f"`{names[code]}` has {int(mine.sum())} labelled pixels, in {some} "
                f"blocks of {block_m:g} m: too few for {folds} folds, each of which "
                "needs a block; add labels elsewhere, leave the class out (ignore), or "
                "take fewer folds or smaller blocks"
            )
    select = require("sklearn.model_selection", extra="fit")
    made = np.zeros(len(codes), np.int64)
    split = select.StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    for fold, (_, held) in enumerate(split.split(codes, codes, groups)):
        made[held] = fold
    return made, len(np.unique(groups))
