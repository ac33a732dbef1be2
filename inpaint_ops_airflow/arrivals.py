"""Starting by an event: the store's notifications go to an SQS queue, and a trigger of Airflow's waits for them.

A message says that something has come, and no more is believed of it: what has come is found by listing, as at each
time of the DAGs' schedules. So a lost message costs time, and one that comes twice costs a look.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_plus, urlsplit

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from inpaint_ops_airflow.workspace import CONNECTION_VARIABLE

MOST_QUIETS = 15
"""Quiet times for which an arrival is put off at most, however many messages keep coming."""

RETRY = 30.0
"""Seconds until a queue that did not answer is asked again."""

_BATCH = 10
"""Messages of one answer: SQS's limit."""
_WAIT = 20
"""Seconds for which the queue waits for a message before it answers with none: SQS's limit."""


class ArrivalsTrigger(BaseEventTrigger):
    """One event for each burst of messages in the queue at the URL `queue`.

    Messages are deleted as they are received. Those that only tell of objects below `own` (`bucket/prefix/`, what this
    program writes by itself), and not below `inbox`, are no arrivals: a run's images would start the next look.
    """

    def __init__(self, queue: str, quiet: float, own: str, inbox: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.queue, self.quiet, self.own, self.inbox = queue, quiet, own, inbox

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What the triggerer makes it from."""
        return (
            "inpaint_ops_airflow.arrivals.ArrivalsTrigger",
            {"queue": self.queue, "quiet": self.quiet, "own": self.own, "inbox": self.inbox},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Never ends by itself. A queue that does not answer is asked again, with a line in the triggerer's log."""
        while True:
            try:
                came = await self._burst()
            except Exception as error:  # whatever the SDK raises: the DAGs' schedules go on beside this
                self._failed(error)
                await asyncio.sleep(RETRY)
                continue
            if came:
                self.log.info("%d objects have come", came)
                yield TriggerEvent({"objects": came})  # type: ignore[no-untyped-call]

    async def _burst(self) -> int:
        """Objects that came, once `quiet` seconds have passed without another; 0: nothing came for a while.

        Raises what the SDK raises, as long as nothing has come: the messages of what came are deleted.
        """
        came = await asyncio.to_thread(self._receive, _WAIT)
        if not came:
            return 0
        loop = asyncio.get_running_loop()
        last = loop.time()
        until = last + MOST_QUIETS * self.quiet
        while (now := loop.time()) < min(last + self.quiet, until):
            try:
                more = await asyncio.to_thread(self._receive, max(0, min(_WAIT, round(last + self.quiet - now))))
            except Exception as error:  # whatever the SDK raises: what came before it is an event now
                self._failed(error)
                return came
            if more:
                came, last = came + more, loop.time()
            else:
                await asyncio.sleep(min(1.0, self.quiet / 4))
        return came

    def _failed(self, error: Exception) -> None:
        self.log.warning("the queue %s does not answer: %s", self.queue, str(error)[:500])
        _client.cache_clear()  # the connection's keys may have been changed

    def _receive(self, seconds: int) -> int:
        """How many arrivals one answer of the queue tells of, after `seconds` at most. Its messages are deleted."""
        client = _client(self.queue)
        answer = client.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=_BATCH, WaitTimeSeconds=seconds)
        messages = answer.get("Messages", [])
        if messages:
            entries = [
                {"Id": str(number), "ReceiptHandle": one["ReceiptHandle"]} for number, one in enumerate(messages)
            ]
            client.delete_message_batch(QueueUrl=self.queue, Entries=entries)
        return sum(self._counts(one["Body"]) for one in messages)

    def _counts(self, body: str) -> int:
        places = objects_of(body)
        if places is None:
            return 1  # no notification that is known: look, at the worst in vain
        return sum(
            not place.startswith(self.own) or (bool(self.inbox) and place.startswith(self.inbox)) for place in places
        )


def objects_of(body: str) -> Sequence[str] | None:
    """The objects (`bucket/key`) that a notification tells of as created: of S3 itself, by SNS, or of EventBridge.

    None: it is no such notification.
    """
    try:
        message = json.loads(body)
        if isinstance(message, dict) and isinstance(message.get("Message"), str):
            message = json.loads(message["Message"])
        if message.get("Event") == "s3:TestEvent":
            return []
        if "detail" in message:
            return [f"{message['detail']['bucket']['name']}/{message['detail']['object']['key']}"]
        return list(_created(message["Records"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _created(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    for record in records:
        if "ObjectRemoved" not in record.get("eventName", ""):
            yield f"{record['s3']['bucket']['name']}/{unquote_plus(record['s3']['object']['key'])}"


@lru_cache(maxsize=4)
def _client(queue: str) -> Any:
    """A client of the server that the queue's URL names, whatever endpoint the store has.

    The credentials are those of the connection that INPAINT_S3_CONN_ID names, else the SDK's own.
    """
    from botocore.config import Config

    url = urlsplit(queue)
    parts = (url.hostname or "").split(".")
    region = parts[1] if len(parts) > 2 and parts[0] == "sqs" else None
    config = Config(read_timeout=_WAIT + 20, connect_timeout=10, retries={"mode": "standard", "total_max_attempts": 3})
    session = _session()
    return session.client(
        "sqs", endpoint_url=f"{url.scheme}://{url.netloc}", region_name=region or session.region_name or "us-east-1",
        config=config,
    )  # fmt: skip


def _session() -> Any:
    connection = os.environ.get(CONNECTION_VARIABLE, "")
    if not connection:
        import boto3

        return boto3.session.Session()
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

    return AwsGenericHook(aws_conn_id=connection, client_type="sqs").get_session()
