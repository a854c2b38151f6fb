"""Words of the page, and tables of results whose fields it does not know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

MAX_COLUMNS, LONG = 16, 60
TEXTS = {
    "efficiency": """
A whole job (COGs in, verified Zarr with overviews out) against the network alone on
the same patches, already cut and in memory, with the same runtime, precision, batch
and threads; both in one process, in turn, after a warm-up. Efficiency is the seconds
of the network alone over the seconds of the job, the median over pairs of runs. The
network is loaded and the plan made before; files are in the page cache. *recompute*
is pixels that the network saw per pixel of the map.
""",
    "peers": """
The same COGs, weights, cores and precision. Every run of every contender has a
process of its own, and contenders take turns. Timed is the work: reading, inference,
and a class map (uint8) in a file; *load + plan* is what came before (imports, loading
the network, one warm batch; for geoscale also planning, which with `auto` measures
runtimes). *Agreement* is the share of pixels with the reference's label. *Seam worst*
is the changes of class across the worst of a map's own patch borders over those
across its median line (1 is no seam, more borders make a worse worst); *seam mean* is
the same of the mean border and the mean of all other lines. *Peak* is of the whole
process. `geoscale` runs at the peers' own runtime and precision, `geoscale auto` at
float32 with the runtime that it finds fastest, `geoscale auto precision` may also
lower the precision where its labels stay.
""",
    "dataplane": """
A job whose network costs nothing: it gives the same scores for every patch. What is
left is reading, checking, normalising, cutting, merging, storing and verifying. *raw*
is a pool of as many threads as cores that reads every block of every band with GDAL
and writes the same bytes to sharded Zarr, with no checks. Over HTTP a server on
loopback waits before each answer; each *reader* reads every block alone, through
Dask's threads, and writes nothing. Each run has a process of its own.
*written_over_stored* is bytes handed to the kernel for writing over bytes that lie in
the output at the end; *read_over_source* is bytes asked for (without those of the
verification) over bytes of the source files.
""",
    "readers": """
Readers of the same windows of the same files, without any network.
""",
    "scaling": """
Real worker processes of one thread each, and simulated workers with a model that only
sleeps, to find where driver and scheduler saturate.
""",
    "curve": """
One job per size, each in a process of its own, the scene written for it (mirrored
imagery, three bands) and deleted after. The network is one 1 x 1 convolution, so that
seconds and memory are geoscale's. Seconds should lie on a straight line; peak memory
should not grow once there are more blocks than are worked on at a time.
""",
    "gpu": """
One CUDA device and one process. *Job*: COGs in, verified Zarr with overviews out.
*Network from host*: the same patches, cut before, from pinned memory through the
network; *on device*: they lie on the device already. Useful pixels, medians of runs in
turn after a warm-up. The *1 x 1 convolution* (`tiny`) costs nothing, so that its job
shows what the host can feed. MONAI has the whole image and its sums on the device.
""",
    "strides": """
The cloud network on its own scene and label, at several strides of its patches of
256 px, each over several cuts of the scene, so that patches fall elsewhere. Kappa is
against the label; a seam is as among the peers. The default stride of blended patches
rests on this table.
""",
    "heap": """
A torch network on batches of random pixels, on all cores, in a process of its own: once
with freed memory kept for the next layer (the default of geoscale on a CPU), once as
the C library does it (`GEOSCALE_MALLOC=system`, and as every peer runs).
""",
    "shards": """
One block of a layer to the bytes of one shard, by geoscale's encoder on all cores and
through a zarr array in memory; both are read by zarr.
""",
    "profile": """
py-spy samples an end-to-end run whose network is loaded before. Samples count for the
innermost function of geoscale on the stack; waiting threads do not count.
""",
}


def table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A table of Markdown."""
    if not rows:
        return ["(no rows)"]
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell(c) for c in line) + " |" for line in lines]


def cell(value: Any) -> str:
    """One value; long numbers get separators, and nothing breaks the table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.5g}"
    return str(value).replace("|", "/").replace("\n", " ")


def generic_tables(result: dict[str, Any]) -> list[str]:
    """Every list of rows in a result as a table, every other figure as a line."""
    lines: list[str] = []
    hidden = {"name", "quick", "context", "took_s", "load_after", "verdicts"}
    plain = {k: v for k, v in result.items() if k not in hidden and is_plain(v)}
    lines += [f"- {k}: {cell(v)}" for k, v in plain.items()]
    for title, rows in find_tables(
        {k: v for k, v in result.items() if k not in hidden}
    ):
        keys = list(dict.fromkeys(k for r in rows for k in r))
        keys = [k for k in keys if any(is_plain(r.get(k)) for r in rows)][:MAX_COLUMNS]
        body = [[r.get(k) if is_plain(r.get(k)) else None for k in keys] for r in rows]
        lines += ["", f"**{title}**", ""]
        if len(body) == 1 and any(len(str(c)) > LONG for c in body[0]):
            told = zip(keys, body[0], strict=True)
            lines += [f"- *{k}*: {cell(v)}" for k, v in told]
        else:
            lines += table(keys, body)
    return lines


def find_tables(
    value: Any, title: str = ""
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Lists of mappings, and mappings of scalars, wherever they lie."""
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        yield title or "rows", value
    elif isinstance(value, dict):
        plain = {k: v for k, v in value.items() if is_plain(v)}
        if title and plain:
            yield title, [plain]
        for key, inner in value.items():
            if isinstance(inner, list | dict):
                yield from find_tables(inner, f"{title}, {key}" if title else key)


def is_plain(value: Any) -> bool:
    return value is not None and isinstance(value, str | int | float | bool)
