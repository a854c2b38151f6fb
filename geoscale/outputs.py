"""The verbs on what was made: status, verify, repair, export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from geoscale.api import as_url, run
from geoscale.assemble import make_sink
from geoscale.engine.journal import Journal
from geoscale.engine.verify import Damage, Verification, verify_blocks
from geoscale.errors import OutputError
from geoscale.plans import InferencePlan
from geoscale.sinks.cog import export_cog
from geoscale.sinks.stac import export_stac
from geoscale.sources.opening import list_sources
from geoscale.types import Json
from geoscale.words import redact

if TYPE_CHECKING:
    from distributed import Client

    from geoscale.ending import RunReport


def status(output: str | Path) -> Json:
    """Tell where a run stands, from its output alone.

    Parameters
    ----------
    output : str or path
        The output.

    Returns
    -------
    dict
        Blocks in all, done, failed, and whether the output is complete.

    Raises
    ------
    OutputError
        If nothing was begun there.
    """
    journal, stored = _stored(output)
    ledger = journal.read()
    total = len(stored.numbers())
    return {
        "output": journal.url,
        "plan_hash": stored.hash,
        "model": stored.card.name,
        "blocks": total,
        "done": len(ledger.done),
        "left": total - len(ledger.done),
        "failed": {stored.grid.name(n): f for n, f in sorted(ledger.failed.items())},
        "complete": journal.final() is not None,
        "runs": ledger.epoch,
    }


def verify(output: str | Path) -> Verification:
    """Compare every stored byte with what the ledger says was written.

    Parameters
    ----------
    output : str or path
        The output.

    Returns
    -------
    Verification
        ``is_sound``, and the damaged and missing blocks.
    """
    journal, stored = _stored(output)
    return _verify(journal, stored)


def repair(
    output: str | Path, *, client: Client | None = None, trust_code: bool = False
) -> RunReport:
    """Make damaged and missing blocks again, and only these.

    Parameters
    ----------
    output : str or path
        The output.
    client : distributed.Client, optional
        Cluster to run on.
    trust_code : bool
        Allow Python code that the card names outside known packages.

    Returns
    -------
    RunReport
        As `run` gives.
    """
    journal, stored = _stored(output)
    sink, found = make_sink(stored, journal.url), _verify(journal, stored)
    journal.begin(stored)
    # What is damaged is deleted; the run makes blocks, metadata and overviews anew.
    for damage in found.damaged:
        sink.drop(damage.key)
    if found.damaged:
        journal.undo({d.block for d in found.damaged if d.block is not None})
    return run(stored, journal.url, client=client, trust_code=trust_code)


def export(
    output: str | Path, to: str | Path, *, layers: Sequence[str] = ("classes",)
) -> list[Path]:
    """Write a finished output as Cloud Optimized GeoTIFFs with STAC Items.

    Parameters
    ----------
    output : str or path
        A complete output.
    to : str or path
        Local folder.
    layers : sequence of str
        Layers to write; ``classes`` carries its colour table.

    Returns
    -------
    list of Path
        The COGs, one per layer and time step, then the STAC catalogue.

    Raises
    ------
    OutputError
        If the output is not complete and verified.
    """
    journal, stored = _stored(output)
    final = journal.final()
    if final is None:
        left = len(stored.numbers()) - len(journal.read().done)
        raise OutputError(
            f"{redact(journal.url)} is not complete ({left} blocks left): run its job "
            "to the end first"
        )
    cogs = {layer: export_cog(journal.url, to, layer) for layer in layers}
    # A mapping of URLs to ids would carry signatures; ids say enough.
    facts = {**final, "sources": list_sources(stored)}
    catalogue = export_stac(to, journal.url, cogs, facts, stored.card)
    return [*(path for paths in cogs.values() for path in paths), catalogue]


def _verify(journal: Journal, stored: InferencePlan) -> Verification:
    """Compare blocks, metadata, coordinates and overviews."""
    sink = make_sink(stored, journal.url)
    found = verify_blocks(stored, journal, sink)
    found.damaged += [Damage(None, key, "changed") for key in sink.damaged_metadata()]
    final = journal.final()
    if final is not None:
        found.check(sink, final.get("overviews", {}))
    return found


def _stored(output: str | Path) -> tuple[Journal, InferencePlan]:
    journal = Journal(as_url(output))
    stored = journal.load_plan()
    if stored is None:
        raise OutputError(
            f"{redact(journal.url)} is no output of geoscale: it holds no plan; check "
            "the path, or run a job to it first"
        )
    return journal, stored
