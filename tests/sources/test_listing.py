"""Items in a table: met once, in an order that decides nothing, read when asked."""

from __future__ import annotations

import dataclasses
import io
import pickle
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from odc.geo.geobox import GeoBox

from geoscale.errors import SourceError
from geoscale.plans import ITEMS
from geoscale.sources.items import Asset, Item, sort_items
from geoscale.sources.listing import GROUP, Listing
from geoscale.sources.raster import RasterSource
from geoscale.sources.survey import Survey
from geoscale.sources.targets import Target
from geoscale.storage import Folder
from geoscale.windows import Window

SIDE = 100
GRID = GeoBox.from_bbox((0, 0, 60_000, 60_000), crs="EPSG:32636", resolution=10)


def make(number, **more):
    """One of a lattice of 60 x 60 scenes of 100 x 100 px; several days."""
    y, x = divmod(number % 3600, 60)
    place = (10.0, 0.0, x * 1000.0, 0.0, -10.0, 60_000 - y * 1000.0)
    assets = {
        band: Asset(
            href=f"/data/{number}/{band}.tif", crs="EPSG:32636", transform=place,
            shape=(SIDE, SIDE), dtype="uint16",
        )
        for band in ("red", "nir")
    }  # fmt: skip
    day = number // 3600 + 1
    given = {
        "id": f"s{number:06d}",
        "datetime": f"2024-05-{day:02d}T09:00:00+00:00",
        "assets": assets,
    }
    return Item(**(given | more))


def survey(items, bands=("red", "nir")):
    return Survey(items, bands).finish(Target.from_geobox(GRID), "solar_day")


def test_order_and_repetition_decide_nothing():
    items = [make(n) for n in range(0, 9000, 7)]
    mixed = [*items, *items[:50]]
    random.Random(0).shuffle(mixed)
    straight, other = survey(items), survey(iter(mixed))
    assert list(other) == sort_items(items)
    assert other.digest == straight.digest
    assert other.ids == [item.id for item in sort_items(items)]
    assert other.steps == straight.steps
    assert len(other.steps) == 3
    assert (other.boxes == straight.boxes).all()
    changed = [dataclasses.replace(items[0], baseline="05.10"), *items[1:]]
    assert survey(changed).digest != straight.digest


def test_two_items_of_one_id_that_differ_are_refused():
    with pytest.raises(SourceError, match="s000003 appears twice with different"):
        survey([make(3), make(3, baseline="04.00")])


def test_what_is_lacking_is_counted_over_all_items():
    poor = [make(n, assets={"red": make(n).assets["red"]}) for n in range(100, 141)]
    with pytest.raises(SourceError) as caught:
        survey([*(make(n) for n in range(100)), *poor])
    text = str(caught.value)
    assert "41 of 141 items lack `nir`: s000100, s000101, s000102, …" in text


def test_a_block_reads_the_groups_of_its_own_neighbourhood(tmp_path):
    count = 5 * 3600
    source = RasterSource((make(n) for n in range(count)), ["red", "nir"], GRID)
    Folder(str(tmp_path)).put(ITEMS, source.tables()[ITEMS])
    far = RasterSource.from_spec(source.spec(), Folder(str(tmp_path)))
    read = []
    real = far.items._read_group
    far.items._group = lambda number: read.append(number) or real(number)
    near = [int(i) for t in range(5) for i in far._touching(Window(0, 0, 400, 400), t)]
    assert len(near) == 5 * 25
    for i in near:
        assert far.items[i].id in {f"s{d * 3600 + y * 60 + x:06d}" for d in range(5)
                                   for y in range(5) for x in range(5)}  # fmt: skip
    assert len(read) <= len(near), "no item twice"
    assert len(set(read)) <= 6, f"{len(set(read))} of {count // GROUP} groups"


def test_it_travels_and_says_what_is_wrong_with_it(tmp_path):
    listing = survey([make(n) for n in range(600)])
    again = pickle.loads(pickle.dumps(listing))
    assert list(again) == list(listing)
    told = {"count": 600, "digest": listing.digest}
    folder = Folder(str(tmp_path))
    with pytest.raises(SourceError, match="list of 600 items is not beside its plan"):
        Listing.open(folder, told)
    data = listing.to_bytes()
    folder.put(ITEMS, data)
    assert list(Listing.open(folder, told)) == list(listing)
    with pytest.raises(SourceError, match="other items than the plan names"):
        Listing.open(folder, told | {"count": 599})
    folder.put(ITEMS, data[:-50])
    with pytest.raises(SourceError, match=r"items\.parquet cannot be read"):
        Listing.open(folder, told)


def everything(listing):
    boxes = listing.boxes.tolist()
    return list(listing), listing.ids, listing.steps, boxes, listing.kinds.tolist()


def test_no_changed_byte_of_it_is_believed():
    listing = survey([make(n) for n in range(600)])
    told = {"count": 600, "digest": listing.digest}
    data, expected = listing.to_bytes(), everything(listing)
    rng = np.random.default_rng(3)
    found = 0
    for place in rng.integers(4, len(data) - 8, 150):
        broken = bytearray(data)
        broken[place] ^= 1 << int(rng.integers(8))
        try:
            got = everything(Listing.open({ITEMS: bytes(broken)}, told))
        except SourceError:
            found += 1
        else:
            assert got == expected, f"byte {place} changed an item silently"
    assert found > 80


def test_a_coarser_source_finds_its_items_by_its_own_pixels():
    source = RasterSource((make(n) for n in range(3600)), ["red", "nir"], GRID)
    coarse = source.coarser(GRID.zoom_out(20))
    assert coarse.geobox.shape == (300, 300)
    inner = {source.items[int(i)].id for i in coarse._touching(Window(0, 0, 5, 5), 0)}
    assert "s000000" in inner
    assert len(inner) < 40


def rewrite(data, name, change):
    """Another column in the same table: what no checksum of a page would notice."""
    table = pq.read_table(io.BytesIO(data))
    column = pa.array(change(table[name].to_pylist()), table.schema.field(name).type)
    other = table.set_column(table.schema.get_field_index(name), name, column)
    buffer = io.BytesIO()
    pq.write_table(
        other.replace_schema_metadata(table.schema.metadata), buffer,
        row_group_size=GROUP,
    )  # fmt: skip
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["number", "step", "kind", "y0", "x1"])
def test_a_column_that_changed_is_noticed_at_once(name):
    listing = survey([make(n) for n in range(9)])
    bad = rewrite(listing.to_bytes(), name, lambda values: [*values[1:], values[0] + 1])
    with pytest.raises(SourceError, match="the list of items is damaged; restore it"):
        Listing(bad)


def test_an_item_that_changed_is_noticed_when_it_is_read():
    listing = survey([make(n) for n in range(9)])
    bad = Listing(rewrite(listing.to_bytes(), "item", lambda texts: texts[::-1]))
    with pytest.raises(SourceError, match=r"is damaged in row \d; restore it"):
        list(bad)
