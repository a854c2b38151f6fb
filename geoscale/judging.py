"""Judging: a model that tells clouds, run inside the reading of another one's block.

Sources know no models. They are given a function; here it is made: the model's own
plan over the same stack, whose patches lie on one lattice, so that what is said of a
pixel does not depend on the window that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geoscale.card import ModelCard
from geoscale.engine.block import Kernel, infer_block
from geoscale.errors import CardError, OutputError
from geoscale.imports import hash_code
from geoscale.models import (
    ModelSettings,
    device_lock,
    find_card,
    get_predictor,
    resolve_weights,
)
from geoscale.options import Inference, Output
from geoscale.parcels import Parcel
from geoscale.passes import BlockTask
from geoscale.patching import resolve_inference
from geoscale.plans import InferencePlan
from geoscale.preprocess import Preprocessor
from geoscale.sources.clear import UNJUDGED, Judge, Judging, Mask
from geoscale.sources.composite import CompositeSource
from geoscale.supply import MASK, at_hand
from geoscale.tasks.segmentation import Segmentation
from geoscale.types import Array, Missing, Source
from geoscale.windows import Window

BATCH_PX = 2**18
"""Pixels that go through the model at once: by the model alone, never by the block, so
that neither are its last bits."""


def find_judging(mask: Mask | None) -> Judging | None:
    """Find the model of a mask.

    Parameters
    ----------
    mask : Mask or None
        Of a job's imagery.

    Returns
    -------
    Judging or None
        None where no model is the mask.

    Raises
    ------
    CardError
        If there is no such model, or it gives no classes of single dates.
    WeightsError
        If its weights are not there.
    """
    if mask is None or mask.model is None:
        return None
    card = find_card(mask.model)
    if card.task != "segmentation" or card.input.frames > 1:
        raise CardError(
            f"imagery.mask: `{card.name}` does not classify single dates (task "
            f"{card.task}, {card.input.frames} dates at once); choose a model of "
            "clouds, such as ukis-csmask-6b-l1c"
        )
    _, sha256 = resolve_weights(card)
    size = card.input.patch.size
    asked = Inference(batch=max(1, BATCH_PX // size**2))
    chosen = resolve_inference(asked, card, (1, 1))
    return Judging(
        card=card.to_dict(),
        weights_sha256=sha256,
        code_sha256=_hash_code(card),
        inference=chosen.model_dump(
            mode="json", exclude={"device", "in_flight", "min_agreement", "block"}
        ),
        bands=card.input.bands,
        units=card.input.units,
        multiply=card.input.multiply,
        classes={one.name: one.value for one in card.output.classes},
    )


def with_judge(
    source: Source,
    plan: InferencePlan,
    *,
    trust_code: bool = False,
    threads: int | None = None,
    parcels: Sequence[Parcel] = (),
) -> Source:
    """Give a source with the model of its mask at hand, where it has one.

    Parameters
    ----------
    source : Source
        Of the plan.
    plan : InferencePlan
        What is run; says where.
    trust_code : bool
        Allow Python code that the model's card names outside known packages.
    threads : int, optional
        CPU threads of the model's runtime.
    parcels : sequence of Parcel
        Files of models that the driver sends.

    Returns
    -------
    Source
        The same one where no model is the mask.

    Raises
    ------
    OutputError
        If the model's code has changed since the plan was made.
    WeightsError
        If its weights have.
    """
    if not isinstance(source, CompositeSource) or source.sky is None:
        return source
    told = source.recipe.judging
    assert told is not None
    card = ModelCard.from_dict(told.card, where="imagery.mask")
    card = at_hand(card, parcels, MASK)
    if _hash_code(card) != told.code_sha256:
        raise OutputError(
            f"the Python file of `{card.name}`, the model of imagery.mask, has changed "
            "since the plan was made; put it back, or choose another output"
        )
    chosen = Inference.model_validate(
        told.inference | {"device": plan.inference.device}
    )
    sky = source.sky
    own = InferencePlan(
        source={},
        card=card,
        weights_sha256=told.weights_sha256,
        code_sha256=told.code_sha256,
        geobox=sky.geobox,
        source_times=sky.times,
        inference=chosen,
        output=Output(layers=("classes",)),
        itemsize=sky.dtype.itemsize,
        states=np.zeros(0, np.uint8),
    )
    settings = ModelSettings(
        device=chosen.device,
        batch=chosen.batch,
        patch=own.lattice.patch_shape,
        threads=threads,
        trust_code=trust_code,
        expected_sha256=told.weights_sha256,
    )
    predictor = get_predictor(card, settings)
    kernel = Kernel(
        plan=own,
        source=sky,
        prepare=Preprocessor.from_card(card, trust_code),
        predictor=predictor,
        task=Segmentation(card, ("classes",)),
        device_lock=device_lock(str(getattr(predictor, "device_name", "cpu"))),
    )
    return source.judged(make_judge(kernel))


def make_judge(kernel: Kernel) -> Judge:
    """Make a function of a kernel: step and window → classes, and what is missing.

    Parameters
    ----------
    kernel : Kernel
        Of the model, over the dates as it takes them.

    Returns
    -------
    Judge
        May be called by several threads.
    """

    def judge(step: int, window: Window) -> tuple[Array, tuple[Missing, ...]]:
        """Classify a window of one date."""
        task = BlockTask(
            number=0,
            name="mask",
            time=0,
            passes=((step,),),
            core=window,
            read=kernel.plan.lattice.read_window(window),
        )
        layers, told = infer_block(kernel, task)
        lacking = told.get("missing", ())
        found = tuple(Missing(item, tuple(bands), why) for item, bands, why in lacking)
        assert layers["classes"].dtype == np.uint8
        return layers["classes"], found

    assert kernel.task.layers[0].fill_value == UNJUDGED
    return judge


def _hash_code(card: ModelCard) -> str | None:
    paths = (card.architecture, card.input.normalization.callable)
    hashes = [h for p in paths if p and (h := hash_code(p, base=card.base))]
    return "-".join(hashes) or None
