"""What two dates differ in: the arithmetic, against other libraries and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import fourier_shift
from scipy.special import chdtrc
from scipy.stats import chi2
from skimage.filters import threshold_otsu
from sklearn.metrics import roc_auc_score

from geoscale.contrast.irmad import fit_irmad
from geoscale.contrast.moments import Moments, sum_moments
from geoscale.contrast.pairs import Pair
from geoscale.contrast.places import PLACE_PX, pick_places
from geoscale.contrast.shifts import find_shift
from geoscale.contrast.thresholds import find_threshold
from geoscale.contrast.vectors import fit_vectors
from geoscale.errors import PlanError
from geoscale.windows import Window
from tests.support.held import Held, everywhere

BANDS = tuple("abcdef")


def whole(before, after):
    shape = before.shape[1:]
    return Pair(Window(0, 0, *shape), before, after, np.ones(shape, bool))


# Places


def test_a_small_stack_is_looked_at_as_a_whole():
    places = pick_places((400, 700), everywhere, bands=6)
    assert sum(w.size for w in places) == 400 * 700
    assert places == sorted(places)


def test_places_of_a_large_stack_are_spread_and_bounded():
    shape = (300_000, 200_000)
    places = pick_places(shape, everywhere, bands=4)
    assert len(places) == 64
    assert all(w.size == PLACE_PX**2 for w in places)
    quarters = {(w.y0 * 2 // shape[0], w.x0 * 2 // shape[1]) for w in places}
    counts = [
        sum((w.y0 * 2 // shape[0], w.x0 * 2 // shape[1]) == q for w in places)
        for q in quarters
    ]
    assert len(quarters) == 4
    assert max(counts) - min(counts) <= 8


def test_places_lie_where_both_dates_are():
    def a_strip(ys, xs):
        inside = (xs[:-1] < 70_000) & (xs[1:] > 69_000)
        return np.broadcast_to(inside, (len(ys) - 1, len(xs) - 1))

    places = pick_places((100_000, 100_000), a_strip, bands=4)
    assert len(places) == 64
    assert all(w.x0 < 70_000 and w.x1 > 69_000 for w in places)
    assert pick_places((900, 900), lambda y, x: ~everywhere(y, x), bands=4) == []


def test_more_bands_make_fewer_places():
    many = len(pick_places((100_000, 100_000), everywhere, bands=100))
    assert many == 2**28 // 800 // PLACE_PX**2


# Moments


def test_moments_of_parts_are_those_of_the_whole():
    rng = np.random.default_rng(3)
    values = rng.normal(1000, 3, (4, 5000))
    weights = rng.random(5000)
    cuts = np.split(np.arange(5000), [7, 7, 1900, 4999])
    parts = [Moments.of(values[:, c], weights[c]) for c in cuts]
    found = sum_moments(parts)
    mean = np.average(values, axis=1, weights=weights)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-13)
    cov = np.cov(values, aweights=weights, ddof=0)
    np.testing.assert_allclose(found.covariance, cov, rtol=1e-9)


def test_nothing_has_no_weight():
    assert sum_moments([Moments.of(np.zeros((2, 0)))] * 2).weight == 0


# Change vectors and thresholds


def test_vectors_of_taizhou_find_its_changes(taizhou):
    before, after, labels = taizhou
    sample = Held(before, after)
    found = fit_vectors(sample, BANDS)
    m = found(whole(before, after))

    def z(x):
        x = x.astype(float)
        return (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)

    ours = np.sqrt(((z(after) - z(before)) ** 2).sum(0)).ravel()
    np.testing.assert_allclose(m, ours, rtol=1e-11)
    known = labels.ravel() >= 0
    assert roc_auc_score(labels.ravel()[known], m[known]) >= 0.990
    threshold = find_threshold(sample, found)
    assert threshold == threshold_otsu(m)
    assert threshold == pytest.approx(threshold_otsu(ours), rel=1e-12)


def test_invalid_pixels_count_for_nothing(taizhou):
    before, after, _ = taizhou
    valid = np.ones(before.shape[1:], bool)
    valid[:, 150:] = False
    spoiled = after.copy()
    spoiled[:, :, 150:] = 1e6
    a = fit_vectors(Held(before[..., :150], after[..., :150]), BANDS)
    b = fit_vectors(Held(before, spoiled, valid), BANDS)
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-12)
    np.testing.assert_allclose(a.std, b.std, rtol=1e-12)


def test_scenes_that_show_no_ground_together_are_refused():
    x = np.random.default_rng(0).random((2, 70, 70)).astype(np.float32)
    valid = np.zeros((70, 70), bool)
    valid[0, :7] = True
    with pytest.raises(PlanError, match=r"only 7 pixels .* valid at both dates"):
        fit_vectors(Held(x, x + 1, valid), "ab")


def test_a_band_of_one_value_is_named():
    x = np.random.default_rng(0).random((2, 70, 70)).astype(np.float32)
    flat = x.copy()
    flat[1] = 4
    with pytest.raises(PlanError, match="band `b` of the second date has the value 4"):
        fit_vectors(Held(x, flat), "ab")


def test_the_same_scene_twice_has_no_threshold():
    x = np.random.default_rng(0).random((2, 70, 70)).astype(np.float32)
    sample = Held(x, x)
    with pytest.raises(PlanError, match=r"differ by 0 at every pixel"):
        find_threshold(sample, fit_vectors(sample, "ab"))
    with pytest.raises(PlanError, match="agree wholly in 2 of 2"):
        fit_irmad(sample, "ab")


# IR-MAD


def reference_irmad(before, after, rounds):
    """Nielsen 2007, written from the paper, on whole arrays; squares of each pixel."""
    x = before.reshape(len(before), -1).astype(float)
    y = after.reshape(len(after), -1).astype(float)
    p, weights = len(x), np.ones(x.shape[1])
    for _ in range(rounds + 1):
        cov = np.cov(np.vstack([x, y]), aweights=weights, ddof=0)
        s11, s12, s22 = cov[:p, :p], cov[:p, p:], cov[p:, p:]
        root = np.linalg.inv(np.linalg.cholesky(s11))
        inner = root @ s12 @ np.linalg.inv(s22) @ s12.T @ root.T
        squares, vectors = np.linalg.eigh((inner + inner.T) / 2)
        rho = np.sqrt(squares)
        a = root.T @ vectors
        b = np.linalg.inv(s22) @ s12.T @ a / rho
        mx, my = (np.average(v, axis=1, weights=weights) for v in (x, y))
        mad = a.T @ (x - mx[:, None]) - b.T @ (y - my[:, None])
        z = (mad**2 / (2 * (1 - rho))[:, None]).sum(0)
        weights = chi2.sf(z, p)
    return z, rho


def test_irmad_is_that_of_the_paper(taizhou):
    before, after = (x[..., :160] for x in taizhou[:2])
    found = fit_irmad(Held(before, after), BANDS)
    assert 10 < found.rounds < 100
    squares, rho = reference_irmad(before, after, found.rounds)
    np.testing.assert_allclose(found.correlations, rho, rtol=1e-8)
    m = found(whole(before, after))
    np.testing.assert_allclose(m, np.sqrt(squares), rtol=1e-6)


def test_irmad_does_not_see_linear_differences(taizhou):
    before, after, _ = taizhou
    before, after = before[:3, :100, :150], after[:3, :100, :150]
    mix = np.array([[2.0, 0.3, 0], [0, 0.5, 0.1], [0.2, 0, 1.5]], np.float32)
    other = np.einsum("ij,jyx->iyx", mix, after) + np.float32(40)
    one = fit_irmad(Held(before, after), "abc")(whole(before, after))
    two = fit_irmad(Held(before, other), "abc")(whole(before, other))
    np.testing.assert_allclose(one, two, rtol=1e-3)


def test_bands_that_are_mixtures_of_others_are_refused(taizhou):
    before, after, _ = taizhou
    before, after = before[:2, :90, :90], after[:2, :90, :90]
    doubled = np.concatenate([before, before[:1] * 2 + 1])
    with pytest.raises(PlanError, match=r"a, b, c of the first date .* mixtures"):
        fit_irmad(Held(doubled, np.concatenate([after, before[:1]])), "abc")


def test_probabilities_are_those_of_scipy():
    z = np.linspace(0, 50, 30)
    np.testing.assert_allclose(chdtrc(6, z), chi2.sf(z, 6))


# Shifts


@pytest.mark.parametrize("shift", [(0.3, -0.7), (1.4, 0.25), (0.0, 0.0)])
def test_a_known_shift_is_found(taizhou, shift):
    before, after, _ = taizhou
    moved = [np.fft.ifft2(fourier_shift(np.fft.fft2(b), shift)).real for b in after]
    found = find_shift(Held(before, np.float32(moved)))
    rest = find_shift(Held(before, after))
    assert found.places == 4
    assert found.y - rest.y == pytest.approx(shift[0], abs=0.05)
    assert found.x - rest.x == pytest.approx(shift[1], abs=0.05)
    assert found.is_large == (np.hypot(*shift) > 0.5)
    assert found.spread < 0.1


def test_without_texture_or_pixels_no_shift_is_claimed():
    flat = np.ones((2, 100, 100), np.float32)
    rough = np.random.default_rng(0).random((2, 100, 100)).astype(np.float32)
    assert find_shift(Held(flat, rough)) is None
    assert find_shift(Held(rough, rough, np.zeros((100, 100), bool))) is None
    assert find_shift(Held(rough[:, :40], rough[:, :40])) is None
