"""Pages of detectors' outputs: objects over imagery, counts of classes, scores."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import geoscale as gs
from geoscale.cli import main
from geoscale.report import boxes, objects
from geoscale.report.facts import gather_run
from geoscale.report.objects import Tally, count, draw_scores
from tests.support.detectors import bright_squares, write_squares_job

pytest.importorskip("torch")

SHAPE = (760, 1010)
PLACES = [(20 + 40 * i, 40 + 31 * i) for i in range(6)] + [
    (y, x) for y in range(460, 740, 25) for x in range(700, 1000, 25)
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("page")
    job = write_squares_job(folder, bright_squares(SHAPE, PLACES))
    assert main(["run", str(job), "--trust-code"]) == 0
    return folder / "out"


def pictures(page: str) -> list[np.ndarray]:
    from PIL import Image

    found = re.findall(r'src="data:image/\w+;base64,([^"]+)"', page)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(f)))) for f in found]


def test_the_page_counts_and_shows_every_object(made: Path, capsys: Any) -> None:
    assert main(["view", str(made)]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text()
    total = len(PLACES)
    assert f"<dt>objects</dt><dd>{total}</dd>" in page
    row = re.search(r"</span>square</td>\s*<td class=\"num\">(\d+)</td>", page)
    assert row is not None
    assert int(row[1]) == total
    assert "complete and verified" in page
    assert f"{total} objects: score 0.99 to 1.00" in page
    assert "480 x 480 px where most objects are" in page
    assert not re.search(r'(src|href)="http', page)
    whole, detail = pictures(page)
    assert whole.shape[:2] == SHAPE
    assert detail.shape[:2] == (960, 960)
    # the colour of the class around each object; the imagery is grey
    orange = (detail[..., 0].astype(int) - detail[..., 2]) > 80
    assert orange.sum() > 144 * 4 * 2 * 9


def test_the_closer_look_is_where_most_objects_are(made: Path) -> None:
    _, run = gather_run(str(made))

    def read() -> Any:
        rows = objects.iter_rows(str(made), run.plan, ("bbox",))
        return (one["bbox"] for one in rows)

    window = boxes.find_crowd(run.plan, read)
    assert window is not None
    assert window.shape == (480, 480)
    inside = [window.y0 <= y < window.y1 and window.x0 <= x < window.x1
              for y, x in PLACES]  # fmt: skip
    assert sum(inside) >= 130
    assert boxes.find_crowd(run.plan, list) is None  # no object


def test_too_many_objects_are_points(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "MOST_BOXES", 0)
    page = gs.report.write_report(made, made.parent / "p.html").read_text()
    whole = pictures(page)[0].astype(int)
    orange = whole[..., 0] - whole[..., 2] > 60
    assert 30 < orange.sum() < 12 * len(PLACES)


def test_scores_are_counted_in_even_steps(made: Path) -> None:
    _, run = gather_run(str(made))
    tally = count(str(made), run.plan, 0.75)
    assert (tally.total, tally.counts) == (len(PLACES), {7: len(PLACES)})
    assert tally.bins.sum() == len(PLACES)
    tally.bins[:] = 0
    tally.bins[[0, 10]] = 4, 1
    one, two = draw_scores(tally, 0.5)
    assert (one.title, two.title) == (
        "4 objects: score 0.50 to 0.52",
        "1 object: score 0.70 to 0.72",
    )
    assert (one.height, two.height) == (150, 37.5)
    assert draw_scores(Tally(), 0.5) == []


def test_pages_of_nothing_and_of_unfinished_work_say_so(tmp_path: Path) -> None:
    job = write_squares_job(tmp_path, bright_squares((120, 130), []), block=64)
    plan = gs.plan_job(job)
    gs.run(plan, tmp_path / "out", shard=(0, 2), trust_code=True)
    page = gs.report.write_report(tmp_path / "out").read_text()
    assert "not complete: 3 of 6 blocks" in page
    assert "Objects are brought together when every block is there" in page
    gs.run(plan, tmp_path / "out", trust_code=True)
    page = gs.report.write_report(tmp_path / "out").read_text()
    assert "No object reached a score of 0.75" in page
    assert "How sure" not in page
    # small pictures are enlarged, so that lines show
    assert pictures(page)[0].shape[:2] == (120 * 7, 130 * 7)
    (tmp_path / "scene.tif").unlink()
    page = gs.report.write_report(tmp_path / "out").read_text()
    assert "The imagery is not shown, since it could not be read now" in page
    assert len(pictures(page)) == 1
