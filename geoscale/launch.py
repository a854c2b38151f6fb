"""Launching: what a plan needs to run here, and the executor that runs it."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from geoscale.assemble import build_kernel, hash_card_code, make_kernel, make_sink
from geoscale.card import ModelCard
from geoscale.clusters import ask_workers, count_local_workers, describe_cluster
from geoscale.engine.distributed import DaskExecutor
from geoscale.engine.loop import LoopExecutor
from geoscale.errors import JobError, OutputError, StoppedError
from geoscale.memory import allowed_cpus, allowed_memory_bytes
from geoscale.models import (
    find_differences,
    handshake,
    name_kind,
    name_processor,
    resolve_weights,
)
from geoscale.options import Change, Embedding, Inference, Output
from geoscale.planner import Area, make_plan
from geoscale.plans import InferencePlan
from geoscale.sources.aoi import Area as Polygon
from geoscale.storage import Folder
from geoscale.supply import find_parcels, supply
from geoscale.types import Executor, Json, Source
from geoscale.words import redact

if TYPE_CHECKING:
    from distributed import Client

MEMORY_SHARE = 0.9
"""Part of the allowed memory that a plan may count on."""
CLUSTER = "cluster.json"
"""Beside the plan: how a cluster that outlives its driver is found again."""
ANSWER_S = 5.0
"""Time in which workers say what they run on, in s."""
COMPRESSION = 4.0
"""How much smaller than its pixels a map is held to become, at least."""


def plan_source(
    source: Source,
    card: ModelCard,
    area: Polygon | None,
    inference: Inference,
    output: Output,
    change: Change | None = None,
    embedding: Embedding | None = None,
) -> InferencePlan:
    """Plan over a source that gives the card's bands in the card's units.

    Parameters
    ----------
    source : Source
        Imagery.
    card : ModelCard
        The model.
    area : Area or None
        Area of interest, on the source's grid.
    inference : Inference
        What the user chose.
    output : Output
        What is to be stored.
    change : Change, optional
        How change is found; None: a map of classes.
    embedding : Embedding, optional
        How embeddings are made; None: none are.

    Returns
    -------
    InferencePlan
        Checked; no pixel was read.
    """
    _, sha256 = resolve_weights(card)
    asked = None
    if area is not None:
        asked = Area(geometry=area.to_json(), touches=area.touches)
    return make_plan(
        source,
        card,
        weights_sha256=sha256,
        code_sha256=hash_card_code(card),
        inference=inference,
        output=output,
        area=asked,
        change=change,
        embedding=embedding,
    )


def pick_shard(plan: InferencePlan, shard: tuple[int, int]) -> list[int]:
    """Blocks of one of several parts: neighbours in turn, so that parts are equal.

    Raises
    ------
    JobError
        If there is no such part.
    """
    index, parts = shard
    if not 0 <= index < parts:
        raise JobError(f"shard {index}/{parts} does not exist; choose 0 to {parts - 1}")
    return [int(n) for n in plan.numbers()[index::parts]]


def make_executor(
    plan: InferencePlan, url: str, client: Client | None, *, trust_code: bool
) -> Executor:
    """Executor for a plan: this process, or a cluster's workers.

    Parameters
    ----------
    plan : InferencePlan
        What is to be run.
    url : str
        The output.
    client : distributed.Client or None
        The cluster.
    trust_code : bool
        Allow Python code that the card names outside known packages.

    Returns
    -------
    Executor
        Ready.
    """
    in_flight = pick_in_flight(plan, client)
    if client is None:
        kernel = make_kernel(
            plan,
            source=plan.live,
            sink=make_sink(plan, url),
            trust_code=trust_code,
            threads=allowed_cpus(),
        )
        return LoopExecutor(kernel, in_flight)
    check_workers(client)
    parcels = find_parcels(plan, trust_code=trust_code)
    processes = count_processes(client)
    extra: tuple[Any, ...] = (trust_code, processes, handshake(), parcels)
    if plan.live is not None and plan.source.get("kind") == "array":
        # Only an array in this process has to travel, once per worker.
        extra = (*extra, client.scatter(plan.live, broadcast=True, hash=False))
    return DaskExecutor(
        client, build_kernel, url, plan.hash, in_flight=in_flight, extra=extra
    )


def equip(
    url: str, plan: InferencePlan, client: Client | None, trust_code: bool
) -> AbstractContextManager[Any]:
    """Note the cluster beside the output, and send it the model's files.

    Parameters
    ----------
    url : str
        The output.
    plan : InferencePlan
        What is run.
    client : distributed.Client or None
        The cluster.
    trust_code : bool
        Send code, too.

    Returns
    -------
    context manager
        Open while blocks are run: workers that come later get the files as well.
    """
    if client is not None:
        note_cluster(url, client)
    return supply(plan, client, trust_code=trust_code)


def note_cluster(url: str, client: Client) -> None:
    """Note beside an output how its cluster is found again, if it outlives its driver.

    Parameters
    ----------
    url : str
        The output.
    client : distributed.Client
        Connected.
    """
    told = describe_cluster(client)
    if told is not None:
        data = json.dumps(told, indent=1).encode()
        (Folder(url) / ".geoscale").put(CLUSTER, data)


def check_workers(client: Client) -> None:
    """Refuse a cluster on which some worker would make other pixels than this process.

    Those that do not answer, and those that come later, are looked at again before
    they are given a block.

    Parameters
    ----------
    client : distributed.Client
        With at least one worker.

    Raises
    ------
    StoppedError
        Naming the workers, and what differs.
    """
    ours = handshake()
    told = [
        f"{worker}: {', '.join(map(str, found))}"
        for worker, theirs in ask_workers(client, handshake).items()
        if isinstance(theirs, dict) and (found := find_differences(ours, theirs))
    ]
    if told:
        more = f"\n  and {len(told) - 5} more" if len(told) > 5 else ""
        raise StoppedError(
            "workers have other versions than this process, which may change the map:"
            + "".join(f"\n  {line}" for line in told[:5])
            + f"{more}\nuse one environment for the driver and all workers (`geoscale "
            "doctor --cluster` compares them), then run the same command again"
        )


def pick_in_flight(plan: InferencePlan, client: Client | None) -> int:
    """Choose how many blocks a process works on at a time.

    Overlapping hides waiting for a network, a disk or a GPU. On a CPU with local
    files there is little of it, and the threads of a layer wait for each other when
    another block takes a core.

    Parameters
    ----------
    plan : InferencePlan
        What is to be run.
    client : distributed.Client or None
        The cluster.

    Returns
    -------
    int
        What the user chose, else 1 or 2.
    """
    if plan.inference.in_flight is not None:
        return plan.inference.in_flight
    is_here = client is None or count_local_workers(client) > 0
    is_remote = plan.source.get("remote", "://" in json.dumps(plan.source, default=str))
    if is_here and not is_remote and name_kind(plan.inference.device) == "cpu":
        return 1
    return plan.in_flight


def count_processes(client: Client) -> int:
    """Count the worker processes that share a host, at most.

    Those of a local cluster that are still starting count too: threads follow from
    this number, kernels from threads, and the last bits of a score from kernels.
    """
    workers = wait_for_workers(client)
    # jobs of a batch system have cores of their own, whoever shares their host
    if of_a_job := getattr(client.cluster, "job_processes", None):
        return int(of_a_job)
    hosts = Counter(urlsplit(address).hostname for address in workers)
    return max(*hosts.values(), count_local_workers(client))


def wait_for_workers(client: Client, timeout_s: float = 120.0) -> dict[str, Any]:
    """Wait for the first worker; return what the scheduler knows of all.

    Raises
    ------
    StoppedError
        If none comes.
    """
    try:
        client.wait_for_workers(1, timeout=timeout_s)
    except TimeoutError:
        raise StoppedError(
            f"no worker joined the cluster within {timeout_s:.0f} s; look at the "
            "workers' logs or the batch queue, then run the same command again"
        ) from None
    return dict(client.scheduler_info(n_workers=-1)["workers"])


def allowed_worker_bytes(client: Client | None) -> int:
    """Memory that a plan may count on in each process, in bytes."""
    if client is None:
        return int(MEMORY_SHARE * allowed_memory_bytes())
    limits = [
        int(info.get("memory_limit") or 0) for info in wait_for_workers(client).values()
    ]
    least = min([n for n in limits if n] or [allowed_memory_bytes()])
    return int(MEMORY_SHARE * least)


def check_room(plan: InferencePlan, url: str) -> None:
    """Refuse an output that the disk has no room for.

    Raises
    ------
    OutputError
        With what is needed and what is free.
    """
    from geoscale.explain import count_planes

    free = Folder(url).free_bytes()
    need = plan.output_bytes(count_planes(plan)) / COMPRESSION
    if free is not None and need > free:
        raise OutputError(
            f"the output needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free "
            f"at {redact(url)}; choose another place, or fewer layers"
        )


def describe_run(plan: InferencePlan, client: Client | None) -> Json:
    """Provenance of a run: versions, where, how precise (guarantee G15)."""
    workers = None if client is None else len(wait_for_workers(client))
    learned = plan.statistics or {}
    more = {"learned": {k: v for k, v in learned.items() if k != "of"}}
    return (more if learned else {}) | {
        "model": plan.card.name,
        "model_sha256": plan.weights_sha256,
        "runtime": plan.inference.runtime,
        "precision": plan.inference.precision,
        "tuning": None if plan.tuning is None else plan.tuning["choice"],
        "device": plan.inference.device,
        "processors": _name_processors(plan.inference.device, client),
        "batch": plan.inference.batch,
        "workers": workers,
        "versions": handshake(),
    }


def _name_processors(device: str, client: Client | None) -> list[str]:
    """Name the CPUs or GPUs that there are now, each once; those that answer soon."""
    if client is None:
        return [name_processor(device)]
    told = ask_workers(client, name_processor, device, timeout_s=ANSWER_S)
    return sorted({name for name in told.values() if isinstance(name, str)})
