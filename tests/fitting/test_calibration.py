"""Probabilities that hold: scikit-learn's numbers, torch's bits, honest reports."""

import numpy as np
import pytest
import torch

import geoscale as gs
from geoscale.errors import JobError, WeightsError
from geoscale.fitting.calibrating import Calibration, calibrate, log_odds
from geoscale.fitting.crossing import cross_validate
from geoscale.fitting.heads import fit_head
from geoscale.fitting.scoring import brier_score, calibration_error, softmax
from geoscale.models.calibration import make_calibration
from geoscale.models.heads import Bands, LinearHead, add_head
from tests.fitting.test_fit import fit, make_stack, rows, write_labels  # noqa: F401
from tests.fitting.test_heads import blobs, card_of

base = pytest.importorskip("sklearn.base")
sk = pytest.importorskip("sklearn.calibration")
pytest.importorskip("spyndex")


def draw(classes, n=400, heat=0.3, seed=0):
    """Logits that are far too sure, and what is so."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1.5, (n, classes))
    chance = softmax(true).cumsum(1)
    codes = (rng.random((n, 1)) > chance).sum(1).clip(max=classes - 1)
    return true / heat, codes


class Given(base.ClassifierMixin, base.BaseEstimator):
    """A classifier whose scores are what it is given."""

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, x):
        return x.argmax(1)


class GivenScores(Given):
    def predict_proba(self, x):
        return x


class GivenOdds(Given):
    def decision_function(self, x):
        return x[:, 1] if x.shape[1] == 2 else x


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("kind", ["sigmoid", "isotonic"])
def test_calibration_is_scikit_learns(kind, classes):
    frozen = pytest.importorskip("sklearn.frozen")
    logits, codes = draw(classes)
    made = calibrate(kind, logits, codes)
    seen = softmax(logits)
    if kind == "sigmoid":
        x, given = log_odds(seen), GivenOdds()
    else:
        x, given = seen, GivenScores()
    theirs = sk.CalibratedClassifierCV(
        frozen.FrozenEstimator(given.fit(x, codes)), method=kind
    ).fit(x, codes)
    other, _ = draw(classes, seed=1)
    fresh = softmax(other)
    want = theirs.predict_proba(log_odds(fresh) if kind == "sigmoid" else fresh)
    assert np.abs(made.scores(other) - want).max() < 2e-4


@pytest.mark.parametrize("kind", ["sigmoid", "isotonic"])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_network_says_what_the_report_was_made_of(kind, classes):
    logits, codes = draw(classes)
    made = calibrate(kind, logits, codes)
    part = make_calibration(made.spec(), classes)
    state = {k: torch.from_numpy(v) for k, v in made.tensors().items()}
    part.load_state_dict(state, strict=True)
    other = draw(classes, n=900, seed=2)[0].astype(np.float32)
    other[:3] = [[50.0] + [-50.0] * (classes - 1), [0.0] * classes, [-1e4] * classes]
    image = torch.from_numpy(other.T.reshape(1, classes, 30, 30))
    with torch.inference_mode():
        found = part(image).softmax(1)
    want = made.scores(other.astype(np.float64))
    assert np.abs(found[0].reshape(classes, -1).numpy().T - want).max() < 1e-3
    assert np.abs(found.sum(1) - 1).max() < 1e-5


@pytest.mark.parametrize("kind", ["temperature", "sigmoid", "isotonic"])
def test_what_is_too_sure_is_mended(kind):
    logits, codes = draw(3, n=2000)
    other, truth = draw(3, n=2000, seed=5)
    raw, mended = softmax(other), calibrate(kind, logits, codes).scores(other)
    assert brier_score(mended, truth) < brier_score(raw, truth) - 0.02
    assert calibration_error(mended, truth) < 0.05 < calibration_error(raw, truth)


def test_a_class_that_was_never_met_stays_unlikely():
    logits, codes = draw(2)
    wide = np.concatenate([logits, np.full((len(codes), 1), -30.0)], 1)
    for kind in ("sigmoid", "isotonic"):
        assert calibrate(kind, wide, codes).scores(wide)[:, 2].max() < 0.01


def test_a_calibration_that_does_not_help_is_not_used_and_it_is_said(
    tmp_path,
    rows,  # noqa: F811
):
    rng = np.random.default_rng(3)
    chance = [(y, x, rng.choice(["soil", "wood"])) for y, x, _ in rows]
    labels = write_labels(tmp_path / "l.gpkg", chance)
    found = fit(tmp_path, labels, head="ridge", calibrate="isotonic")
    held = found.report["features"]["chosen"]["calibration"]
    assert held["after"]["brier"] >= held["before"]["brier"]
    assert not held["kept"]
    assert gs.load_model(found.card).output.head.calibration is None
    text = (tmp_path / "head" / "report.md").read_text()
    assert "isotonic does not lower the Brier score: it is NOT used" in text


@pytest.mark.parametrize("kind", ["sigmoid", "isotonic"])
def test_the_map_is_calibrated_whatever_the_blocks(tmp_path, rows, kind):  # noqa: F811
    labels = write_labels(tmp_path / "l.gpkg", rows)
    found = fit(tmp_path, labels, head="ridge", calibrate=kind)
    held = found.report["features"]["chosen"]["calibration"]
    assert held["kept"], "ridge's numbers are no logits"
    assert held["after"]["brier"] < held["before"]["brier"]
    assert sum(b["pixels"] for b in held["after"]["reliability"]) == 120
    page = (tmp_path / "head" / "report.html").read_text()
    dots = sum(len(held[when]["reliability"]) for when in ("before", "after"))
    assert page.count("<circle") == dots + 2, "a dot for each bin, two in the legend"
    assert gs.load_model(found.card).output.head.calibration.kind == kind
    maps = []
    for block in (32, 64):
        plan = gs.plan(
            make_stack(seed=5)[0], found.card, block_px=block, patch_px=32,
            output={"layers": ["classes", "confidence"]},
        )  # fmt: skip
        gs.run(plan, tmp_path / f"{block}.zarr")
        maps.append(gs.open_output(str(tmp_path / f"{block}.zarr")).load())
    assert maps[0].confidence.equals(maps[1].confidence)
    assert maps[0].classes.equals(maps[1].classes)
    plain = fit(tmp_path / "p", labels, head="ridge", calibrate="none")
    gs.run(gs.plan(make_stack(seed=5)[0], plain.card), tmp_path / "p.zarr")
    sure = float(maps[0].confidence.mean())
    other = float(gs.open_output(str(tmp_path / "p.zarr")).confidence.mean())
    assert sure > other + 0.05


def test_figures_before_and_after_are_of_held_out_ground():
    x, codes = blobs(3, n=90)
    fold = np.arange(90) % 3
    one = cross_validate("forest", x, codes, fold, "abc", way="sigmoid").figures
    assert set(one["calibration"]) == {"way", "kept", "temperature", "before", "after"}
    none = cross_validate("forest", x, codes, fold, "abc", way="none")
    assert none.calibration == Calibration()
    held = none.figures["calibration"]
    assert held["before"] == held["after"]
    assert not held["kept"]
    # a head that had seen its pixels would be surer and righter
    seen = fit_head("forest", x, codes, 3).logits(x)
    assert brier_score(softmax(seen), codes) < held["before"]["brier"]


def test_numbers_that_the_card_does_not_name_are_refused(tmp_path):
    state = {f"head.{k}": v for k, v in LinearHead(2, 2).state_dict().items()}
    more = {"calibration.slope": torch.ones(2), "calibration.bias": torch.zeros(2)}
    with pytest.raises(WeightsError, match="hold a calibration that the card does not"):
        add_head(Bands(), card_of(), state | more, tmp_path / "x")
    named = card_of(calibration={"kind": "sigmoid"})
    made = add_head(Bands(), named, state | more, tmp_path / "x")
    assert made.calibration.slope.tolist() == [1, 1]
    with pytest.raises(WeightsError, match="missing"):
        add_head(Bands(), named, state, tmp_path / "x")


def test_words_that_are_not_known(tmp_path, rows):  # noqa: F811
    labels = write_labels(tmp_path / "l.gpkg", rows)
    with pytest.raises(JobError, match=r"calibrate `platt` is not known; choose temp"):
        fit(tmp_path, labels, calibrate="platt")


@pytest.mark.slow
def test_other_runtimes_calibrate_too():
    ort = pytest.importorskip("onnxruntime")
    from geoscale.models.graph import export_onnx

    logits, codes = draw(3)
    made = calibrate("isotonic", logits, codes)
    part = make_calibration(made.spec(), 3)
    part.load_state_dict({k: torch.from_numpy(v) for k, v in made.tensors().items()})
    image = draw(3, n=64, seed=3)[0].astype(np.float32).T.reshape(1, 3, 8, 8)
    session = ort.InferenceSession(export_onnx(part.eval(), image.shape))
    found = session.run(None, {"x": image})[0]
    assert np.abs(found - part(torch.from_numpy(image)).numpy()).max() < 1e-3
