"""Learning: what a job takes from its whole area before its first block.

Means, canonical vectors and thresholds of the unsupervised methods, and the shift
between the dates, come from a first pass over places that depend on the stack alone.
They go into the plan, the numbers into its card, and a run that goes on keeps them: so
no result depends on the cut, and none on who did the work.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.contrast.cards import close_card, is_open, method_of
from geoscale.contrast.irmad import Canonical, fit_irmad
from geoscale.contrast.pairs import Pair, Sample
from geoscale.contrast.shifts import MOST_PX, Shift, find_shift
from geoscale.contrast.thresholds import find_threshold
from geoscale.contrast.vectors import ChangeVectors, fit_vectors
from geoscale.embeddings import find_begun, learn_embedding
from geoscale.errors import MissingDependencyError, PlanError
from geoscale.explain import count_places
from geoscale.features import find_feature_threshold
from geoscale.passes import Pass, join_steps
from geoscale.plans import InferencePlan
from geoscale.sampling import list_places, take_sample
from geoscale.sources.opening import source_of, unjudged
from geoscale.sources.shifted import ShiftedSource
from geoscale.types import Json, Source

if TYPE_CHECKING:
    from distributed import Client

_LOG = logging.getLogger(__name__)

FEW = 16
"""Places that are asked where no numbers are wanted of them."""
SHIFT_PAIRS = 12
"""Pairs of dates whose shift is looked at, most."""
MOST_SPREAD_PX = 0.5
"""Places that differ by more tell of no single shift."""


def learn(
    plan: InferencePlan,
    url: str | None = None,
    *,
    looks: bool = False,
    client: Client | None = None,
    trust_code: bool = False,
) -> InferencePlan:
    """Find the numbers that a plan leaves open; take over what was found before.

    Parameters
    ----------
    plan : InferencePlan
        Comes back as it is if nothing is open.
    url : str, optional
        Output: if the same job was begun there, its numbers hold.
    looks : bool
        Whether to look for a shift also where no result depends on it.
    client : distributed.Client, optional
        Cluster that will run the blocks; its workers read the places.
    trust_code : bool
        Allow Python code that the card names outside known packages.

    Returns
    -------
    InferencePlan
        With its numbers, and with ``statistics`` that say where they come from.

    Raises
    ------
    PlanError
        If the pixels cannot be compared.
    """
    change = plan.change
    if plan.embedding is not None:
        return learn_embedding(plan, url, client=client, trust_code=trust_code)
    if change is None:
        return plan
    looks = looks and change.coregister == "report" and plan.statistics is None
    if url is not None and (looks or plan.statistics or not plan.is_learned):
        begun = find_begun(plan, url)
        if begun is not None:
            return _take_over(plan, begun)
    if plan.is_learned and not looks:
        return plan
    return _Lesson(plan, client, trust_code).learn()


def _take_over(plan: InferencePlan, begun: InferencePlan) -> InferencePlan:
    """Give a plan the numbers of the same one, which was begun."""
    assert begun.statistics is not None
    moved = begun.statistics.get("shifted")
    live = plan.live
    if moved is not None and live is not None:
        live = _shift(live.base if isinstance(live, ShiftedSource) else live, *moved)
    return dataclasses.replace(
        plan,
        card=begun.card,
        source=begun.source,
        statistics=begun.statistics,
        notes=begun.notes,
        live=live,
        home=begun.home if live is None else plan.home,
    )


class _Lesson:
    """Learns for one plan; every part reads what it needs once."""

    def __init__(
        self, plan: InferencePlan, client: Client | None, trust_code: bool
    ) -> None:
        self._plan, self._client, self._trust = plan, client, trust_code
        if plan.source.get("judging") is not None and not plan.is_learned:
            # the first pass has no kernel to judge with, and clouds are no ground
            raise PlanError(
                "change by numbers of the whole area cannot look through a mask that "
                "a model makes; say `imagery.mask: {asset: …}`, or choose "
                "`change.method: network` or `classes` without `coregister: shift`"
            )
        self._source = unjudged(source_of(plan))
        self._pairs = [join_steps(passes) for passes in plan.groups]
        self._told: Json = {"of": plan.hash}
        self._notes: list[str] = []

    def learn(self) -> InferencePlan:
        """Find everything; the shift first, since all numbers depend on it."""
        plan, card = self._plan, self._plan.card
        assert plan.change is not None
        if not plan.is_learned and len(self._pairs) > 1:
            what = method_of(card) if is_open(card) else "coregister shift"
            raise PlanError(
                f"change: {what} compares two dates, the stack has "
                f"{len(plan.source_times)}; give two in `imagery.periods`, or make a "
                "job of each pair"
            )
        sample = None
        if is_open(card) and method_of(card) != "features":
            sample = self._sample(self._pairs[0])
        if plan.change.coregister != "none":
            self._find_shifts(sample)
        if plan.change.coregister == "shift" and self._correct():
            sample = None if sample is None else self._sample(self._pairs[0])
        if sample is not None:
            card = close_card(card, self._find_numbers(sample))
        elif is_open(card):
            card = close_card(card, {"threshold": self._find_distance()})
        moved = "shifted" in self._told
        return dataclasses.replace(
            plan,
            card=card,
            statistics=self._told,
            notes=(*plan.notes, *self._notes),
            source=self._source.spec() if moved else plan.source,
            live=self._source if moved else plan.live,
        )

    def _sample(self, times: Pass, most: int | None = None) -> Sample:
        return take_sample(self._plan, self._source, times, self._client, most)

    def _find_numbers(self, sample: Sample) -> Json:
        """Arguments of the card's network; notes what is told of them."""
        plan, source = self._plan, self._source
        assert plan.change is not None
        counts = sample.map(_count)
        self._told |= {"places": len(counts), "pixels": sum(counts)}
        found: Canonical | ChangeVectors
        if method_of(plan.card) == "irmad":
            found = fit_irmad(sample, source.bands)
            self._told["rounds"] = found.rounds
            self._told["correlations"] = found.correlations.tolist()
        else:
            found = fit_vectors(sample, source.bands)
        threshold = plan.change.magnitude
        if threshold is None:
            threshold = find_threshold(sample, found)
        return {**found.numbers(), "threshold": self._tell(threshold)}

    def _find_distance(self) -> float:
        """Threshold of a distance between features."""
        plan, source = self._plan, self._source
        assert plan.change is not None
        threshold = plan.change.magnitude
        if threshold is None:
            places = list_places(plan, source, self._pairs[0], FEW)
            threshold = find_feature_threshold(
                plan, source, places, self._client, self._trust
            )
        return self._tell(threshold)

    def _tell(self, threshold: float) -> float:
        """Note a threshold, and who found it."""
        assert self._plan.change is not None
        by = "otsu" if self._plan.change.magnitude is None else "job"
        method = method_of(self._plan.card)
        self._told |= {"method": method, "threshold": threshold, "by": by}
        return threshold

    def _find_shifts(self, sample: Sample | None) -> None:
        """Note the shift of some pairs of dates, and what the user should know."""
        count = min(SHIFT_PAIRS, len(self._pairs))
        told: list[Json] = []
        for k in np.linspace(0, len(self._pairs) - 1, count).astype(int).tolist():
            times = self._pairs[k]
            try:
                found = find_shift(sample or self._sample(times, FEW))
            except MissingDependencyError as err:
                if not self._plan.is_learned:
                    raise
                self._notes.append(f"no shift between the dates was looked for: {err}")
                return
            ends = {
                "from": self._plan.source_times[times[0]],
                "to": self._plan.source_times[times[-1]],
            }
            told.append(ends | ({"places": 0} if found is None else found.to_dict()))
        self._told["shifts"] = told
        for text in (_warn(one, self._plan) for one in told):
            if text is not None:
                _LOG.warning("%s", text)
                self._notes.append(text)

    def _correct(self) -> bool:
        """Shift the second date, if a shift was found that holds everywhere."""
        found = self._told["shifts"][0]
        if not found["places"]:
            self._notes.append(
                "no place shows enough texture at both dates, so no shift was corrected"
            )
            return False
        if found["spread"] > MOST_SPREAD_PX:
            raise PlanError(
                f"the {found['places']} places that were looked at differ by "
                f"{found['spread']:.2f} px (robust standard deviation) in how far the "
                "second date lies beside the first: no single shift corrects that; "
                "register the scenes before, or say `change.coregister: report`"
            )
        self._source = _shift(self._source, found["y"], found["x"])
        self._told["shifted"] = [found["y"], found["x"]]
        return True


def _shift(source: Source, y: float, x: float) -> Source:
    base: Any = source
    return ShiftedSource(base, y, x)


def _count(pair: Pair) -> int:
    return int(pair.valid.sum())


def _warn(told: Json, plan: InferencePlan) -> str | None:
    """Say that dates lie beside each other by more than `MOST_PX`."""
    if not told["places"]:
        return None
    shift = Shift(told["y"], told["x"], told["spread"], told["places"])
    if not shift.is_large:
        return None
    text = (
        f"{told['to'][:10]} lies {shift.size:.2f} px beside {told['from'][:10]} "
        f"({shift.y:+.2f} px along y, {shift.x:+.2f} px along x, spread "
        f"{shift.spread:.2f} px over {count_places(shift.places)})"
    )
    if plan.change is not None and plan.change.coregister == "shift":
        return f"{text}; corrected"
    return (
        f"{text}, more than {MOST_PX} px: edges will look changed; say "
        "`change.coregister: shift`, or register the scenes first"
    )
