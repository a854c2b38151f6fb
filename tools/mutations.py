"""Take the safeguards out, one at a time, and see the tests turn red.

``python tools/mutations.py [NAME ...]`` works on copies of the tree and prints a table;
it fails if any safeguard can be taken out unseen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONGEST_S = 240


@dataclass(frozen=True)
class Mutation:
    """One safeguard, how it is taken out, and who must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = (
    Mutation(
        "digests are compared",
        "geoscale/engine/verify.py",
        "    if now in digests:\n        return None\n",
        "    if now in digests or now:\n        return None\n",
        "tests/test_run.py -k one_bit",
    ),
    Mutation(
        "only a sound output is final",
        "geoscale/engine/drive.py",
        "    if found.is_sound:\n",
        "    if True:\n",
        "tests/test_run.py -k quarantined",
    ),
    Mutation(
        "a block is done by its record alone",
        "geoscale/engine/journal.py",
        '        elif "d" in record:\n            if number in self.done:',
        '        else:\n            record.setdefault("s", {})\n'
        "            if number in self.done:",
        "tests/test_journal.py tests/test_run.py -k 'digest or quarantined'",
    ),
    Mutation(
        "an output belongs to one plan",
        "geoscale/engine/journal.py",
        "stored.hash != plan.hash",
        "False",
        "tests/test_run.py -k another_plan",
    ),
    Mutation(
        "objects appear whole",
        "geoscale/storage.py",
        "        with part.open(",
        "        part = target\n        with part.open(",
        "tests/test_storage.py",
    ),
    Mutation(
        "the second attempt believes no cache",
        "geoscale/sources/gdal.py",
        "    if attempt > 1 and is_remote:\n",
        "    if False and is_remote:\n",
        "tests/sources/test_gdal.py -k transient_failures",
    ),
    Mutation(
        "one thread a read",
        "geoscale/sources/gdal.py",
        '"GDAL_NUM_THREADS": "1"',
        '"GDAL_NUM_THREADS": "ALL_CPUS"',
        "tests/sources/test_gdal.py -k settings",
    ),
    Mutation(
        "zeros from afar are asked for twice",
        "geoscale/sources/reading.py",
        'if valid is not None and "://" in href and _is_suspicious(into, valid):',
        "if False:",
        "tests/sources/test_gdal.py -k zeros",
    ),
    Mutation(
        "drivers are pinned",
        "geoscale/sources/gdal.py",
        "rasterio.open(path, driver=_driver(path), sharing=False, **how)",
        "rasterio.open(path, sharing=False, **how)",
        "tests/sources/test_gdal.py -k vrt",
    ),
    Mutation(
        "private networks are refused",
        "geoscale/sources/hrefs.py",
        "        if not address.is_global:\n",
        "        if False:\n",
        "tests/sources/test_hrefs.py",
    ),
    Mutation(
        "invalid pixels are masked again",
        "geoscale/engine/block.py",
        "    keep = usable\n",
        "    keep = usable | True\n",
        "tests/test_invariance.py -k invalid_pixels",
    ),
    Mutation(
        "scores are finite",
        "geoscale/models/held.py",
        "        check_finite(scores, part, self._precision)\n",
        "",
        "tests/models/test_torch_predictor.py tests/models/test_onnx_predictor.py",
    ),
    Mutation(
        "weights are those of the card",
        "geoscale/models/weights.py",
        "    found = sha256_file(path)\n",
        "    found = card.weights.sha256 or expected_sha256 or sha256_file(path)\n",
        "tests/models/test_weights.py -k another_hash",
    ),
    Mutation(
        "every key is loaded",
        "geoscale/models/state.py",
        "    if missing or extra:\n",
        "    if False:\n",
        "tests/models/test_weights.py -k missing_and_extra",
    ),
    Mutation(
        "pickles run no code",
        "geoscale/models/state.py",
        "weights_only=True",
        "weights_only=False",
        "tests/models/test_weights.py -k pickle",
    ),
    Mutation(
        "chunks carry checksums",
        "geoscale/sinks/shards.py",
        "checksum=True",
        "checksum=False",
        "tests/sinks/test_shards.py",
    ),
    Mutation(
        "one driver an output",
        "geoscale/engine/lease.py",
        "        if found is not None and not is_dead(found, self._me):\n",
        "        if False:\n",
        "tests/test_lease.py",
    ),
    Mutation(
        "a poison block is set aside",
        "geoscale/engine/drive.py",
        "        spent = self.attempts.get(number, 0) >= ATTEMPTS\n",
        "        spent = self.attempts.get(number, 0) >= 10 * ATTEMPTS\n",
        "tests/test_run.py tests/sources/test_missing.py -k quarantined",
    ),
    Mutation(
        "a full disk stops the run",
        "geoscale/engine/failures.py",
        "    ((StoppedError, PlanError,",
        "    ((PlanError,",
        "tests/test_run.py tests/test_hostile.py -k 'room or fills'",
    ),
    Mutation(
        "holes are listed",
        "geoscale/engine/block.py",
        "    if pixels.missing:\n",
        "    if False:\n",
        "tests/sources/test_missing.py",
    ),
    Mutation(
        "what hangs is seen",
        "geoscale/engine/loop.py",
        "            if now - began > patience:\n",
        "            if now - began > 100 * patience:\n",
        "tests/test_stopping.py -k hangs",
    ),
    Mutation(
        "what may pass is asked for again",
        "geoscale/patience.py",
        "TRIES = 5\n",
        "TRIES = 1\n",
        "tests/test_faulty_store.py -k pass",
    ),
    Mutation(
        "what every put would meet stops the run",
        "geoscale/patience.py",
        "    if code in _NO_RIGHT or isinstance(err, PermissionError):\n",
        "    if code in _NO_RIGHT:\n",
        "tests/test_storage.py tests/test_faulty_store.py -k 'stop'",
    ),
    Mutation(
        "a bucket that is not there is named",
        "geoscale/patience.py",
        "    if any(_store_code(e) in _NO_BUCKET for e in _chain(err)):\n",
        "    if False:\n",
        "tests/test_storage.py -k say_what_to_do",
    ),
    Mutation(
        "a lost answer is no other driver",
        "geoscale/storage.py",
        "            return self.get(name) == data\n",
        "            return False\n",
        "tests/test_lease.py -k without_being_told",
    ),
    Mutation(
        "stores without conditions are seen through",
        "geoscale/storage.py",
        "        return None if self._ask(",
        "        return True if self._ask(",
        "tests/test_lease.py -k seen_through",
    ),
    Mutation(
        "names without a host lose their secrets",
        "geoscale/redaction.py",
        '    text = _QUERY.sub("?…", text)\n',
        "",
        "geoscale/redaction.py",
    ),
    Mutation(
        "a refused read is signed anew",
        "geoscale/sources/gdal.py",
        "        return refusals <= 1",
        "        return refusals <= 0",
        "tests/test_signing.py -k anew",
    ),
    Mutation(
        "signers forget what is refused",
        "geoscale/sources/gdal.py",
        "                renew(access.signer)\n",
        "",
        "tests/test_signing.py -k given_out",
    ),
    Mutation(
        "blocks are recorded once they are committed",
        "geoscale/engine/epochs.py",
        "        if self._changes:\n            point(",
        "        super().flush()\n        if self._changes:\n            point(",
        "tests/test_icechunk.py -k dies",
    ),
    Mutation(
        "a commit in between is not overwritten",
        "geoscale/sinks/icechunk.py",
        "                continue  # a lost",
        "                return  # a lost",
        "tests/test_icechunk.py -k committer",
    ),
    Mutation(
        "a password in a URL is refused",
        "geoscale/storage.py",
        '        if ":" in urlsplit(self.url).netloc.rpartition("@")[0]:\n',
        "        if False:\n",
        "tests/test_storage.py -k password",
    ),
    Mutation(
        "aliases are counted before they are walked",
        "geoscale/plain.py",
        "        _measure(node, {}, 0)\n",
        "",
        "tests/test_fuzz.py -k 'hostile and (bomb or itself)'",
    ),
    Mutation(
        "fields of items are of their kind",
        "geoscale/sources/items.py",
        "    check_item(raw, where)\n",
        "",
        "tests/sources/test_items.py -k wrong_items",
    ),
    Mutation(
        "fields of assets are of their kind",
        "geoscale/sources/items.py",
        "    check_asset(asset, where)\n",
        "",
        "tests/sources/test_items.py -k wrong_items",
    ),
    Mutation(
        "a grid without end is refused",
        "geoscale/chunks.py",
        "        if height * width * self.times > MOST_BLOCKS",
        "        if False and height * width * self.times > MOST_BLOCKS",
        "tests/test_scale.py -k too_many",
    ),
    Mutation(
        "a plan that cannot be read is named",
        "geoscale/engine/journal.py",
        "        except Exception as err:  # changed or",
        "        except ZeroDivisionError as err:  # changed or",
        "tests/test_journal.py -k cannot_be_read",
    ),
    Mutation(
        "nothing that is said moves the cursor",
        "geoscale/cli/say.py",
        'found[1] or "\\ufffd"',
        "found[0]",
        "tests/cli/test_commands.py -k cursor",
    ),
    Mutation(
        "who was taken over takes nothing back",
        "geoscale/engine/lease.py",
        "        if self._beats and not self._is_mine(self._load()):\n",
        "        if False:\n",
        "tests/test_lease.py",
    ),
    Mutation(
        "a number alone is no process",
        "geoscale/engine/lease.py",
        '!= holder.get("started")',
        '== ""',
        "tests/test_lease.py -k another_process_got",
    ),
    Mutation(
        "records are stored whatever ends a run",
        "geoscale/engine/drive.py",
        "    finally:\n        journal.flush()\n",
        "    finally:\n        pass\n",
        "tests/test_stopping.py -k asked_to_stop",
    ),
    Mutation(
        "refused credentials stop a run",
        "geoscale/engine/drive.py",
        "    if tally.refused >= REFUSED:\n",
        "    if False:\n",
        "tests/test_signing.py",
    ),
    Mutation(
        "a file that contradicts its item is refused",
        "geoscale/sources/reading.py",
        "    if request.trust_file:\n        return\n",
        "    return\n",
        "tests/sources/test_raster.py -k contradicts",
    ),
    Mutation(
        "columns of the table of items are summed up",
        "geoscale/sources/listing.py",
        '        if meta.get("columns") != sum_columns(table.values()):\n',
        "        if False:\n",
        "tests/sources/test_listing.py -k column",
    ),
    Mutation(
        "items of the table are summed up",
        "geoscale/sources/listing.py",
        "        if zlib.crc32(str(text).encode()) != self._sums[row]:\n",
        "        if False:\n",
        "tests/sources/test_listing.py -k noticed_when",
    ),
    Mutation(
        "URLs lose their secrets",
        "geoscale/redaction.py",
        '    return bare + ("?…" if parts.query else "")',
        "    return url",
        "tests/cli/test_secrets.py tests/sources/test_gdal.py -k 'keeps or hides'",
    ),
    Mutation(
        "labels that the map does not know are refused",
        "geoscale/evaluation/legend.py",
        "    if unknown:\n",
        "    if False:\n",
        "tests/evaluation/test_references.py -k unknown_labels",
    ),
    Mutation(
        "labels of shapes do not depend on the cut",
        "geoscale/sources/shapes.py",
        "tile = Window(y, x, y + TILE_PX, x + TILE_PX).clip(self._shape)",
        "tile = window",
        "tests/evaluation/test_references.py -k centres_do_not",
    ),
    Mutation(
        "where labels of shapes differ there is none",
        "geoscale/sources/shapes.py",
        "np.where(first == last, first, np.int32(CONFLICT))",
        "first",
        "tests/evaluation/test_references.py -k centre_they_hold",
    ),
    Mutation(
        "a part of a map is no random sample",
        "geoscale/evaluation/conclude.py",
        '"sample" if asked.sample else "unknown"',
        '"sample"',
        "tests/evaluation/test_evaluate.py -k no_sample_unless",
    ),
    Mutation(
        "ties of scores count half",
        "geoscale/evaluation/statistics.py",
        "(hits[k] + hits[k - 1])",
        "(2 * hits[k])",
        "tests/evaluation/test_statistics.py -k under_the_curve",
    ),
    Mutation(
        "secrets of the environment are known",
        "geoscale/redaction.py",
        "    for value in _list_values(os.environ):\n",
        "    for value in ():\n",
        "tests/cli/test_secrets.py -k texts",
    ),
    Mutation(
        "log records are cleaned",
        "geoscale/redaction.py",
        '        if record.name.partition(".")[0] in LIBRARIES:\n',
        "        if False:\n",
        "tests/cli/test_secrets.py -k records",
    ),
    Mutation(
        "no password is planned",
        "geoscale/sources/hrefs.py",
        '    if "@" in href.partition("://")[2].partition("/")[0]:\n',
        "    if False:\n",
        "tests/cli/test_secrets.py -k password_is_refused",
    ),
    Mutation(
        "who cannot load the model is set aside",
        "geoscale/engine/distributed.py",
        "        if reply.unfit:\n",
        "        if False:\n",
        "tests/test_workers.py -k cannot_load",
    ),
    Mutation(
        "a refusal is remembered for the run",
        "geoscale/engine/remote.py",
        "        if (run, worker) in _refused:\n",
        "        if False:\n",
        "tests/test_workers.py -k cannot_be_made",
    ),
    Mutation(
        "a host that only loses tasks is left out",
        "geoscale/engine/roster.py",
        "                self._crashing.add(host)\n",
        "",
        "tests/test_workers.py -k only_die",
    ),
    Mutation(
        "what hangs is made elsewhere",
        "geoscale/engine/stragglers.py",
        "        if limit is None:\n",
        "        if True:\n",
        "tests/test_workers.py -k three_times",
    ),
    Mutation(
        "a late end is not counted",
        "geoscale/engine/drive.py",
        "            if outcome.late:\n",
        "            if False:\n",
        "tests/test_workers.py -k ends_late",
    ),
    Mutation(
        "workers have the driver's versions",
        "geoscale/assemble.py",
        "    found = [] if theirs is None else find_differences(handshake(), theirs)\n",
        "    found = find_differences({}, {})\n",
        "tests/test_workers.py -k versions_differ",
    ),
    Mutation(
        "beyond this machine there is TLS",
        "geoscale/clusters/profiles.py",
        "        return not (is_here(self.host) or self.insecure)\n",
        "        return False\n",
        "tests/cli/test_clusters.py -k 'tls_only or tls_folder'",
    ),
    Mutation(
        "keys are readable by their owner alone",
        "geoscale/clusters/tls.py",
        "0o600",
        "0o644",
        "tests/cli/test_clusters.py -k tls_only",
    ),
    Mutation(
        "our clusters listen here only",
        "geoscale/clusters/local.py",
        'worker_dashboard_address=f"{HERE}:0"',
        'worker_dashboard_address=":0"',
        "tests/cli/test_clusters.py -k here_only",
    ),
    Mutation(
        "the doctor compares what comes back",
        "geoscale/doctor/store.py",
        "        if folder.digest(name) != digest_bytes(data):\n",
        "        if False:\n",
        "tests/cli/test_doctor.py -k promise",
    ),
    Mutation(
        "a pixel belongs to one UTM zone",
        "geoscale/sources/aoi.py",
        "            inside &= self.zone.mask(self._geobox, window)\n",
        "            inside &= True\n",
        "tests/sources/test_utm.py -k loses_none",
    ),
    Mutation(
        "zones reach over their strips to the pixel",
        "geoscale/sources/utm.py",
        "REACH_DEG = 1e-5\n",
        "REACH_DEG = 1e-12\n",
        "tests/sources/test_utm.py -k loses_none",
    ),
    Mutation(
        "zones have context across their borders",
        "geoscale/sources/zoning.py",
        "_grow(polygon.bounds, zone, part, margin_px * step)",
        "_grow(polygon.bounds, zone, part, 0.0)",
        "tests/test_zones.py -k halo",
    ),
    Mutation(
        "an output keeps its zones",
        "geoscale/zones.py",
        "    if there != here:\n",
        "    if False:\n",
        "tests/test_zones.py -k keeps",
    ),
    Mutation(
        "outlines that a CRS tears are seen",
        "geoscale/sources/footprints.py",
        "        torn = lengths.max(axis=1) > _TORN * lengths.mean(axis=1)\n",
        "        torn = np.zeros(len(lengths), bool)\n",
        "tests/sources/test_antimeridian.py -k whole_globe",
    ),
    Mutation(
        "190 degrees are found at -170",
        "geoscale/sources/footprints.py",
        "        torn |= _comes_round(",
        "        _comes_round(",
        "tests/sources/test_antimeridian.py -k every_pixel",
    ),
    Mutation(
        "a pole inside an outline is seen",
        "geoscale/sources/footprints.py",
        "        low[inside] = np.minimum(low[inside], pole - MARGIN_PX)\n",
        "",
        "tests/sources/test_antimeridian.py -k pole_inside",
    ),
    Mutation(
        "files are asked in their own degrees",
        "geoscale/sources/warping.py",
        "    if not counts_round(dataset, target):\n",
        "    if True:\n",
        "tests/sources/test_antimeridian.py -k every_pixel",
    ),
    Mutation(
        "plain windows miss nothing beyond 180",
        "geoscale/sources/reading.py",
        "    found = [k for k in (-1, 0, 1) if",
        "    found = [k for k in (0,) if",
        "tests/sources/test_antimeridian.py -k every_pixel",
    ),
    Mutation(
        "a pass across the antimeridian is one day",
        "geoscale/sources/steps.py",
        "    turn = 360.0 if is_far",
        "    turn = 0.0 if is_far",
        "tests/test_zones.py -k antimeridian",
    ),
)


def try_one(mutation: Mutation, folder: Path) -> str:
    """Take one safeguard out of a copy of the tree; say what the tests made of it."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    names = ("geoscale", "tests", "tools", "docs", "clusters", "benchmarks")
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name)
    for path in (*ROOT.glob("*.toml"), *ROOT.glob("*.md")):
        shutil.copy(path, tree)
    path = tree / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        return f"stale: {text.count(mutation.old)} places match in {mutation.file}"
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    command = f"{sys.executable} -m pytest -q -x -p no:cacheprovider {mutation.tests}"
    # a run that hangs without its safeguard has noticed too
    try:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "seen (no end)"
    if done.returncode == 1:
        return "seen"
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    return f"NOT SEEN: exit {done.returncode}, {last}"


def main() -> None:
    """Try those that are named, all by default."""
    wanted = sys.argv[1:]
    left = []
    with tempfile.TemporaryDirectory() as folder:
        for mutation in MUTATIONS:
            if wanted and mutation.name not in wanted:
                continue
            found = try_one(mutation, Path(folder))
            print(f"{mutation.name:<40} {found}", flush=True)
            if not found.startswith("seen"):
                left.append(mutation.name)
    if left:
        sys.exit(f"{len(left)} safeguards can be taken out unseen: {', '.join(left)}")


if __name__ == "__main__":
    main()
