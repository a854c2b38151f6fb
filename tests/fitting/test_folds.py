"""Ground that is held out together: squares, or groups of labels."""

import numpy as np
import pytest

from geoscale.errors import JobError
from geoscale.fitting.asked import Asked
from geoscale.fitting.folds import deal_blocks, gather_groups
from tests.fitting.test_fit import fit, rows, write_labels  # noqa: F401

pytest.importorskip("sklearn")


def villages(count=12, each=10, seed=0):
    """Labels in clusters of 20 m, some 1,000 m apart."""
    rng = np.random.default_rng(seed)
    middles = rng.uniform(0, 1, (count, 2)) * 300 + np.arange(count)[:, None] * 1000
    places = middles.repeat(each, 0) + rng.normal(0, 20, (count * each, 2))
    return places, np.arange(count).repeat(each), np.arange(count * each) % 2


def deal(places, codes, **more):
    shapes = np.arange(len(places))
    more = {"block_m": None, "folds": 3, "names": ("a", "b"), **more}
    return deal_blocks(places, codes, shapes, **more)


def test_labels_that_lie_together_are_one_group():
    places, village, codes = villages()
    fold, groups = deal(places, codes, groups=12)
    assert groups == 12
    for k in range(12):
        assert len(set(fold[village == k])) == 1
    assert sorted(np.unique(fold)) == [0, 1, 2]


def test_groups_do_not_hang_on_the_order_of_labels():
    places, _, codes = villages()
    order = np.random.default_rng(5).permutation(len(places))
    shapes = np.arange(len(places))
    first = gather_groups(places, shapes, 20)
    assert (gather_groups(places[order], shapes, 20) == first[order]).all()
    again = deal(places[order], codes[order], groups=20)[0]
    assert (again == deal(places[order], codes[order], groups=20)[0]).all()


def test_a_polygon_without_a_pixel_has_no_group():
    places, _, codes = villages()
    far = np.concatenate([places, [[1e7, 1e7]]])
    shapes = np.arange(len(places))
    fold, groups = deal_blocks(
        far, codes, shapes, block_m=None, folds=3, names=("a", "b"), groups=12
    )
    assert (fold == deal(places, codes, groups=12)[0]).all()
    assert groups == 12


def test_groups_that_cannot_be(tmp_path, rows):  # noqa: F811
    places, _, codes = villages(count=2, each=3)
    with pytest.raises(JobError, match="labels lie at 6 places only; take fewer"):
        deal(places, codes, groups=7)
    with pytest.raises(JobError, match=r"in 2 groups \(kmeans:2\): too few for 3"):
        deal(places, codes, groups=2)
    with pytest.raises(JobError, match=r"blocks `kmeans`: choose squares, or kmeans:K"):
        Asked(blocks="kmeans")
    with pytest.raises(JobError, match="4 groups are too few for 5 folds"):
        Asked(blocks="kmeans:4")
    with pytest.raises(JobError, match="have no side: leave block_m out"):
        Asked(blocks="kmeans:40", block_m=5)
    labels = write_labels(tmp_path / "l.gpkg", rows)
    found = fit(tmp_path, labels, blocks="kmeans:15", block_m=None)
    assert found.report["blocks"] == 15
    assert found.report["block_m"] is None
    assert "3 folds of 15 groups of labels (k-means)" in str(found)
    assert "held-out groups of labels" in (tmp_path / "head" / "card.yaml").read_text()
