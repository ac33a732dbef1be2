"""The trigger that waits for the store's notifications, with a real SQS server; in Airflow: test_cluster.py."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflow.triggers.base import TriggerEvent

from inpaint_ops_airflow.arrivals import ArrivalsTrigger, objects_of
from inpaint_ops_airflow.schedules import cron_and_arrivals
from tests.support.queues import KEYS, Queue, queue_server
from tests.support.waiting import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    with queue_server(tmp_path_factory.mktemp("queue") / "log") as queue:
        yield queue


@pytest.fixture
def queue(server: Queue, monkeypatch: pytest.MonkeyPatch) -> Queue:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9/the-stores-own")
    monkeypatch.delenv("INPAINT_S3_CONN_ID", raising=False)
    return server.another()


def trigger(queue: Queue, quiet: float = 0.2) -> ArrivalsTrigger:
    path, fields = ArrivalsTrigger(queue.url, quiet, "bucket/studio/", "bucket/studio/inbox/").serialize()
    assert path == f"{ArrivalsTrigger.__module__}.{ArrivalsTrigger.__qualname__}"
    return ArrivalsTrigger(**fields)


def first_event(waiting: ArrivalsTrigger) -> TriggerEvent:
    async def first() -> TriggerEvent:
        async for event in waiting.run():
            return event
        raise AssertionError("it ended by itself")

    return asyncio.run(asyncio.wait_for(first(), PATIENCE))


def test_a_burst_of_messages_is_one_event_and_leaves_the_queue_empty(queue: Queue) -> None:
    for number in range(23):
        queue.tell(f"photos/new/{number}.jpg")
    queue.tell("photos/new/x.jpg", "photos/new/x_mask.png")
    assert first_event(trigger(queue, quiet=1)).payload == {"objects": 25}
    assert queue.left() == 0


def test_what_this_program_writes_by_itself_is_no_arrival_but_in_the_inbox(queue: Queue) -> None:
    queue.tell("bucket/studio/runs/a/images/1.png", "bucket/studio/standing/a/arrival")
    queue.tell("photos/old.jpg", event="ObjectRemoved:Delete")
    queue.send(json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "photos"}))
    queue.tell("bucket/studio/inbox/night+shift.jsonl")
    assert first_event(trigger(queue)).payload == {"objects": 1}


def test_a_queue_that_does_not_answer_is_asked_again(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The DAGs' schedules go on beside it: the triggerer's log says what is wrong, and nothing ends."""
    monkeypatch.setattr("inpaint_ops_airflow.arrivals.RETRY", 0.01)
    waiting = trigger(queue)
    waiting._log = logging.getLogger("arrivals")  # Airflow's own does not pass through logging here
    waiting.queue = queue.url.replace("arrivals", "no-such-queue")

    async def twice() -> None:
        running = asyncio.ensure_future(anext(aiter(waiting.run())))
        while caplog.text.count("does not answer") < 2:
            assert not running.done()
            await asyncio.sleep(0.01)
        waiting.queue = queue.url
        queue.tell("photos/new.jpg")
        assert (await running).payload == {"objects": 1}

    asyncio.run(asyncio.wait_for(twice(), PATIENCE))


class FailsAfterTheFirst(ArrivalsTrigger):
    """Its queue is gone once it has received something."""

    def _receive(self, seconds: int) -> int:
        came = super()._receive(seconds)
        if came:
            self.queue += "-gone"
        return came


def test_what_came_before_the_queue_failed_is_an_event(queue: Queue) -> None:
    queue.tell("photos/new/1.jpg", "photos/new/1_mask.png")
    waiting = FailsAfterTheFirst(queue.url, PATIENCE, "bucket/studio/", "")
    assert first_event(waiting).payload == {"objects": 2}
    assert queue.left() == 0


RECORD = {"eventName": "s3:ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": {"key": "a%20b/c+d.jsonl"}}}


@pytest.mark.parametrize(
    ("body", "objects"),
    [
        (json.dumps({"Records": [RECORD]}), ["b/a b/c d.jsonl"]),
        (json.dumps({"Type": "Notification", "Message": json.dumps({"Records": [RECORD]})}), ["b/a b/c d.jsonl"]),
        (json.dumps({"detail-type": "Object Created", "detail": {"bucket": {"name": "b"}, "object": {"key": "k"}}}),
         ["b/k"]),
        (json.dumps({"Event": "s3:TestEvent"}), []),
        (json.dumps({"Records": [RECORD | {"eventName": "ObjectRemoved:Delete"}]}), []),
        ("hello", None), ("[]", None), ("null", None), ('{"Records": 3}', None), ('{"Records": [{}]}', None),
        ('{"Message": "hello"}', None), ('{"detail": []}', None),
    ],
)  # fmt: skip
def test_the_objects_of_a_notification(body: str, objects: list[str] | None) -> None:
    assert objects_of(body) == objects


SCHEDULES = """
import sys
sys.path[:0] = [{repository!r}]
from inpaint_ops_airflow.schedules import cron_and_arrivals
print(repr(cron_and_arrivals("INPAINT_INBOX_SCHEDULE", "*/5 * * * *")))
print("triggers:", "airflow.triggers.base" in sys.modules)
"""


def printed(tmp_path: Path, **settings: str) -> str:
    environment = {"AIRFLOW_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)} | settings
    done = subprocess.run(
        [sys.executable, "-c", SCHEDULES.format(repository=str(REPOSITORY))],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_queue_a_schedule_is_its_cron_and_nothing_of_triggers_is_imported(tmp_path: Path) -> None:
    """Each task of the DAG would wait for that import."""
    assert printed(tmp_path) == "'*/5 * * * *'\ntriggers: False\n"


def test_with_a_queue_a_schedule_has_arrivals_beside_its_cron(tmp_path: Path) -> None:
    found = printed(tmp_path, INPAINT_ARRIVALS_QUEUE="https://sqs.eu-west-1.amazonaws.com/1/q", INPAINT_STORE="s3://b")
    assert "AssetOrTimeSchedule" in found


@pytest.mark.parametrize("quiet", ["soon", "0", "-1", "nan", "1e9"])
def test_a_quiet_time_that_is_none_is_named(quiet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INPAINT_ARRIVALS_QUEUE", "https://x/q")
    monkeypatch.setenv("INPAINT_ARRIVALS_QUIET", quiet)
    with pytest.raises(ValueError, match=f"INPAINT_ARRIVALS_QUIET is '{quiet}': write seconds, more than 0"):
        cron_and_arrivals("INPAINT_INBOX_SCHEDULE", "@daily")
