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
    block_m: float | None,
    folds: int,
    names: Sequence[str],
    groups: int | None = None,
) -> tuple[Ints, int]:
    """Give every pixel a fold; all pixels of a block of ground share theirs.

    Parameters
    ----------
    middles : ndarray of float64, (shape, 2)
        x and y of the middle of every point or polygon, in m; it says in which block
        the whole of it lies.
    codes, shapes : ndarray of int, (pixel,)
        Label and shape of every pixel.
    block_m : float, optional
        Side of a block, in m; None where there are `groups`.
    folds : int
        2 or more.
    names : sequence of str
        Labels, for messages.
    groups : int, optional
        Blocks are so many groups of points and polygons that lie together (k-means),
        not squares: as many labels in each where they lie in clusters.

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
    if groups is not None:
        block = gather_groups(middles, shapes, groups)
        ground = f"groups (kmeans:{groups})"
    else:
        assert block_m is not None
        cell = np.floor(middles / block_m).astype(np.int64)
        block = np.unique(cell, axis=0, return_inverse=True)[1].reshape(-1)
        ground = f"blocks of {block_m:g} m"
    held = block[shapes]
    for code in np.unique(codes):
        mine = codes == code
        some = len(np.unique(held[mine]))
        if some < folds:
            raise JobError(
                f"`{names[code]}` has {int(mine.sum())} labelled pixels, in {some} "
                f"{ground}: too few for {folds} folds, each of which "
                "needs a block; add labels elsewhere, leave the class out (ignore), or "
                "take fewer folds or smaller blocks"
            )
    select = require("sklearn.model_selection", extra="fit")
    made = np.zeros(len(codes), np.int64)
    split = select.StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    for fold, (_, out) in enumerate(split.split(codes, codes, held)):
        made[out] = fold
    return made, len(np.unique(held))


def gather_groups(middles: Floats, shapes: Ints, groups: int) -> Ints:
    """Give every point or polygon its group, by k-means of their places.

    Parameters
    ----------
    middles : ndarray of float64, (shape, 2)
        x and y of each, in m.
    shapes : ndarray of int, (pixel,)
        Those that have pixels.
    groups : int
        How many.

    Returns
    -------
    ndarray of int, (shape,)
        0 and up; -1 where a shape has no pixel. The order of shapes does not matter.

    Raises
    ------
    JobError
        If there are fewer places than groups.
    """
    used = np.unique(shapes)
    places = np.unique(middles[used], axis=0)
    if len(places) < groups:
        raise JobError(
            f"blocks kmeans:{groups}: labels lie at {len(places)} places only; take "
            "fewer groups"
        )
    cluster = require("sklearn.cluster", extra="fit")
    # threads would add up in the order in which they end
    with require("threadpoolctl", extra="fit").threadpool_limits(1):
        found = cluster.KMeans(groups, n_init=4, random_state=0).fit(places)
    made = np.full(len(middles), -1, np.int64)
    made[used] = found.predict(middles[used])
    return made
