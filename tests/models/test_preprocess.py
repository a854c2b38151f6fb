from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoscale.card import ModelCard
from geoscale.errors import CardError, StackError
from geoscale.patches import take_patch
from geoscale.preprocess import Preprocessor
from geoscale.windows import Window
from tests.support import cards


def make(norm: dict[str, Any] | None = None, base: Path | None = None, **spec: Any):
    card = ModelCard.from_dict(
        {
            "name": "m",
            "weights": {"href": "w.onnx"},
            "input": {"bands": ["red", "nir"], "normalization": norm or {}, **spec},
            "output": {"classes": cards.classes("a", "b")},
        }
    )
    return card.model_copy(update={"base": str(base) if base else None})


def pixels(frames: int = 1, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """Every value is its own coordinate: t y x band."""
    t, b, y, x = np.meshgrid(
        np.arange(frames), np.arange(2), np.arange(4), np.arange(5), indexing="ij"
    )
    data = 1 + x + 10 * y + 100 * b + 1000 * t
    return data.astype(dtype), np.ones((frames, 4, 5), bool)


MEAN_STD = {"type": "mean-std", "mean": [3.0, 110.5], "std": [0.3, 7.0]}


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_mean_std_is_float32_arithmetic_for_every_dtype(dtype: str) -> None:
    data, valid = pixels(dtype=dtype)
    x, ok = Preprocessor.from_card(make(MEAN_STD)).prepare(data, valid)
    mean, std = (
        np.array(MEAN_STD[k], np.float32)[:, None, None] for k in ("mean", "std")
    )
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, (data[0].astype(np.float32) - mean) / std)
    assert ok.all()


def test_frames_become_channels_oldest_first() -> None:
    data, valid = pixels(frames=3)
    x, _ = Preprocessor.from_card(make(frames=3)).prepare(data, valid)
    np.testing.assert_array_equal(x, data.reshape(6, 4, 5))


def test_newest_first_turns_the_dates_and_not_the_bands() -> None:
    data, valid = pixels(frames=2)
    card = make(frames=2, frame_order="newest-first")
    x, _ = Preprocessor.from_card(card).prepare(data, valid)
    assert x[:, 0, 0].tolist() == [1001, 1101, 1, 101]


def test_one_nan_pixel_invalidates_that_pixel_only() -> None:
    data, valid = pixels()
    want, _ = Preprocessor.from_card(make(MEAN_STD)).prepare(data, valid)
    data[0, 1, 2, 3] = np.nan
    x, ok = Preprocessor.from_card(make(MEAN_STD)).prepare(data, valid)
    assert np.argwhere(~ok).tolist() == [[2, 3]]
    assert (x[:, 2, 3] == 0).all()
    assert np.isfinite(x).all()
    np.testing.assert_array_equal(x[:, ok], want[:, ok])


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_what_float32_cannot_hold_is_invalid(value: float) -> None:
    data, valid = pixels()
    data[0, 0, 0, 0] = value
    x, ok = Preprocessor.from_card(make()).prepare(data, valid)
    assert not ok[0, 0]
    assert ok.sum() == 19
    assert np.isfinite(x).all()


def test_a_pixel_needs_every_date() -> None:
    data, valid = pixels(frames=2)
    valid[1, 0, 4] = False
    _, ok = Preprocessor.from_card(make(frames=2)).prepare(data, valid)
    assert np.argwhere(~ok).tolist() == [[0, 4]]


def test_the_cards_fill_goes_in_before_normalisation() -> None:
    data, valid = pixels()
    valid[0, 1, 1] = False
    x, _ = Preprocessor.from_card(make(MEAN_STD, fill=[3.6, 117.5])).prepare(
        data, valid
    )
    np.testing.assert_allclose(x[:, 1, 1], [2.0, 1.0], rtol=1e-6)


def test_the_input_is_never_changed(tmp_path: Path) -> None:
    (tmp_path / "n.py").write_text("def f(x):\n    x *= 0\n    return x\n")
    for card in (
        make(MEAN_STD),
        make({"type": "callable", "callable": "n.py:f"}, tmp_path),
    ):
        data, valid = pixels(dtype="float32")
        valid[0, 0, 0] = False
        before, flags = data.copy(), valid.copy()
        data.flags.writeable = valid.flags.writeable = False
        Preprocessor.from_card(card, trust_code=True).prepare(data, valid)
        np.testing.assert_array_equal(data, before)
        np.testing.assert_array_equal(valid, flags)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("return x.log()", "failed on float32"),
        ("return x[:1]", r"turned shape \(2, 4, 5\) into \(1, 4, 5\)"),
        ("import numpy; return numpy.log(x - 5)", r"NaN or infinity at 5 of 19 valid"),
    ],
)
def test_a_wrong_callable_is_named(tmp_path: Path, body: str, match: str) -> None:
    (tmp_path / "n.py").write_text(f"def f(x):\n    {body}\n")
    card = make({"type": "callable", "callable": "n.py:f"}, tmp_path)
    data, valid = pixels()
    valid[0, 3, 3] = False
    with pytest.raises(CardError, match=f"`n.py:f`.*{match}"):
        Preprocessor.from_card(card, trust_code=True).prepare(data, valid)


def test_a_callable_that_fails_on_the_fill_only_gives_zeros_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "n.py").write_text("import numpy\ndef f(x):\n    return numpy.log(x)\n")
    card = make({"type": "callable", "callable": "n.py:f"}, tmp_path)
    data, valid = pixels()
    valid[0, 3, 3] = False  # the fill is 0, and log(0) is -inf
    x, ok = Preprocessor.from_card(card, trust_code=True).prepare(data, valid)
    assert np.isfinite(x).all()
    assert ok.sum() == 19


def test_a_users_callable_needs_trust() -> None:
    card = make({"type": "callable", "callable": "n.py:f"})
    with pytest.raises(CardError, match="--trust-code"):
        Preprocessor.from_card(card)


@pytest.mark.parametrize(
    ("shape", "valid", "match"),
    [
        ((1, 3, 4, 5), (1, 4, 5), r"1 date\(s\) of 2 band\(s\)"),
        ((2, 2, 4, 5), (2, 4, 5), r"1 date\(s\) of 2 band\(s\)"),
        ((1, 2, 4, 5), (4, 5), r"valid has shape \(4, 5\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    shape: tuple[int, ...], valid: tuple[int, ...], match: str
) -> None:
    with pytest.raises(StackError, match=match):
        Preprocessor.from_card(make()).prepare(np.zeros(shape), np.ones(valid, bool))


def test_a_fill_of_the_wrong_length_is_refused_by_the_card() -> None:
    with pytest.raises(CardError, match=r"`input.fill` has 1 values for 2 channels"):
        make(fill=[0.0])


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    from geoscale import spread

    rng = np.random.default_rng(5)
    data = rng.normal(100, 50, (1, 2, 701, 1000)).astype(np.float32)
    data[rng.random(data.shape) < 0.01] = np.nan
    valid = rng.random((1, 701, 1000)) < 0.9
    made = []
    for threads in (1, 3):
        monkeypatch.setattr(spread, "_limit", [threads])
        assert len(spread.share_rows(701, 8000)) == threads
        made.append(Preprocessor.from_card(make(MEAN_STD)).prepare(data, valid))
    (x, ok), (other, also) = made
    assert x.tobytes() == other.tobytes()
    assert (ok == also).all()
    assert (ok == (valid[0] & np.isfinite(data[0]).all(axis=0))).all()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_patches_are_parts_of_the_whole(data: st.DataObject) -> None:
    """Made one at a time, mirrored or not, or cut from what was made at once."""
    frames = data.draw(st.integers(1, 2), "frames")
    height, width = (data.draw(st.integers(3, 40)) for _ in range(2))
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    kind = data.draw(st.sampled_from(["uint16", "float32", "float64"]))
    image = rng.integers(0, 300, (frames, 2, height, width)).astype(kind)
    if kind != "uint16":
        image[rng.random(image.shape) < 0.05] = np.nan
    valid = rng.random((frames, height, width)) < data.draw(st.sampled_from([0.9, 1]))
    order = data.draw(st.sampled_from(["oldest-first", "newest-first"]))
    norm = {k: v * frames if k != "type" else v for k, v in MEAN_STD.items()}
    card = make(norm, frames=frames, frame_order=order, fill=[0.5] * 2 * frames)
    prep = Preprocessor.from_card(card)
    y0, x0 = data.draw(st.integers(-9, height)), data.draw(st.integers(-9, width))
    size = data.draw(st.integers(1, 60), "patch")
    held = Window(0, 0, height, width)
    patch = Window(y0, x0, y0 + size, x0 + size)
    whole, usable = prep.prepare(image, valid)
    want = np.empty((2 * frames, size, size), np.float32)
    take_patch(whole, held, patch, held.shape, want)
    found = np.empty_like(want)
    made = prep.begin(image, valid)
    made.take(held, patch, held.shape, found)
    assert (made.usable == usable).all()
    assert made.count == len(want)
    np.testing.assert_array_equal(found, want)


def test_a_function_sees_the_whole_window(tmp_path: Path) -> None:
    (tmp_path / "norm.py").write_text("def f(x):\n    return x - x.mean()\n")
    card = make({"type": "callable", "callable": "norm.py:f"}, base=tmp_path)
    prep = Preprocessor.from_card(card, trust_code=True)
    data, valid = pixels()
    valid[0, 1, 1] = False
    want, usable = prep.prepare(data, valid)
    made, found = prep.begin(data, valid), np.empty((2, 2, 3), np.float32)
    made.take(Window(0, 0, 4, 5), Window(1, 1, 3, 4), (4, 5), found)
    np.testing.assert_array_equal(found, want[:, 1:3, 1:4])
    assert (made.usable == usable).all()
