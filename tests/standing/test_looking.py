"""Standing jobs over nights: what is new is taken once, by one Airflow, and what failed is not lost."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo.object_store import ObjectStoreServer
from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError, StorageUnavailableError
from inpaint_ops.locations import Location
from inpaint_ops.planning import job_options
from inpaint_ops.runs import ShardQueue, Workspace, finish, prepare
from inpaint_ops.standing import Look, Start, look, note_triggered
from inpaint_ops.standing.taking import read_taken
from inpaint_ops.storage.s3_client import make_s3_client
from tests.support.bench import SCRIPT
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_gallery")

YAML = "{schedule: '0 22 * * *', images: %s, options: {prompt: ok, model: scripted, quality: good}}"
MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
"""Of tomorrow: a test may begin a day later than this file was read."""


class Nights:
    """A store with one standing job over a prefix of photos, and an Airflow that looks at it."""

    def __init__(self, workspace: Workspace, photos: Location) -> None:
        self.workspace, self.photos = workspace, photos
        self.active: set[str] = set()
        self.write("nightly", YAML % photos.uri)

    def write(self, name: str, text: str) -> None:
        self.workspace.storage.put(self.workspace.places.jobs.join(f"{name}.yaml"), text.encode())

    def put(self, *names: str, body: str = "pixels") -> None:
        for name in names:
            for file in (f"{name}.png", f"{name}_mask.png"):
                self.workspace.storage.put(self.photos.join(file), f"{file} {body}".encode())

    def look(self, night: int = 1, claimant: str = "ours", hour: int = 23, **options: Any) -> Look:
        now = MIDNIGHT + timedelta(days=night, hours=hour)
        return look(self.workspace, claimant, now, self.active.__contains__, **options)

    def plan(self, start: Start) -> list[str]:
        chosen = {name: value for name, value in start.conf.items() if name not in ("manifest", "run")}
        job = job_options(self.workspace.settings, **chosen)
        plan = prepare(self.workspace, start.conf["manifest"], start.run, job)
        note_triggered(self.workspace, start.mark)
        return [shard.name for shard in plan.shards]

    def paint(self, start: Start) -> str:
        """The run of a start to its end; its verdict."""
        shards = self.plan(start)
        ShardQueue(self.workspace, start.run, shards, worker_command=[sys.executable, str(SCRIPT)]).paint()
        return finish(self.workspace, start.run).verdict

    def rows(self, start: Start) -> list[str]:
        lines = self.workspace.storage.get(start.conf["manifest"]).decode().splitlines()
        return [Path(json.loads(line)["image"]).stem for line in lines]


@pytest.fixture(params=["folder", "s3"])
def nights(request: pytest.FixtureRequest, tmp_path: Path) -> Nights:
    settings = Settings(scratch=tmp_path / "scratch", patience=0)
    if request.param == "folder":
        (tmp_path / "store").mkdir()
        return Nights(
            Workspace.open(settings, store=str(tmp_path / "store")), Location(None, str(tmp_path / "store/p/"))
        )
    server: ObjectStoreServer = request.getfixturevalue("object_store")
    prefix: Location = request.getfixturevalue("s3_prefix")
    workspace = Workspace.open(
        settings, store=prefix.uri, s3_client=lambda: make_s3_client(server.session(), endpoint_url=server.endpoint)
    )
    return Nights(workspace, prefix.join("p/").as_prefix())


def test_each_night_takes_what_is_new_or_changed_and_nothing_else(nights: Nights) -> None:
    nights.put("a", "b")
    (first,) = nights.look(1).starts
    assert first.run.startswith("nightly-") and first.conf["quality"] == "good"
    assert nights.rows(first) == ["a", "b"] and nights.paint(first) == "VALID"

    quiet = nights.look(2)
    assert not quiet.starts and quiet.lines == ["nightly: nothing is new: 2 rows were taken before"]

    nights.put("c")
    nights.put("a", body="another")
    (third,) = nights.look(3).starts
    assert nights.rows(third) == ["a", "c"] and nights.paint(third) == "VALID"
    assert not nights.look(4).starts


def test_one_time_is_started_once_however_often_it_is_looked(nights: Nights) -> None:
    nights.put("a")
    (start,) = nights.look(1).starts
    nights.active.add(start.run)
    nights.plan(start)
    assert not nights.look(1).starts and not nights.look(1, hour=23).lines
    assert not nights.look(1, claimant="another Airflow").starts


def test_a_start_that_was_not_triggered_is_found_again(nights: Nights) -> None:
    nights.put("a")
    (lost,) = nights.look(1).starts
    nights.put("b")
    (again,) = nights.look(1).starts
    assert (again.run, nights.rows(again)) == (lost.run, ["a", "b"])
    assert not nights.look(1, claimant="another Airflow").starts, "it is claimed"
    nights.active.add(again.run)  # it was triggered, and the note of that was lost
    assert not nights.look(1).starts
    nights.active.clear()
    assert nights.paint(again) == "VALID" and not nights.look(2).starts


def test_while_a_run_goes_on_none_is_started_beside_it(nights: Nights) -> None:
    nights.put("a")
    (start,) = nights.look(1).starts
    shards = nights.plan(start)
    nights.active.add(start.run)
    nights.put("b")
    waits = nights.look(2)
    assert not waits.starts and waits.lines == [
        f"nightly: run {start.run} has not ended: no other is started beside it"
    ]
    nights.active.clear()
    ShardQueue(nights.workspace, start.run, shards, worker_command=[sys.executable, str(SCRIPT)]).paint()
    finish(nights.workspace, start.run)
    (late,) = nights.look(2).starts
    assert nights.rows(late) == ["b"], "the time that was missed is made up for"


def test_nights_that_were_missed_make_one_run(nights: Nights) -> None:
    nights.put("a")
    (start,) = nights.look(9).starts
    assert nights.paint(start) == "VALID" and not nights.look(9).starts


def test_a_run_that_was_refused_or_lost_took_nothing(nights: Nights) -> None:
    nights.put("a")
    (refused,) = nights.look(1).starts
    note_triggered(nights.workspace, refused.mark)
    (again,) = nights.look(2).starts
    assert nights.rows(again) == ["a"]


def test_of_a_run_that_was_not_good_the_rows_that_are_done_are_taken(nights: Nights) -> None:
    prompts = nights.photos.join("prompts.csv")
    nights.workspace.storage.put(prompts, b"image,prompt\na,ok\nb,fail\nc,ok\n", content_type="text/csv")
    nights.write("nightly", YAML.replace("prompt: ok, ", "") % f"{nights.photos.uri}, prompts: {prompts.uri}")
    nights.put("a", "b", "c")
    (start,) = nights.look(1).starts
    assert nights.paint(start) == "INVALID"
    (again,) = nights.look(2).starts
    assert nights.rows(again) == ["b"]
    nights.workspace.storage.put(prompts, b"image,prompt\na,other\nb,ok\nc,ok\n")
    note_triggered(nights.workspace, again.mark)
    (third,) = nights.look(3).starts
    assert nights.rows(third) == ["a", "b"], "a prompt that was edited makes its row another one"


def test_a_manifest_is_read_anew_and_its_files_count(nights: Nights) -> None:
    place = nights.photos.join("all.jsonl")
    nights.put("a", "b")
    lines = [{"image": f"{name}.png", "mask": f"{name}_mask.png", "prompt": "ok", "id": name} for name in "ab"]
    nights.workspace.storage.put(
        place, "".join(json.dumps(line) + "\n" for line in [*lines, {"image": "c.png"}]).encode()
    )
    nights.write("nightly", f"{{schedule: '@daily', manifest: {place.uri}, options: {{model: scripted}}}}")
    (start,) = nights.look(1).starts
    shards = nights.plan(start)
    plan = nights.workspace.plan(start.run)
    assert plan is not None and (plan.rows, plan.rejected) == (3, 1), "the rejected row is explained by the run"
    ShardQueue(nights.workspace, start.run, shards, worker_command=[sys.executable, str(SCRIPT)]).paint()
    finish(nights.workspace, start.run)
    nights.put("b", body="redrawn")
    (again,) = nights.look(3).starts
    assert "b" in nights.rows(again) and "a" not in nights.rows(again)


def test_by_hand_a_job_starts_now_and_takes_everything_if_asked(nights: Nights) -> None:
    nights.put("a")
    nights.write("nightly", YAML.replace("schedule: '0 22 * * *'", "enabled: false") % nights.photos.uri)
    assert not nights.look(1).starts
    (start,) = nights.look(1, only="nightly").starts
    assert nights.paint(start) == "VALID"
    assert not nights.look(2, only="nightly").starts
    (again,) = nights.look(3, only="nightly", everything=True).starts
    assert nights.rows(again) == ["a"]
    with pytest.raises(ConfigError, match="there is no standing job 'other'"):
        nights.look(1, only="other")


def test_a_start_of_everything_that_was_not_triggered_is_found_again_with_everything(nights: Nights) -> None:
    nights.put("a")
    (start,) = nights.look(1).starts
    assert nights.paint(start) == "VALID"
    nights.put("b")
    (lost,) = nights.look(2, only="nightly", everything=True).starts
    assert nights.rows(lost) == ["a", "b"]
    (again,) = nights.look(3).starts
    assert (again.run, nights.rows(again)) == (lost.run, ["a", "b"])


def test_an_entry_that_cannot_be_used_stops_no_other(nights: Nights) -> None:
    nights.put("a")
    nights.write("a-wrong-one", "manifest: [")
    nights.write("b-elsewhere", "{schedule: '0 22 * * *', images: s3://not-allowed/p/, options: {prompt: x}}")
    nights.write("c-nothing", YAML % nights.photos.join("empty/").uri)
    found = nights.look(1)
    assert [start.run.split("-")[0] for start in found.starts] == ["nightly"]
    assert len(found.problems) == 3 and "a-wrong-one" in found.problems[0] and "no YAML" in found.problems[0]
    assert "not-allowed" in found.problems[1] and "nothing" in found.problems[2]
    nights.put("empty/x")
    assert [start.run.split("-20")[0] for start in nights.look(1).starts] == ["c-nothing", "nightly"]


def test_files_without_a_partner_are_named(nights: Nights) -> None:
    nights.put("a")
    nights.workspace.storage.put(nights.photos.join("lone.png"), b"x")
    lines = nights.look(1).lines
    assert any("image without a mask" in line and "lone.png" in line for line in lines)


def test_what_a_run_took_is_known_though_housekeeping_has_removed_the_run(nights: Nights) -> None:
    nights.put("a")
    (start,) = nights.look(1).starts
    nights.paint(start)
    nights.write("nightly", YAML.replace("schedule: '0 22 * * *'", "enabled: false") % nights.photos.uri)
    assert not nights.look(1).starts, "it looks at what has ended, though nothing is due"
    for info in list(nights.workspace.storage.list(nights.workspace.layout(start.run).root)):
        nights.workspace.storage.delete(info.location)
    assert nights.look(100, only="nightly").lines == ["nightly: nothing is new: 1 row was taken before"]


def test_what_is_gone_is_forgotten(nights: Nights) -> None:
    nights.put("a", "b")
    (start,) = nights.look(1).starts
    nights.paint(start)
    nights.look(2)
    assert len(read_taken(nights.workspace, "nightly").digests) == 2
    for file in ("b.png", "b_mask.png"):
        nights.workspace.storage.delete(nights.photos.join(file))
    nights.look(3)
    assert len(read_taken(nights.workspace, "nightly").digests) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda storage, folder: storage.put(folder.join("taken.txt.gz"), b"no gzip"),
        lambda storage, folder: storage.put(folder.join("taken.txt.gz"), b""),
        lambda storage, folder: storage.put(folder.join("yesterday/claim.json"), b"{}"),
        lambda storage, folder: storage.put(folder.join("99999999T999999Z/claim.json"), b"{}"),
        lambda storage, folder: storage.put(folder.join("20200101T000000Z/claim.json"), b"[" * 1000),
        lambda storage, folder: storage.put(folder.join("20200101T000000Z/triggered"), b""),
    ],
)
def test_what_others_write_there_costs_no_night(nights: Nights, spoil: Callable[[Any, Location], Any]) -> None:
    nights.put("a")
    (start,) = nights.look(1).starts
    nights.paint(start)
    spoil(nights.workspace.storage, nights.workspace.places.standing("nightly"))
    nights.put("b")
    (again,) = nights.look(2).starts
    assert "b" in nights.rows(again)


def test_a_store_that_does_not_answer_is_tried_again_by_the_task(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.put("a")

    def silent(*_: Any, **__: Any) -> Any:
        raise StorageUnavailableError("the store does not answer")

    monkeypatch.setattr(type(nights.workspace.storage), "folders", silent)
    with pytest.raises(StorageUnavailableError):
        nights.look(1)


def let_a_second_pass() -> None:
    """Stamps are of seconds, and the clock of a file system may be some milliseconds behind."""
    started = datetime.now(UTC).replace(microsecond=0)
    wait_until(lambda: datetime.now(UTC) >= started + timedelta(seconds=1, milliseconds=100))


def test_what_comes_starts_a_job_of_on_arrival_and_waits_for_the_end_of_its_last_run(nights: Nights) -> None:
    nights.write("nightly", YAML.replace("schedule: '0 22 * * *'", "on_arrival: true") % nights.photos.uri)
    nights.put("first")

    def now(*, has_come: bool) -> Look:
        return look(nights.workspace, "ours", datetime.now(UTC), nights.active.__contains__, has_come=has_come)

    assert now(has_come=False).starts == []
    (start,) = now(has_come=True).starts
    nights.plan(start)
    nights.active.add(start.run)
    let_a_second_pass()
    nights.put("second")
    assert now(has_come=True).starts == [], "its last run goes on"
    nights.active.clear()
    nights.paint(start)
    (later,) = now(has_come=False).starts
    assert nights.rows(later) == ["second"], "what had come meanwhile is taken at the first look after that run's end"
    nights.paint(later)
    assert now(has_come=False).starts == [], "and once"
    let_a_second_pass()
    assert now(has_come=True).lines == ["nightly: nothing is new: 2 rows were taken before"]


def test_an_arrival_starts_no_job_that_has_only_a_schedule(nights: Nights) -> None:
    nights.put("first")
    assert nights.look(night=-1, hour=1, has_come=True).starts == []
