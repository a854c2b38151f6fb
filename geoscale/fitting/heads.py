"""Heads: scikit-learn fits them, arrays keep them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

import numpy as np

from geoscale.errors import require
from geoscale.fitting.chips import middle
from geoscale.heads import LEAST, Head
from geoscale.types import Array, Bool, Float, Floats, Ints

if TYPE_CHECKING:
    from geoscale.models.conv_head import Convolutions

HeadName = Literal["logistic", "ridge", "forest", "conv"]
HEADS = ("logistic", "ridge", "forest", "conv")
ABSENT = -30.0
"""Logit of a class without a pixel."""
TREES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A matrix on standardised features."""

    mean: Floats
    std: Floats
    weight: Floats
    """(class, feature)."""
    bias: Floats

    def logits(self, values: Float) -> Floats:
        """(pixel, feature) → (pixel, class)."""
        z = (values.astype(np.float64) - self.mean) / self.std
        made: Floats = z @ self.weight.T + self.bias
        return made

    def spec(self) -> Head:
        """Give what the card says."""
        return Head(kind="linear", inputs=len(self.mean))

    def tensors(self, heat: float) -> dict[str, Array]:
        """Give arrays of the torch head, whose logits are divided by `heat`."""
        made = {
            "mean": self.mean, "std": self.std, "weight": self.weight / heat,
            "bias": self.bias / heat,
        }  # fmt: skip
        return {k: v.astype(np.float32) for k, v in made.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """Trees as arrays, all in a row."""

    feature: Ints
    threshold: Float
    left: Ints
    right: Ints
    value: Float
    """(node, class)."""
    root: Ints
    depth: int
    inputs: int

    def logits(self, values: Float) -> Floats:
        """(pixel, feature) → (pixel, class): logarithms of probabilities."""
        x, rows = values.astype(np.float32), np.arange(len(values))
        total = np.zeros((len(x), self.value.shape[1]))
        for root in self.root:
            node = np.full(len(x), root)
            for _ in range(self.depth):
                lower = x[rows, self.feature[node]] <= self.threshold[node]
                node = np.where(lower, self.left[node], self.right[node])
            total += self.value[node]
        made: Floats = np.log(np.maximum(total / len(self.root), LEAST))
        return made

    def spec(self) -> Head:
        """Give what the card says."""
        return Head(
            kind="forest", inputs=self.inputs, trees=len(self.root),
            nodes=len(self.feature), depth=self.depth,
        )  # fmt: skip

    def tensors(self, heat: float) -> dict[str, Array]:
        """Give arrays of the torch head, whose logits are divided by `heat`."""
        return {
            "feature": self.feature, "threshold": self.threshold, "left": self.left,
            "right": self.right, "value": self.value, "root": self.root,
            "heat": np.array(heat, np.float32),
        }  # fmt: skip


Fit: TypeAlias = Union[Linear, Forest, "Convolutions"]


def fit_head(
    kind: HeadName,
    values: Float,
    codes: Ints,
    classes: int,
    seed: int = 0,
    *,
    stop: Bool | None = None,
    epochs: int | None = None,
) -> Fit:
    """Fit a head of scikit-learn, or train one of torch.

    Parameters
    ----------
    kind : {"logistic", "ridge", "forest", "conv"}
        Which.
    values : ndarray of float32, (pixel, feature)
        Not standardised; for a conv head (pixel, feature, y, x).
    codes : ndarray of int, (pixel,)
        Label of each.
    classes : int
        A class without a pixel gets a probability of about 0.
    seed : int
        Of a forest, and of a conv head.
    stop : ndarray of bool, (pixel,), optional
        Pixels that tell a conv head when to stop; other heads take no notice.
    epochs : int, optional
        Most passes of a conv head over the labels.

    Returns
    -------
    Linear, Forest or Convolutions
        One output for each class, also where there are two.

    Raises
    ------
    MissingDependencyError
        If scikit-learn is not installed.
    """
    if kind == "conv":
        from geoscale.models.conv_head import EPOCHS, train_conv

        mine = slice(None) if stop is None else ~stop
        start = fit_head("logistic", middle(values)[mine], codes[mine], classes)
        return train_conv(
            values, codes, start.tensors(1.0), seed=seed, stop=stop,
            epochs=EPOCHS if epochs is None else epochs,
        )  # fmt: skip
    if kind == "forest":
        ensemble: Any = require("sklearn.ensemble", extra="fit")
        made = ensemble.RandomForestClassifier(TREES, random_state=seed, n_jobs=1)
        return from_forest(made.fit(values.astype(np.float32), codes), classes)
    linear: Any = require("sklearn.linear_model", extra="fit")
    made = (
        linear.LogisticRegression(max_iter=5000)
        if kind == "logistic"
        else linear.RidgeClassifier()
    )
    data = values.astype(np.float64)
    mean, std = data.mean(0), data.std(0)
    std = np.where(std > 0, std, 1.0)
    if len(np.unique(codes)) == 1:  # a fold may hold one class alone
        bias = np.full(classes, ABSENT)
        bias[codes[0]] = 0.0
        weight = np.zeros((classes, data.shape[1]))
        return Linear(mean=mean, std=std, weight=weight, bias=bias)
    return from_linear(made.fit((data - mean) / std, codes), mean, std, classes)


def from_linear(made: Any, mean: Floats, std: Floats, classes: int) -> Linear:
    """Take the coefficients of a fitted linear classifier of scikit-learn."""
    weight, bias = np.zeros((classes, len(mean))), np.full(classes, ABSENT)
    coef, intercept = np.atleast_2d(made.coef_), np.atleast_1d(made.intercept_)
    if len(made.classes_) == 2:  # scikit-learn keeps one row, for the second
        weight[made.classes_[1]], bias[made.classes_] = coef[0], 0.0
        bias[made.classes_[1]] = intercept[0]
    else:
        weight[made.classes_], bias[made.classes_] = coef, intercept
    return Linear(mean=mean, std=std, weight=weight, bias=bias)


def from_forest(made: Any, classes: int) -> Forest:
    """Take the trees of a fitted random forest of scikit-learn."""
    trees = [one.tree_ for one in made.estimators_]
    starts = np.cumsum([0, *(t.node_count for t in trees)])[:-1]
    feature, threshold, left, right, value = [], [], [], [], []
    for start, tree in zip(starts, trees, strict=True):
        here = np.arange(tree.node_count)
        leaf = tree.children_left < 0
        feature.append(np.where(leaf, 0, tree.feature))
        left.append(start + np.where(leaf, here, tree.children_left))
        right.append(start + np.where(leaf, here, tree.children_right))
        # scikit-learn compares float32 values with float64 thresholds: rounded down,
        # the float32 threshold parts the same values
        low = tree.threshold.astype(np.float32)
        below = np.nextafter(low, np.float32(-np.inf))
        threshold.append(np.where(low > tree.threshold, below, low))
        share = tree.value[:, 0, :]
        full = np.zeros((tree.node_count, classes), np.float32)
        full[:, made.classes_] = share / share.sum(1, keepdims=True)
        value.append(full)
    return Forest(
        feature=np.concatenate(feature).astype(np.int64),
        threshold=np.concatenate(threshold).astype(np.float32),
        left=np.concatenate(left).astype(np.int64),
        right=np.concatenate(right).astype(np.int64),
        value=np.concatenate(value),
        root=starts.astype(np.int64),
        depth=max(t.max_depth for t in trees),
        inputs=int(made.n_features_in_),
    )
