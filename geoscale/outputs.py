"""The verbs on what was made: status, verify, repair, export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from geoscale.api import as_url, run
from geoscale.assemble import make_sink
from geoscale.ending import RunReport, merge_reports
from geoscale.engine.journal import Journal
from geoscale.engine.pulse import find_progress
from geoscale.engine.verify import Damage, Verification, verify_blocks
from geoscale.errors import OutputError
from geoscale.plans import InferencePlan
from geoscale.sinks.cog import export_cog
from geoscale.sinks.stac import export_catalog, export_stac
from geoscale.sources.opening import list_sources
from geoscale.types import Json
from geoscale.words import redact
from geoscale.zone_list import read_zones
from geoscale.zones import end_waiting

if TYPE_CHECKING:
    from distributed import Client


def status(output: str | Path) -> Json:
    """Tell where a run stands, from its output alone.

    Parameters
    ----------
    output : str or path
        The output, or the folder of several UTM zones'.

    Returns
    -------
    dict
        Blocks in all, done, failed, and whether the output is complete; of several
        UTM zones over all, and each in ``zones``.

    Raises
    ------
    OutputError
        If nothing was begun there.
    """
    url = as_url(output)
    told = read_zones(url)
    if told is not None:
        return _status_of_zones(url, told)
    journal, stored = _stored(url)
    return {
        "output": journal.url,
        "plan_hash": stored.hash,
        "model": stored.card.name,
        **find_progress(journal, stored),
    }


def load_begun(output: str | Path) -> tuple[InferencePlan, str]:
    """Load the plan that an output was begun with.

    Parameters
    ----------
    output : str or path
        The output.

    Returns
    -------
    InferencePlan, str
        The plan, and the output as workers see it.

    Raises
    ------
    OutputError
        If nothing was begun there, or several UTM zones were.
    """
    if read_zones(as_url(output)) is not None:
        raise OutputError(
            f"{redact(str(output))} has several zones: go on with its job file"
        )
    journal, stored = _stored(output)
    return stored, journal.url


def verify(output: str | Path) -> Verification:
    """Compare every stored byte with what the ledger says was written.

    Parameters
    ----------
    output : str or path
        The output, or the folder of several UTM zones'.

    Returns
    -------
    Verification
        ``is_sound``, and the damaged and missing blocks.
    """
    url = as_url(output)
    told = read_zones(url)
    return _verify(*_stored(url)) if told is None else _verify_zones(url, told)


def repair(
    output: str | Path, *, client: Client | None = None, trust_code: bool = False
) -> RunReport:
    """Make damaged and missing blocks again, and only these.

    Parameters
    ----------
    output : str or path
        The output, or the folder of several UTM zones'.
    client : distributed.Client, optional
        Cluster to run on.
    trust_code : bool
        Allow Python code that the card names outside known packages.

    Returns
    -------
    RunReport
        As `run` gives.
    """
    url = as_url(output)
    told = read_zones(url)
    if told is not None:
        places = _begun_zones(url, told)

        def mend(name: str) -> RunReport:
            """Repair one zone."""
            return repair(places[name], client=client, trust_code=trust_code)

        reports = {name: mend(name) for name in places}
        end_waiting(reports, mend)
        return merge_reports(url, reports)
    journal, stored = _stored(url)
    sink, found = make_sink(stored, journal.url), _verify(journal, stored)
    journal.begin(stored)
    # What is damaged is deleted; the run makes blocks, metadata and overviews anew.
    for damage in found.damaged:
        sink.drop(damage.key)
    if found.damaged:
        journal.undo({d.block for d in found.damaged if d.block is not None})
    return run(stored, journal.url, client=client, trust_code=trust_code)


def export(
    output: str | Path, to: str | Path, *, layers: Sequence[str] | None = None
) -> list[Path]:
    """Write a finished output as Cloud Optimized GeoTIFFs with STAC Items.

    Parameters
    ----------
    output : str or path
        A complete output, or the folder of several UTM zones'.
    to : str or path
        Local folder.
    layers : sequence of str, optional
        Layers to write; default ``classes``, which carries its colour table, or the
        quantities of a regression.

    Returns
    -------
    list of Path
        The COGs, one per layer and time step, then the STAC catalogue; of several UTM
        zones in a folder for each, then a catalogue of all.

    Raises
    ------
    OutputError
        If the output is not complete and verified.
    """
    url = as_url(output)
    told = read_zones(url)
    if told is not None:
        return _export_zones(url, told, Path(to), layers)
    journal, stored = _stored(url)
    final = _final(journal, stored)
    if stored.card.output.detection is not None:
        raise OutputError(
            f"{redact(journal.url)} holds objects, a table and no map: write it by "
            "`geoscale export OUT --to objects.gpkg` (Python: "
            "geoscale.results.objects.export_objects)"
        )
    layers = layers or _choose_layers(stored)
    cogs = {layer: export_cog(journal.url, to, layer) for layer in layers}
    # A mapping of URLs to ids would carry signatures; ids say enough.
    facts = {**final, "sources": list_sources(stored)}
    catalogue = export_stac(to, journal.url, cogs, facts, stored.card)
    return [*(path for paths in cogs.values() for path in paths), catalogue]


def _choose_layers(stored: InferencePlan) -> tuple[str, ...]:
    """Layers that are exported where none is named."""
    plain = stored.goal in ("segmentation", "change", "classification")
    return ("classes",) if plain else stored.layers


def _status_of_zones(url: str, told: Json) -> Json:
    zones = {}
    for name, facts in told["zones"].items():
        if Journal(f"{url}/{name}").load_plan() is None:
            blocks = facts["blocks"]
            zones[name] = {"blocks": blocks, "done": 0, "left": blocks, "failed": {}}
            zones[name] |= {"complete": False, "runs": 0}
        else:
            zones[name] = status(f"{url}/{name}")
    each = list(zones.values())
    return {
        "output": url,
        "model": next((one["model"] for one in each if "model" in one), None),
        **{key: sum(one[key] for one in each) for key in ("blocks", "done", "left")},
        "failed": {
            f"{zone}/{block}": why
            for zone, one in zones.items()
            for block, why in one["failed"].items()
        },
        "complete": all(one["complete"] for one in each),
        "runs": max(one["runs"] for one in each),
        "zones": zones,
        "empty": told["empty"],
    }


def _verify_zones(url: str, told: Json) -> Verification:
    found = Verification()
    for name, facts in told["zones"].items():
        if Journal(f"{url}/{name}").load_plan() is None:
            one = Verification(missing=list(range(facts["blocks"])))
        else:
            one = verify(f"{url}/{name}")
        found.zones[name] = one
        found.checked += one.checked
        found.damaged += [replace(d, key=f"{name}/{d.key}") for d in one.damaged]
        found.missing += one.missing
    return found


def _begun_zones(url: str, told: Json) -> dict[str, str]:
    """Give the outputs of all zones, by name.

    Raises
    ------
    OutputError
        If one was not begun.
    """
    places = {name: f"{url}/{name}" for name in told["zones"]}
    for place in places.values():
        if Journal(place).load_plan() is None:
            raise OutputError(f"{redact(place)} was not begun: run its job first")
    return places


def _export_zones(
    url: str, told: Json, to: Path, layers: Sequence[str] | None
) -> list[Path]:
    places = _begun_zones(url, told)
    for place in places.values():
        _final(*_stored(place))  # all or nothing: before the first file is written
    paths, parts = [], []
    for name, place in places.items():
        found = export(place, to / name, layers=layers)
        paths += found
        parts.append(found[-1])
    name = Path(url).name.removesuffix(".zarr")
    return [*paths, export_catalog(to, parts, name)]


def _final(journal: Journal, stored: InferencePlan) -> Json:
    final = journal.final()
    if final is None:
        left = len(stored.numbers()) - len(journal.read().done)
        raise OutputError(
            f"{redact(journal.url)} is not complete ({left} blocks left): run its job "
            "to the end first"
        )
    return final


def _verify(journal: Journal, stored: InferencePlan) -> Verification:
    """Compare blocks, metadata, coordinates and overviews."""
    sink = make_sink(stored, journal.url)
    found = verify_blocks(stored, journal, sink)
    found.damaged += [Damage(None, key, "changed") for key in sink.damaged_metadata()]
    final = journal.final()
    if final is not None:
        found.check(sink, final.get("overviews", {}) | final.get("gathered", {}))
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
