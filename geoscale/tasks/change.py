"""Change: where two dates differ, how probably, and from which class to which.

One schema whatever the method: `change` and `probability` always mean the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geoscale.card import CHANGES, ModelCard, OutputClass
from geoscale.errors import JobError
from geoscale.passes import Fold
from geoscale.tasks.stored import NODATA, QUANTA, class_layer, quantise, quantised_layer
from geoscale.types import Array, Bool, ChangeSpec, Float, Layer
from geoscale.words import suggest

NETWORK_OUTPUTS = ("change", "probability")
"""Layers of what a network tells of two dates."""
CLASS_OUTPUTS = (*NETWORK_OUTPUTS, "from_class", "to_class")
"""Layers where both dates are classified."""
CHANGE_CLASSES = tuple(OutputClass(**one) for one in CHANGES)
"""The two values of `change`."""


class NetworkChange:
    """Change as a network tells it that sees both dates.

    Parameters
    ----------
    card : ModelCard
        Of task change.
    outputs : sequence of str
        Some of `NETWORK_OUTPUTS`; ``change`` is always there.
    scores_dtype : {"uint8", "float16"}
        How probabilities are stored.
    threshold : float
        Least probability of what counts as changed.

    Raises
    ------
    JobError
        If an output is not known.
    """

    def __init__(
        self,
        card: ModelCard,
        outputs: Sequence[str] = NETWORK_OUTPUTS,
        scores_dtype: str = "uint8",
        *,
        threshold: float = 0.5,
    ) -> None:
        self._out = _Layers(card, outputs, NETWORK_OUTPUTS, scores_dtype)
        self._threshold = np.float32(threshold)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What is stored, in a fixed order."""
        return self._out.layers

    @property
    def on_device(self) -> ChangeSpec:
        """What `finish` does, for a device that does it itself."""
        stored = [one.dtype for one in self.layers if one.name == "probability"]
        return ChangeSpec(
            threshold=float(self._threshold),
            probability=stored[0] if stored else "",
            steps=QUANTA,
            nodata=NODATA,
        )

    def finish(self, scores: Float, valid: Bool) -> dict[str, Array]:
        """Turn scores of one block into its layers.

        Parameters
        ----------
        scores : ndarray of float32, (2, y, x)
            Of unchanged and of changed, in [0, 1].
        valid : ndarray of bool, (y, x)
            Pixels that both dates show.

        Returns
        -------
        dict of ndarray
            One array per layer, (y, x).
        """
        probability = scores[1]
        return self._out.store(probability, probability >= self._threshold, valid)


class ClassChange:
    """Change between the classes of two dates, compared pixel by pixel.

    Parameters
    ----------
    card : ModelCard
        Classifies one date.
    outputs : sequence of str
        Some of `CLASS_OUTPUTS`; ``change`` is always there.
    scores_dtype : {"uint8", "float16"}
        How probabilities are stored.
    threshold : float
        Least probability of what counts as changed.
    prior : float
        How probable change is before the pixels are looked at.
    min_confidence : float
        Least score of both dates' classes, for a pixel to count as changed.

    Raises
    ------
    JobError
        If an output is not known.

    See Also
    --------
    change_probability : The formula.
    """

    def __init__(
        self,
        card: ModelCard,
        outputs: Sequence[str] = CLASS_OUTPUTS,
        scores_dtype: str = "uint8",
        *,
        threshold: float = 0.5,
        prior: float = 0.5,
        min_confidence: float = 0.0,
    ) -> None:
        self.out = _Layers(card, outputs, CLASS_OUTPUTS, scores_dtype)
        self.values = np.array([c.value for c in card.output.classes], np.uint8)
        self.threshold = np.float32(threshold)
        self.prior = prior
        self.min_confidence = np.float32(min_confidence)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What is stored, in a fixed order."""
        return self.out.layers

    def begin(self, shape: tuple[int, int]) -> Fold:
        """Begin a block; see `geoscale.passes.PassTask`."""
        return _Comparison(self, shape)


class _Comparison:
    """Both dates of one block: the first is kept until the second comes."""

    def __init__(self, task: ClassChange, shape: tuple[int, int]) -> None:
        self._task = task
        self._first: Float | None = None
        self._valid = np.ones(shape, bool)
        self._made: dict[str, Array] = {}

    def add(self, number: int, scores: Float, usable: Bool) -> None:
        """Keep the first date's scores; compare the second's with them."""
        self._valid &= usable
        if self._first is None:
            self._first = scores
            return
        task = self._task
        before, sure_before = _choose(self._first, task.values)
        after, sure_after = _choose(scores, task.values)
        probability = change_probability(self._first, scores, task.prior)
        self._first = None
        changed = (before != after) & (probability >= task.threshold)
        changed &= np.minimum(sure_before, sure_after) >= task.min_confidence
        self._made = task.out.store(
            probability, changed, self._valid, from_class=before, to_class=after
        )

    def finish(self) -> tuple[dict[str, Array], Bool]:
        """Layers, and the pixels that both dates show."""
        return self._made, self._valid


def change_probability(before: Float, after: Float, prior: float = 0.5) -> Float:
    """Tell how probably two classified dates show different classes.

    Both dates are taken as independent looks at the ground. With ``S`` the probability
    that two independent draws agree, ``sum of before[c] * after[c]``, classes alike
    beforehand, and change as probable as `prior` beforehand, Bayes' rule gives ::

        P = prior (1 - S) / (prior (1 - S) + (1 - prior) (n - 1) S)

    for ``n`` classes. Where nothing is known of a pixel (all scores alike) this is the
    prior; where both dates hesitate between the same two classes, as at the border of
    two fields, it is low, though the best class may flicker.

    Parameters
    ----------
    before, after : ndarray of float32, (class, y, x)
        Scores of 0 or more; divided by their sum.
    prior : float
        In (0, 1); ``(n - 1) / n`` makes it ``1 - S``.

    Returns
    -------
    ndarray of float32, (y, x)
        In [0, 1]; each pixel depends on no other.

    References
    ----------
    .. [1] Bruzzone & Serpico 1997, "An iterative technique for the detection of
       land-cover transitions in multitemporal remote-sensing images",
       IEEE Trans. Geosci. Remote Sens. 35(4), for the joint use of both dates'
       posteriors.

    Examples
    --------
    >>> import numpy as np
    >>> sure = np.float32([0.9, 0.05, 0.05]).reshape(3, 1, 1)
    >>> other = sure[[1, 0, 2]]
    >>> torn = np.float32([0.5, 0.5, 0.0]).reshape(3, 1, 1)
    >>> [round(float(change_probability(a, b)[0, 0]), 2)
    ...  for a, b in ((sure, sure), (sure, other), (torn, torn))]
    [0.1, 0.83, 0.33]
    """
    count = np.float32(len(before))
    agree, ones, others = (np.zeros(before.shape[1:], np.float32) for _ in range(3))
    scratch = np.empty_like(agree)
    # plane by plane, in one order: sums of floats depend on it
    for one, other in zip(before, after, strict=True):
        agree += np.multiply(one, other, out=scratch)
        ones += one
        others += other
    ones *= others
    np.maximum(ones, np.finfo(np.float32).tiny, out=ones)
    agree /= ones
    np.clip(agree, 0, 1, out=agree)
    differ = np.float32(prior) * (1 - agree)
    agree *= np.float32(1 - prior) * (count - 1)
    agree += differ
    differ /= agree
    return differ


def _choose(scores: Float, values: Array) -> tuple[Array, Float]:
    """Value of the best class, the first of equal ones, and its score."""
    top = scores[0].copy()
    best = np.full(top.shape, values[0], np.uint8)
    for value, plane in zip(values[1:], scores[1:], strict=True):
        np.copyto(best, value, where=plane > top)
        np.maximum(top, plane, out=top)
    return best, top


class _Layers:
    """What is stored of change, and how."""

    def __init__(
        self,
        card: ModelCard,
        outputs: Sequence[str],
        known: Sequence[str],
        scores_dtype: str,
    ) -> None:
        for name in outputs:
            if name not in known:
                why = f"is not known{suggest(name, known)}"
                if name in CLASS_OUTPUTS:
                    why = "needs the classes of both dates, which this method lacks"
                raise JobError(
                    f"output `{name}` of change {why}; choose from {', '.join(known)}"
                )
        wanted = {*outputs, "change"}
        classes, half = card.output.classes, scores_dtype == "float16"
        probability = quantised_layer("probability", "probability of change")
        if half:
            probability = Layer(
                name="probability",
                dtype="float16",
                fill_value=float("nan"),
                attrs=(("long_name", "probability of change"), ("units", "1")),
            )
        made = {
            "change": class_layer("change", CHANGE_CLASSES, f"change by {card.name}"),
            "probability": probability,
            "from_class": class_layer("from_class", classes, "class of the first date"),
            "to_class": class_layer("to_class", classes, "class of the second date"),
        }
        self._half = half
        self.layers = tuple(made[n] for n in CLASS_OUTPUTS if n in wanted)

    def store(
        self, probability: Float, changed: Bool, valid: Bool, **classes: Array
    ) -> dict[str, Array]:
        """Give every layer that is stored; nothing given is changed."""
        holes = np.where(valid, np.uint8(0), np.uint8(NODATA))
        made: dict[str, Array] = {}
        for layer in self.layers:
            if layer.name == "probability":
                made[layer.name] = self._store_probability(probability, valid, holes)
            else:
                values = classes.get(layer.name, changed)
                made[layer.name] = np.where(valid, values, np.uint8(NODATA))
        return made

    def _store_probability(
        self, probability: Float, valid: Bool, holes: Array
    ) -> Array:
        if self._half:
            return np.where(valid, probability, np.nan).astype(np.float16)
        out = np.empty(valid.shape, np.uint8)
        # a copy: the scores are the caller's
        quantise(probability.copy(), holes, out)
        return out
