"""Without any one safeguard the suite is red; a tenth of them here, all by the tool.

``python tools/mutations.py`` takes out every one.
"""

from __future__ import annotations

import os
import random

import pytest

from tools.mutations import MUTATIONS, ROOT, try_one

SEED = int(os.environ.get("GEOSCALE_SEED", "20"))
SHARE = float(os.environ.get("GEOSCALE_PROOF_SHARE", "0.1"))


def some():
    names = sorted(m.name for m in MUTATIONS)
    picked = random.Random(SEED).sample(names, max(2, round(SHARE * len(names))))
    return [m for m in MUTATIONS if m.name in picked]


@pytest.mark.slow
@pytest.mark.parametrize("mutation", some(), ids=lambda m: m.name)
def test_a_safeguard_that_is_taken_out_is_missed(mutation, tmp_path):
    found = try_one(mutation, tmp_path)
    if found.startswith("skipped"):
        pytest.skip(f"its tests need what is not here: {found}")
    assert found.startswith("seen")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_every_safeguard_is_where_the_tool_looks_for_it(mutation):
    assert (ROOT / mutation.file).read_text().count(mutation.old) == 1
